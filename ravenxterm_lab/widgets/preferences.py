"""The person's preferences as controls: checked while one types, applied on demand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from ravenxterm_lab.exceptions import PreferenceError
from ravenxterm_lab.preferences import AccuracyPreference, PerformancePreference, UserPreferences
from ravenxterm_lab.units import format_bytes, format_number
from ravenxterm_lab.widgets.look import escape, note, status, table
from ravenxterm_lab.widgets.panel import Panel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ravenxterm_lab.models import ModelManager
    from ravenxterm_lab.models.messages import Message

__all__ = ["PreferencesPanel"]

_GIB = 2**30


class PreferencesPanel(Panel):
    """Every field of `UserPreferences`, with apply, undo, the difference, and the Python line.

    What is typed is checked at once, and nothing holds before *Apply*. Preferences that change
    elsewhere show here too; an edit that was not applied yet is kept.

    Parameters
    ----------
    manager : ModelManager
        Whose preferences they are.

    Attributes
    ----------
    controls : dict of str to Widget
        The control of each field, by the field's name.

    Examples
    --------
    >>> import tempfile
    >>> from ravenxterm_lab import ModelManager
    >>> panel = PreferencesPanel(ModelManager(home=tempfile.mkdtemp(), models_dir=[]))
    >>> panel.controls["performance_mode"].value = "speed"
    >>> panel.python
    "manager.update_preferences(performance_mode='speed')"
    """

    def __init__(self, manager: ModelManager) -> None:
        self._shown = manager.preferences
        self._memory = manager.registry.hardware_profile.total_memory
        self._applied: list[dict[str, Any]] = []
        self._callbacks: list[Callable[[UserPreferences], None]] = []
        self._filling = False
        self.controls = _controls()
        self._hint = widgets.HTML()
        self._state = widgets.HTML()
        self._difference = widgets.HTML()
        self._apply = _button("Apply", "Check, save, and use these preferences", "check")
        self._undo = _button("Undo", "Go back to what was in force before the last Apply", "undo")
        self._discard = _button("Discard edits", "Show again what is in force", "times")
        self._apply.button_style = "primary"
        fields = list(self.controls.values())
        super().__init__(
            manager,
            [
                widgets.HTML("<h3>Preferences</h3>"),
                *fields[:3],
                self._hint,
                *fields[3:],
                widgets.HBox(
                    [self._apply, self._undo, self._discard], layout={"flex_flow": "row wrap"}
                ),
                self._state,
                self._difference,
            ],
        )
        self._fill(self.controls)
        for control in fields:
            control.observe(self._edited, "value")
        self._apply.on_click(lambda _: self.apply())
        self._undo.on_click(lambda _: self.undo())
        self._discard.on_click(lambda _: self.discard())
        self._listen("preferences", self.refresh)
        self._check()

    # -- what it says --------------------------------------------------------------------------

    @property
    def draft(self) -> UserPreferences:
        """The preferences as the controls have them.

        Raises
        ------
        PreferenceError
            If a control holds what is not allowed; it names the field, the value and what is.
        """
        return UserPreferences(**self._read())

    @property
    def changes(self) -> dict[str, Any]:
        """The edits that were not applied yet, as plain values by field.

        Raises
        ------
        PreferenceError
            As for ``draft``.
        """
        return {name: new for name, (_, new) in self._shown.diff(self.draft).items()}

    @property
    def python(self) -> str:
        """The Python that does the same: the edits, or without any, what is in force.

        Raises
        ------
        PreferenceError
            As for ``draft``.
        """
        changes = self.changes
        if not changes:
            difference = UserPreferences.get_defaults().diff(self._shown)
            changes = {name: here for name, (_, here) in difference.items()}
        shown = ", ".join(f"{name}={value!r}" for name, value in changes.items())
        return f"manager.update_preferences({shown})" if shown else "manager.preferences"

    @property
    def summary(self) -> str:
        """What is in force, and whether something was edited, in one sentence."""
        now = self._shown
        text = (
            f"Preferences: mode {now.performance_mode.value}, "
            f"accuracy {now.accuracy_preference.value}, "
            f"{now.max_memory_usage:.0%} of the memory, "
            f"devices {', '.join(device.value for device in now.preferred_devices)}"
        )
        try:
            count = len(self.changes)
        except PreferenceError as error:
            return f"{text}; the edits cannot be applied: {error}"
        return f"{text}; {count} not applied." if count else f"{text}."

    # -- what it does --------------------------------------------------------------------------

    def on_change(self, callback: Callable[[UserPreferences], None]) -> None:
        """Call ``callback(preferences)`` after every change that this panel makes."""
        self._callbacks.append(callback)

    def apply(self) -> None:
        """Apply the edits; what is not valid is said beside the controls, and changes nothing."""
        try:
            changes = self.changes
        except PreferenceError:
            self._check()
            return
        if changes:
            plain = self.manager.preferences.model_dump(mode="json")
            self._applied.append({name: plain[name] for name in changes})
            if not self._change(changes, "Applied and saved."):
                self._applied.pop()

    def undo(self) -> None:
        """Give the fields of the last change that was made here their values before it."""
        if self._applied:
            self._change(self._applied.pop(), "Undone and saved.")

    def discard(self) -> None:
        """Drop the edits."""
        self._shown = self.manager.preferences
        self._fill(self.controls)
        self._check()

    def refresh(self) -> None:
        """Show what is in force now; edits that were not applied are kept."""
        was, now = self._shown, self.manager.preferences
        self._shown = now
        # An edited control no longer shows what was in force, and is left alone.
        before = _values(was)
        self._fill([name for name in was.diff(now) if self.controls[name].value == before[name]])
        self._check()

    def _change(self, changes: dict[str, Any], done: str) -> bool:
        before = self._unsaved()
        try:
            now = self.manager.update_preferences(**changes)
        except PreferenceError as error:
            self._state.value = status(str(error), error=True)
            return False
        self._board.look(self.manager)
        self._fill(changes)
        self._check()
        said = self._unsaved()
        self._state.value = (
            status(done) if said is before or said is None else status(said.text, error=True)
        )
        for callback in tuple(self._callbacks):
            callback(now)
        return True

    def _unsaved(self) -> Message | None:
        """Return the last message that says why preferences were not saved."""
        about = [item for item in self.manager.messages if item.subject == "preferences"]
        return about[-1] if about else None

    def _edited(self, _change: object) -> None:
        if not self._filling:
            self._check()

    def _fill(self, names: Iterable[str]) -> None:
        values = _values(self._shown)
        self._filling = True
        for name in names:
            self.controls[name].value = values[name]
        self._filling = False

    def _read(self) -> dict[str, Any]:
        given = {name: control.value for name, control in self.controls.items()}
        given["preferred_devices"] = [
            word.strip() for word in given["preferred_devices"].split(",") if word.strip()
        ]
        unwritable = {
            name: weight
            for name, weight in self._shown.model_weights.items()
            if not _fits_a_line(name)
        }
        given["model_weights"] = {**unwritable, **_parse_weights(given["model_weights"])}
        size = given["auto_cleanup_threshold_bytes"] * _GIB
        given["auto_cleanup_threshold_bytes"] = round(size) if math.isfinite(size) else size
        return given

    def _check(self) -> None:
        """Say whether the draft could be applied, and what would change."""
        self._undo.disabled = not self._applied
        try:
            draft, changes, line = self.draft, self.changes, self.python
        except PreferenceError as error:
            self._apply.disabled = True
            self._discard.disabled = False
            self._state.value = status(str(error), error=True)
            self._hint.value = self._difference.value = ""
            return
        self._hint.value = note(
            f"{draft.max_memory_usage:g} × {format_bytes(self._memory)} = "
            f"{format_bytes(draft.max_memory_usage * self._memory)} for loaded models"
        )
        self._apply.disabled = self._discard.disabled = not changes
        edits = f"{format_number(len(changes), 'edit')}, not applied yet."
        self._state.value = status(edits if changes else "In force; nothing is edited.")
        self._difference.value = _difference(self._shown.diff(draft)) + _code(line)


def _controls() -> dict[str, Any]:
    style = {"description_width": "108px"}
    wide = {"width": "auto", "max_width": "640px"}

    def number(label: str, step: float, tooltip: str) -> widgets.FloatText:
        # Not the bounded kind, which would change what one typed without a word.
        return widgets.FloatText(
            description=label,
            step=step,
            tooltip=tooltip,
            continuous_update=True,
            style=style,
            layout=wide,
        )

    return {
        "performance_mode": widgets.RadioButtons(
            options=[mode.value for mode in PerformancePreference],
            description="mode",
            orientation="horizontal",
            tooltip="What to favour when models differ",
            style=style,
            layout=wide,
        ),
        "accuracy_preference": widgets.Dropdown(
            options=[level.value for level in AccuracyPreference],
            description="accuracy",
            tooltip="How much measured quality weighs against everything else",
            style=style,
            layout=wide,
        ),
        "max_memory_usage": number(
            "memory share", 0.05, "Share of the memory that loaded models may take, 0.05 to 1"
        ),
        "preferred_devices": widgets.Text(
            description="devices",
            placeholder="cuda, cpu",
            tooltip="Tried in this order, separated by commas",
            style=style,
            layout=wide,
        ),
        "enable_adaptive_selection": widgets.Checkbox(
            description="learn from history",
            indent=False,
            tooltip="Off: rank from priors and hard facts alone",
            layout={"width": "auto", "margin": "2px 2px 2px 116px"},
        ),
        "model_weights": widgets.Textarea(
            description="model weights",
            placeholder="model name = 1.5",
            tooltip="A multiplier on a model's score, one model a line",
            rows=2,
            style=style,
            layout=wide,
        ),
        "auto_cleanup_threshold_bytes": number(
            "caches (GiB)", 0.5, "cleanup_resources() prunes caches above this size"
        ),
        "keep_alive_seconds": number(
            "keep loaded (s)", 30, "An idle model is unloaded after this long"
        ),
        "history_window_days": number(
            "history (days)", 1, "How far back the views of the history look"
        ),
    }


def _values(preferences: UserPreferences) -> dict[str, Any]:
    """Return what each control shows for these preferences."""
    plain = preferences.model_dump(mode="json")
    lines = [
        f"{name} = {weight:g}" if float(f"{weight:g}") == weight else f"{name} = {weight!r}"
        for name, weight in plain["model_weights"].items()
        if _fits_a_line(name)
    ]
    return {
        **plain,
        "preferred_devices": ", ".join(plain["preferred_devices"]),
        "model_weights": "\n".join(lines),
        "auto_cleanup_threshold_bytes": plain["auto_cleanup_threshold_bytes"] / _GIB,
    }


def _fits_a_line(name: str) -> bool:
    return name == name.strip() and len(name.splitlines()) == 1


def _parse_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        # A name may hold an equals sign; a number may not.
        name, _, value = line.rpartition("=")
        name = name.strip()
        try:
            weights[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise PreferenceError(f"model_weights={line!r}: write a line as: model name = 1.5")
    return weights


def _difference(changes: dict[str, tuple[Any, Any]]) -> str:
    if not changes:
        return ""
    rows = [
        [escape(name), escape(_plain(here)), escape(_plain(there))]
        for name, (here, there) in changes.items()
    ]
    return table("What Apply would change", ["field", "in force", "new"], rows)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} = {weight:g}" for name, weight in value.items()) or "none"
    return str(value)


def _code(line: str) -> str:
    rows = min(-(-len(line) // 36), 6)
    # Read-only, so that it can be reached by keyboard, selected whole, and copied.
    return (
        '<div class="raven-dim">The same in Python, to copy:</div>'
        f'<textarea class="raven-code" readonly rows="{rows}" onfocus="this.select()" '
        f'aria-label="The same in Python">{escape(line)}</textarea>'
    )


def _button(label: str, tooltip: str, icon: str) -> widgets.Button:
    return widgets.Button(description=label, tooltip=tooltip, icon=icon, layout={"width": "auto"})
