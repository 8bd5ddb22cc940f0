"""The numbered SQL files that make and change the schema."""

__all__: list[str] = []
