"""What the manager says of its past: decided again under other preferences, hardware, policies."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import PreferenceError, RequirementError
from ravenxterm_lab.hardware import HardwareProfile
from ravenxterm_lab.models.replay_candidates import Setting
from ravenxterm_lab.models.replay_log import DECISIONS_SQL, read_events, read_log
from ravenxterm_lab.models.replay_report import Replay, rows_of
from ravenxterm_lab.preferences import UserPreferences
from ravenxterm_lab.requirements import normalize_task
from ravenxterm_lab.selection.off_policy import FEW_OUTCOMES
from ravenxterm_lab.selection.replay import redecide
from ravenxterm_lab.selection.replay_policies import Policy, policy_named
from ravenxterm_lab.selection.valuing import Comparison, compare

if TYPE_CHECKING:
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["Replaying"]


class Replaying:
    """The part of `ModelManager` that replays."""

    _bench: Workbench
    _preferences: UserPreferences
    registry: ModelRegistry

    def replay(
        self,
        *,
        preferences: UserPreferences | Mapping[str, Any] | None = None,
        hardware: HardwareProfile | str | None = None,
        policy: str | Policy = "adaptive",
        since: datetime | date | timedelta | str | float | None = None,
        task: str | None = None,
        progress: bool = True,
    ) -> Replay:
        """Decide past selections again, each with what was known at its time.

        Without arguments nothing is different, and the same models are chosen but for a few near
        ties: what was measured is weighed by its age to the hour.

        Parameters
        ----------
        preferences : UserPreferences or mapping, optional
            To decide under, such as ``{"performance_mode": "speed"}``: a mapping changes those
            that were in force at each decision.
        hardware : HardwareProfile or str, optional
            Another machine, such as ``"RTX 4090 24GB, 64 GiB RAM"``: memory and speed are
            estimated for it by formula, and only runs on such a machine count as measured.
        policy : str or callable
            ``"adaptive"`` (as the product decides), ``"static"`` (predictions alone),
            ``"last-10"`` (best mean of the last 10 executions), ``"thompson"`` (by the
            probability of being best), or a function of a
            `ravenxterm_lab.selection.replay_policies.Moment` that returns the name of a candidate.
        since : datetime, date, timedelta, str or number, optional
            A moment (ISO 8601 as text; UTC unless it says otherwise), or how far back (days as
            a number); by default the preferences' ``history_window_days``.
        task : str, optional
            Only decisions for this one.
        progress : bool
            Show a progress bar when it takes more than a second.

        Returns
        -------
        Replay
            A row a decision, then and now and why; what both are worth on the mean, with 95%
            intervals; ``.data()``, ``.summary``, ``.sql``, and ``plots.replay`` draws it.

        Raises
        ------
        PreferenceError
            On an unknown preference or a bad value.
        HardwareError
            If the description of the machine names a part that is not known.
        RequirementError
            On an unknown policy or task, a bad ``since``, or a policy that answers nonsense.
        StoreError
            If the store cannot be read.

        Notes
        -----
        Which models were loaded is as it was, and what the other choices would have taught is
        not simulated. Constraints other than memory, devices and the limits on latency,
        throughput and quality are as they were found then.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab.models import ModelManager
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> manager.replay(preferences={"performance_mode": "speed"}).changed
        0
        """
        from tqdm.auto import tqdm

        change = _change(preferences)
        machine = HardwareProfile.simulate(hardware) if isinstance(hardware, str) else hardware
        name, decider = policy_named(policy)
        days = self._preferences.history_window_days
        begin = _moment(days if since is None else since, datetime.fromisoformat(self._bench.now()))
        wanted = None if task is None else normalize_task(task)
        here = self._bench.hardware
        setting = Setting(here, machine, self.registry.candidates, change)
        log = read_log(self._bench.store, setting, begin, wanted)
        events = []
        if log.decisions:
            events = read_events(self._bench.store, (machine or here).fingerprint)
        made = list(
            tqdm(
                redecide(log.decisions, events, decider),
                desc="Replay", total=len(log.decisions), unit="decision",
                delay=1.0, disable=not progress,
            )
        )  # fmt: skip
        comparison = compare(made, events, outcomes_count=machine is None)
        return Replay(
            policy=name,
            setting=_in_words(preferences, hardware),
            since=begin,
            rows=rows_of(made, comparison, name),
            comparison=comparison,
            notes=(*log.notes, *_notes(comparison, simulated=machine is not None)),
            sql=DECISIONS_SQL,
            next_step="" if made else self.registry.next_step,
        )


def _change(preferences: UserPreferences | Mapping[str, Any] | None) -> Any:
    """Return what turns the preferences of then into those to decide under."""
    if preferences is None:
        return lambda then: then
    if isinstance(preferences, UserPreferences):
        return lambda _: preferences
    if not isinstance(preferences, Mapping):
        raise PreferenceError(
            "preferences must be UserPreferences or a mapping such as "
            f"{{'performance_mode': 'speed'}}, got {preferences!r:.80}."
        )
    changes = dict(preferences)
    UserPreferences(**changes)  # refused here, not at the first decision
    return lambda then: then.updated(**changes)


def _moment(since: object, now: datetime) -> datetime:
    """Return when to begin, in UTC without a zone."""
    if isinstance(since, str):
        try:
            since = datetime.fromisoformat(since)
        except ValueError:
            raise RequirementError(
                f"since={since!r} is no moment; write it as '2026-10-01' or '2026-10-01T08:00'."
            ) from None
    if isinstance(since, datetime):
        return since.astimezone(UTC).replace(tzinfo=None) if since.tzinfo else since
    if isinstance(since, date):
        return datetime(since.year, since.month, since.day)  # noqa: DTZ001 - UTC, as the store's
    if type(since) in (int, float) and 0 < since < 1e5:  # type: ignore[operator]
        since = timedelta(days=since)  # type: ignore[arg-type]
    if isinstance(since, timedelta) and since > timedelta(0):
        return now - since
    raise RequirementError(
        f"since must be a moment, or how far back (days, or a timedelta), got {since!r:.80}."
    )


def _in_words(
    preferences: UserPreferences | Mapping[str, Any] | None, hardware: HardwareProfile | str | None
) -> str:
    parts = []
    if isinstance(preferences, UserPreferences):
        changed = UserPreferences.get_defaults().diff(preferences)
        shown = ", ".join(f"{key}={new}" for key, (_, new) in changed.items())
        parts.append(shown or "default preferences")
    elif preferences is not None:
        parts.append(", ".join(f"{key}={value}" for key, value in preferences.items()))
    if hardware is not None:
        machine = hardware if isinstance(hardware, str) else hardware.cpu_name
        parts.append(f"on {machine or 'another machine'}")
    return " · ".join(part for part in parts if part)


def _notes(comparison: Comparison, *, simulated: bool) -> list[str]:
    if not comparison.means:
        return []
    weighed, now = comparison.snips, comparison.means["utility"][1]
    note = ""
    if simulated:
        note = "Nothing was measured on that machine: its speeds are formulas with wide intervals."
    elif weighed is None or comparison.effective < FEW_OUTCOMES:
        note = (
            f"The outcomes that were seen count for {comparison.effective:.1f} in effect: too few "
            "to check the estimate by weighing them (SNIPS)."
        )
    elif weighed.low > now.high or weighed.high < now.low:
        note = (
            f"Weighing the outcomes (SNIPS) gives another utility, {weighed.value:.3f} "
            f"({weighed.low:.3f} to {weighed.high:.3f}): something that the models of quality and "
            "speed do not know of matters here."
        )
    return [note] if note else []
