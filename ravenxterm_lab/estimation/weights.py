"""The bytes of the weights: all of them, and those that one decoded token reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ravenxterm_lab.metadata import ModelMetadata

__all__ = ["active_bytes"]


def active_bytes(model: ModelMetadata) -> int:
    """Return the bytes of weights that one decoded token reads.

    Every layer and the output head; of the input embeddings one row, unless the token embedding
    is the output head as well; of the routed experts those in use. Where the layout of the
    weights is not known: all tensors times active by total parameters.

    Parameters
    ----------
    model : ModelMetadata
        The model.

    Examples
    --------
    >>> from pathlib import Path
    >>> from ravenxterm_lab.metadata import ModelMetadata, ModelType, WeightLayout
    >>> layout = WeightLayout(input_bytes=100, layer_bytes=(1000, 1000), output_bytes=110,
    ...                       embedding_bytes=100, head_bytes=100, expert_bytes=(800, 800),
    ...                       experts=(8, 2))
    >>> active_bytes(ModelMetadata("m", ModelType.GGUF, Path("m"), 2300, weight_layout=layout))
    910
    """
    layout = model.weight_layout
    if layout is None:
        weights = sum(model.tensor_bytes.values()) or model.size_bytes
        if model.active_parameter_count and model.parameter_count:
            return weights * model.active_parameter_count // model.parameter_count
        return weights
    total = sum(layout.layer_bytes) + layout.output_bytes
    if layout.tied:
        total += layout.embedding_bytes
    if layout.experts is not None:
        count, used = layout.experts
        routed = sum(layout.expert_bytes)
        total -= routed - routed * used // count
    return total
