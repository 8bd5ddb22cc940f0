"""What a task asks of a model: checked names, checked values, nothing silently dropped."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from numbers import Real
from typing import Any

from ravenxterm_lab.exceptions import RequirementError, did_you_mean
from ravenxterm_lab.metadata import HardwareType, ModelType

__all__ = ["TASKS", "TaskRequirements", "normalize_task"]

#: Known tasks: our name, and the Hugging Face pipeline tag where it is spelt differently.
TASKS: dict[str, str] = {
    "text_generation": "text-generation",
    "embedding": "feature-extraction",
    "text_classification": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "translation": "translation",
    "summarization": "summarization",
    "fill_mask": "fill-mask",
    "reranking": "text-ranking",
    "image_text_to_text": "image-text-to-text",
    "image_classification": "image-classification",
    "object_detection": "object-detection",
    "text_to_image": "text-to-image",
    "automatic_speech_recognition": "automatic-speech-recognition",
    "text_to_speech": "text-to-speech",
    "voice_activity_detection": "voice-activity-detection",
    "audio_classification": "audio-classification",
    "language_identification": "language-identification",
    "file_type": "file-type",
    "ocr": "image-to-text",
    "any_to_any": "any-to-any",
    "audio_text_to_text": "audio-text-to-text",
    "audio_to_audio": "audio-to-audio",
    "depth_estimation": "depth-estimation",
    "document_question_answering": "document-question-answering",
    "graph_ml": "graph-ml",
    "image_segmentation": "image-segmentation",
    "image_text_to_image": "image-text-to-image",
    "image_text_to_video": "image-text-to-video",
    "image_to_3d": "image-to-3d",
    "image_to_image": "image-to-image",
    "image_to_video": "image-to-video",
    "image_feature_extraction": "image-feature-extraction",
    "keypoint_detection": "keypoint-detection",
    "mask_generation": "mask-generation",
    "multiple_choice": "multiple-choice",
    "reinforcement_learning": "reinforcement-learning",
    "robotics": "robotics",
    "table_question_answering": "table-question-answering",
    "tabular_classification": "tabular-classification",
    "tabular_regression": "tabular-regression",
    "text_retrieval": "text-retrieval",
    "text_to_3d": "text-to-3d",
    "text_to_audio": "text-to-audio",
    "text_to_video": "text-to-video",
    "time_series_forecasting": "time-series-forecasting",
    "unconditional_image_generation": "unconditional-image-generation",
    "video_classification": "video-classification",
    "video_text_to_text": "video-text-to-text",
    "video_to_video": "video-to-video",
    "visual_document_retrieval": "visual-document-retrieval",
    "visual_question_answering": "visual-question-answering",
    "zero_shot_classification": "zero-shot-classification",
    "zero_shot_image_classification": "zero-shot-image-classification",
    "zero_shot_object_detection": "zero-shot-object-detection",
}
_ALIASES = {
    "feature_extraction": "embedding",
    "sentence_similarity": "embedding",
    "embeddings": "embedding",
    "text_ranking": "reranking",
    "image_to_text": "ocr",
    "text2text_generation": "text_generation",
    "chat": "text_generation",
    "conversational": "text_generation",
}


def normalize_task(task: str) -> str:
    """Return our name for a task; the Hugging Face spelling is accepted too.

    Parameters
    ----------
    task : str
        Such as ``"text_generation"`` or ``"text-generation"``.

    Raises
    ------
    RequirementError
        If the task is not known; the message suggests the nearest.

    Examples
    --------
    >>> normalize_task("text-generation"), normalize_task("feature-extraction")
    ('text_generation', 'embedding')
    """
    if not isinstance(task, str):
        raise RequirementError(f"task_type must be a string, got {task!r}.")
    key = task.strip().lower().replace("-", "_").replace(" ", "_")
    key = _ALIASES.get(key, key)
    if key not in TASKS:
        raise RequirementError(f"Unknown task {task!r}.{did_you_mean(key, TASKS)}")
    return key


@dataclass(frozen=True, slots=True)
class TaskRequirements:
    """Hard constraints. A field left at None constrains nothing.

    Attributes
    ----------
    max_size_bytes : int
        Size on disk, at most (bytes).
    requires_batching : bool
        The runtime must batch.
    required_hardware : tuple of HardwareType
        The model must be able to run on one of these here.
    task_type : str
        A name from ``TASKS``.
    min_context_length : int
        Tokens that the model must accept.
    max_memory_bytes : int
        Predicted or measured memory when loaded, at most (bytes).
    model_types : tuple of ModelType
        Allowed formats.
    quantizations : tuple of str
        Allowed quantizations, without regard to case.
    max_latency : float
        Predicted or measured seconds for a typical execution, at most.
    min_throughput : float
        Predicted or measured tokens (or items) per second, at least.
    min_quality : float
        Measured quality (0–1), at least; a model that was never measured does not pass.
    license : tuple of str
        Allowed licenses, without regard to case.
    """

    max_size_bytes: int | None = None
    requires_batching: bool | None = None
    required_hardware: tuple[HardwareType, ...] | None = None
    task_type: str | None = None
    min_context_length: int | None = None
    max_memory_bytes: int | None = None
    model_types: tuple[ModelType, ...] | None = None
    quantizations: tuple[str, ...] | None = None
    max_latency: float | None = None
    min_throughput: float | None = None
    min_quality: float | None = None
    license: tuple[str, ...] | None = None

    @classmethod
    def parse(
        cls, requirements: Mapping[str, Any] | TaskRequirements | None, task_type: str | None = None
    ) -> TaskRequirements:
        """Check a mapping of requirements and return it as one object.

        Parameters
        ----------
        requirements : mapping, TaskRequirements or None
            The keys are the fields of this class.
        task_type : str, optional
            Stands in for the ``task_type`` key.

        Raises
        ------
        RequirementError
            On what is no mapping, an unknown key (with a suggestion), a value of the wrong
            kind, or two different task types.
        """
        if isinstance(requirements, TaskRequirements):
            given = {f.name: getattr(requirements, f.name) for f in fields(cls)}
        elif requirements is None or isinstance(requirements, Mapping):
            given = dict(requirements or {})
        else:
            raise RequirementError(
                f"The requirements must be a mapping such as {{'max_size_bytes': 4 * 1024**3}}, "
                f"got {requirements!r}."
            )
        known = {f.name for f in fields(cls)}
        for key in given:
            if key not in known:
                raise RequirementError(
                    f"Unknown requirement {key!r}.{did_you_mean(str(key), known)}"
                )
        if task_type is not None:
            wanted = normalize_task(task_type)
            other = given.get("task_type")
            if other is not None and normalize_task(other) != wanted:
                raise RequirementError(
                    f"The task is {wanted!r}, but the requirements say "
                    f"task_type={other!r}. Give one of the two."
                )
            given["task_type"] = wanted
        return cls(**{key: _check(key, value) for key, value in given.items() if value is not None})

    def as_dict(self) -> dict[str, Any]:
        """Return the constraints that are set, as plain JSON values."""
        return {
            f.name: _plain(value)
            for f in fields(self)
            if (value := getattr(self, f.name)) is not None
        }


_WHOLE = {"max_size_bytes", "min_context_length", "max_memory_bytes"}
_REAL = {"max_latency", "min_throughput", "min_quality"}
_LISTS: dict[str, type[Enum | str]] = {
    "required_hardware": HardwareType,
    "model_types": ModelType,
    "quantizations": str,
    "license": str,
}


def _check(key: str, value: Any) -> Any:
    if key == "task_type":
        return normalize_task(value)
    if key == "requires_batching":
        if not isinstance(value, bool):
            raise RequirementError(f"requires_batching must be True or False, got {value!r}.")
        return value
    if key in _LISTS:
        return _check_list(key, value, _LISTS[key])
    if not _is_finite_number(value):
        raise RequirementError(f"{key} must be a finite number, got {value!r}.")
    if value < 0 or (key == "min_quality" and value > 1):
        allowed = "between 0 and 1" if key == "min_quality" else "0 or more"
        raise RequirementError(f"{key} must be {allowed}, got {value!r}.")
    if key in _WHOLE:
        if value != int(value):
            raise RequirementError(f"{key} must be a whole number, got {value!r}.")
        return int(value)
    return float(value)


def _is_finite_number(value: Any) -> bool:
    # Real takes in numpy's numbers, which come out of any data frame.
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _check_list(key: str, value: Any, kind: type[Enum | str]) -> tuple[Any, ...]:
    items = [value] if isinstance(value, (str, Enum)) else value
    try:
        items = list(items)
    except TypeError:
        raise RequirementError(f"{key} must be a list, got {value!r}.") from None
    if not items:
        raise RequirementError(f"{key} is an empty list, which no model can meet; leave it out.")
    if kind is str:
        if not all(isinstance(item, str) for item in items):
            raise RequirementError(f"{key} must be a list of strings, got {value!r}.")
        return tuple(items)
    assert issubclass(kind, Enum)
    checked = []
    for item in items:
        try:
            checked.append(kind(item.lower() if isinstance(item, str) else item))
        except ValueError:
            allowed = [member.value for member in kind]
            raise RequirementError(
                f"{key} has {item!r}.{did_you_mean(str(item), allowed)}"
            ) from None
    return tuple(checked)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
