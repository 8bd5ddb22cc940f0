"""What the manager says of fallbacks: the whole plan for a task, before anything is tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import RequirementError
from ravenxterm_lab.models.running import Request, make_planner
from ravenxterm_lab.models.selector import Selection
from ravenxterm_lab.requirements import TaskRequirements

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ravenxterm_lab.models.fallback import FallbackPlan
    from ravenxterm_lab.models.registry import ModelRegistry
    from ravenxterm_lab.models.selector import AdaptiveModelSelector
    from ravenxterm_lab.models.workbench import Workbench

__all__ = ["Planning", "task_requirements"]


class Planning:
    """The part of `ModelManager` that says what would be tried."""

    _bench: Workbench
    registry: ModelRegistry
    selector: AdaptiveModelSelector

    def plan(
        self,
        task_type: str,
        inputs: Any = None,
        requirements: Mapping[str, Any] | TaskRequirements | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
    ) -> FallbackPlan:
        """Say what `run` would try in which order; nothing is run or recorded.

        Parameters
        ----------
        task_type, inputs, requirements, parameters
            As for `run`; without inputs, the context may shrink to what the answer needs.

        Returns
        -------
        FallbackPlan
            Every step of every candidate: its settings, what it will take (bytes), and why it
            would not be tried, if so.

        Raises
        ------
        RequirementError
            On an unknown task or requirement.

        Examples
        --------
        >>> import tempfile
        >>> from ravenxterm_lab.models import ModelManager
        >>> manager = ModelManager(home=tempfile.mkdtemp(), models_dir=tempfile.mkdtemp())
        >>> len(manager.plan("text_generation"))
        0
        """
        wanted = task_requirements(task_type, requirements, "plan")
        models = list(self.registry.available_models.values())
        ranked, options = self.selector.candidates(models, wanted)
        request = Request(inputs, parameters)
        return make_planner(self._bench, Selection(ranked, options), wanted, request).plan()


def task_requirements(
    task_type: str, requirements: Mapping[str, Any] | TaskRequirements | None, caller: str
) -> TaskRequirements:
    """Return the requirements with their task; an error names the caller if there is none."""
    wanted = TaskRequirements.parse(requirements, task_type)
    if wanted.task_type is None:
        # Without a task, models of other tasks would be tried, and their failures kept.
        raise RequirementError(f"{caller} needs a task_type, such as 'text_generation'.")
    return wanted
