"""What lies beside a model: ``config.json``, a model card, a pooling configuration.

Formats without metadata of their own (safetensors, ONNX, PyTorch) are described by these.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ravenxterm_lab.exceptions import ModelFileError, RequirementError
from ravenxterm_lab.metadata import AttentionGeometry, ModelType
from ravenxterm_lab.readers import limits
from ravenxterm_lab.readers.base import active_parameters
from ravenxterm_lab.readers.files import is_file
from ravenxterm_lab.readers.model_card import ModelCard, read_card
from ravenxterm_lab.readers.text import clean, read_json
from ravenxterm_lab.requirements import normalize_task

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from ravenxterm_lab.readers.base import FileFacts

__all__ = ["ModelConfig", "read_config", "tasks_of", "with_config"]

#: Endings of the class names in ``architectures``, and what they do; the first match counts.
_HEADS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("WhisperForConditionalGeneration", ("automatic_speech_recognition",)),
    ("Speech2TextForConditionalGeneration", ("automatic_speech_recognition",)),
    ("MusicgenForConditionalGeneration", ("text_to_audio",)),
    ("MBartForConditionalGeneration", ("translation",)),
    ("BlenderbotForConditionalGeneration", ("text_generation",)),
    ("LEDForConditionalGeneration", ("summarization",)),
    ("MarianMTModel", ("translation",)),
    ("T5ForConditionalGeneration", ("translation", "summarization")),
    ("BartForConditionalGeneration", ("summarization",)),
    ("PegasusForConditionalGeneration", ("summarization",)),
    ("M2M100ForConditionalGeneration", ("translation",)),
    ("ForConditionalGeneration", ("image_text_to_text", "text_generation")),
    ("ForVision2Seq", ("image_text_to_text",)),
    ("VisionEncoderDecoderModel", ("ocr",)),
    ("ForCausalLM", ("text_generation",)),
    ("LMHeadModel", ("text_generation",)),
    ("ForSequenceClassification", ("text_classification",)),
    ("ForTokenClassification", ("token_classification",)),
    ("ForQuestionAnswering", ("question_answering",)),
    ("ForMaskedLM", ("fill_mask",)),
    ("ForZeroShotImageClassification", ("zero_shot_image_classification",)),
    ("CLIPModel", ("zero_shot_image_classification",)),
    ("SiglipModel", ("zero_shot_image_classification",)),
    ("ForImageClassification", ("image_classification",)),
    ("ForVideoClassification", ("video_classification",)),
    ("ForZeroShotObjectDetection", ("zero_shot_object_detection",)),
    ("ForObjectDetection", ("object_detection",)),
    ("ForSemanticSegmentation", ("image_segmentation",)),
    ("ForImageSegmentation", ("image_segmentation",)),
    ("ForUniversalSegmentation", ("image_segmentation",)),
    ("ForInstanceSegmentation", ("image_segmentation",)),
    ("ForDepthEstimation", ("depth_estimation",)),
    ("ForKeypointDetection", ("keypoint_detection",)),
    ("SamModel", ("mask_generation",)),
    ("ForMultipleChoice", ("multiple_choice",)),
    ("ForRetrieval", ("visual_document_retrieval",)),
    ("ForPrediction", ("time_series_forecasting",)),
    ("ForCTC", ("automatic_speech_recognition",)),
    ("ForSpeechSeq2Seq", ("automatic_speech_recognition",)),
    ("ForAudioClassification", ("audio_classification",)),
    ("ForTextToSpeech", ("text_to_speech",)),
    ("ForTextToWaveform", ("text_to_speech",)),
)
_TEXT_ENCODERS = (
    "Bert", "Roberta", "MPNet", "Electra", "Deberta", "E5", "Gte", "Nomic", "Jina", "Albert",
)  # fmt: skip
_LARGEST = 2**31


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What the files beside a model say of it.

    Attributes
    ----------
    architecture : str or None
        ``model_type`` of ``config.json``.
    context_length, embedding_length, vocabulary_size : int or None
    attention : AttentionGeometry or None
    task_types : tuple of str
    license : str or None
        From the model card's front matter.
    experts, experts_used : int or None
        Routed experts of each layer, and how many of them one token meets.
    adapter_of : str or None
        The base model, where an adapter's configuration lies here.
    sentence_transformer : bool
    notes : tuple of str
        What lies there and cannot be read.
    """

    architecture: str | None = None
    context_length: int | None = None
    embedding_length: int | None = None
    vocabulary_size: int | None = None
    attention: AttentionGeometry | None = None
    task_types: tuple[str, ...] = ()
    license: str | None = None
    experts: int | None = None
    experts_used: int | None = None
    adapter_of: str | None = None
    sentence_transformer: bool = False
    notes: tuple[str, ...] = ()


def read_config(
    directory: Path, names: Container[str] | None = None, card: ModelCard | None = None
) -> ModelConfig:
    """Read what lies in a directory beside a model.

    Nothing is raised: a file that cannot be read becomes a note.

    Parameters
    ----------
    directory : Path
    names : container of str, optional
        The files that are known to be there; by default it is looked.
    card : ModelCard, optional
        What the model card there says, if it was read already.
    """
    notes: list[str] = []

    def find(name: str) -> Path | None:
        if names is not None:
            return directory / name if name in names else None
        path = directory / name
        return path if is_file(path) else None

    config = _optional_json(find("config.json"), notes)
    adapter = _optional_json(find("adapter_config.json"), notes)
    sentence = find("modules.json") is not None
    card = read_card(find("README.md")) if card is None else card
    notes.extend(card.notes)
    nested = config.get("text_config")
    text = nested if isinstance(nested, dict) else config
    tasks = tasks_of(config, card.pipeline_tag, sentence=sentence)
    return ModelConfig(
        architecture=clean(config.get("model_type"), 80) or None,
        context_length=_integer(text, "max_position_embeddings", "n_positions", "seq_length"),
        embedding_length=_integer(text, "hidden_size", "n_embd", "d_model", "dim"),
        vocabulary_size=_integer(text, "vocab_size"),
        attention=_attention(text) if "text_generation" in tasks else None,
        task_types=tasks,
        license=card.license,
        experts=_integer(text, "num_local_experts", "n_routed_experts", "num_experts"),
        experts_used=_integer(text, "num_experts_per_tok", "num_experts_per_token"),
        adapter_of=clean(adapter.get("base_model_name_or_path")) or ("?" if adapter else None),
        sentence_transformer=sentence,
        notes=tuple(notes),
    )


def tasks_of(
    config: dict[str, Any], pipeline_tag: str | None, *, sentence: bool = False
) -> tuple[str, ...]:
    """Return the tasks that a configuration and a pipeline tag name.

    Parameters
    ----------
    config : dict
        The content of a ``config.json``.
    pipeline_tag : str or None
        From the model card.
    sentence : bool
        Whether it is a sentence-transformers model.

    Examples
    --------
    >>> tasks_of({"architectures": ["LlamaForCausalLM"]}, None)
    ('text_generation',)
    """
    if sentence:
        return ("embedding",)
    found: dict[str, None] = {}
    if pipeline_tag:
        # A task that this package has no name for: the class names may still say one.
        with suppress(RequirementError):
            found[normalize_task(pipeline_tag)] = None
    stated = config.get("architectures")
    for name in stated[:8] if isinstance(stated, list) else ():
        if not isinstance(name, str):
            continue
        tasks = next((tasks for ending, tasks in _HEADS if name.endswith(ending)), ())
        if tasks == ("text_classification",) and "reranking" in found:
            continue
        if not tasks and name.endswith("Model") and any(kind in name for kind in _TEXT_ENCODERS):
            tasks = ("embedding",)
        found.update(dict.fromkeys(tasks))
    return tuple(found)


def with_config(facts: FileFacts, config: ModelConfig) -> FileFacts:
    """Return the facts of a file, completed by what lies beside it.

    A GGUF file describes itself; of its neighbours only the license is taken.

    Parameters
    ----------
    facts : FileFacts
        As the file's header states them.
    config : ModelConfig
        What ``config.json`` and the model card beside it say.
    """
    license_name = facts.license or config.license
    if facts.model_type is ModelType.GGUF:
        return replace(facts, license=license_name)
    experts = facts.experts
    if config.experts and config.experts_used:
        experts = (config.experts, config.experts_used)
    active = facts.active_parameter_count
    if active is None and experts and facts.parameter_count is not None:
        active = active_parameters(facts.parameter_count, facts.expert_parameter_count, experts)
    kind = "adapter" if config.adapter_of and facts.kind == "model" else facts.kind
    # An exported graph may do less than the class that it was exported from.
    tasks = facts.task_types or config.task_types
    notes = facts.notes + config.notes
    if not tasks and kind == "model":
        notes += ("its task is not stated: no config.json, model card or signature tells it",)
    return replace(
        facts,
        kind=kind,
        architecture=config.architecture or facts.architecture,
        context_length=facts.context_length or config.context_length,
        embedding_length=config.embedding_length or facts.embedding_length,
        vocabulary_size=config.vocabulary_size or facts.vocabulary_size,
        attention=facts.attention or config.attention,
        active_parameter_count=active,
        experts=experts,
        task_types=tasks,
        license=license_name,
        notes=notes,
    )


def _optional_json(path: Path | None, notes: list[str]) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return read_json(path, limits.CONFIG_BYTES)
    except ModelFileError as error:
        notes.append(clean(str(error)))
        return {}


def _integer(config: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = config.get(name)
        if type(value) is int and 0 < value <= _LARGEST:
            return value
    return None


def _attention(config: dict[str, Any]) -> AttentionGeometry | None:
    layers = _integer(config, "num_hidden_layers", "n_layer", "num_layers")
    heads = _integer(config, "num_attention_heads", "n_head")
    width = _integer(config, "hidden_size", "n_embd", "d_model")
    if not layers or layers > limits.LAYERS or not heads or not width:
        return None
    heads_kv = _integer(config, "num_key_value_heads") or heads
    length = _integer(config, "head_dim") or width // heads
    kinds = config.get("layer_types")
    kinds = (
        kinds if isinstance(kinds, list) and len(kinds) == layers else ["full_attention"] * layers
    )
    each = tuple(0 if kind in ("linear_attention", "mamba", "conv") else heads_kv for kind in kinds)
    window = _integer(config, "sliding_window")
    windowed = tuple(kind in ("sliding_attention", "chunked_attention") for kind in kinds)
    if not window or config.get("use_sliding_window") is False or not any(windowed):
        window, windowed = None, ()
    rank, rope = _integer(config, "kv_lora_rank"), _integer(config, "qk_rope_head_dim")
    if rank and rope:
        each = tuple(min(count, 1) for count in each)
        length = rank + rope
    return AttentionGeometry(
        heads_kv=each,
        key_length=length,
        value_length=rank if rank and rope else length,
        window=window,
        windowed=windowed,
        latent_rank=rank if rope else None,
        rope_dimension=rope if rank else None,
        recurrent_elements=_linear_state(config, sum(kind == "linear_attention" for kind in kinds)),
    )


def _linear_state(config: dict[str, Any], layers: int) -> int:
    """Elements of the gated-delta-net state (Qwen3-Next): convolution and outer product."""
    heads_k = _integer(config, "linear_num_key_heads")
    heads_v = _integer(config, "linear_num_value_heads")
    key, value = _integer(config, "linear_key_head_dim"), _integer(config, "linear_value_head_dim")
    kernel = _integer(config, "linear_conv_kernel_dim")
    if not layers or not (heads_k and heads_v and key and value and kernel):
        return 0
    convolved = (kernel - 1) * (2 * heads_k * key + heads_v * value)
    return layers * (convolved + math.prod((heads_v, key, value)))
