"""What lies beside a model completes its facts."""

from __future__ import annotations

import json

import pytest

from ravenxterm_lab.readers import read_config, read_facts, with_config
from ravenxterm_lab.readers.model_config import tasks_of
from ravenxterm_lab.requirements import TASKS


@pytest.mark.parametrize(
    ("name", "tag", "tasks"),
    [
        ("LlamaForCausalLM", None, ("text_generation",)),
        ("GPT2LMHeadModel", None, ("text_generation",)),
        ("BertModel", None, ("embedding",)),
        ("BertForSequenceClassification", None, ("text_classification",)),
        ("XLMRobertaForSequenceClassification", "text-ranking", ("reranking",)),
        ("BertForTokenClassification", None, ("token_classification",)),
        ("BertForMaskedLM", "fill-mask", ("fill_mask",)),
        ("WhisperForConditionalGeneration", None, ("automatic_speech_recognition",)),
        ("Gemma3ForConditionalGeneration", None, ("image_text_to_text", "text_generation")),
        ("MarianMTModel", None, ("translation",)),
        ("ViTForImageClassification", None, ("image_classification",)),
        ("MysteryThing", None, ()),
        ("MysteryThing", "no-such-task", ()),
        ("BertModel", "sentence-similarity", ("embedding",)),
        ("CLIPModel", None, ("zero_shot_image_classification",)),
        ("MBartForConditionalGeneration", None, ("translation",)),
        ("SegformerForSemanticSegmentation", "image-segmentation", ("image_segmentation",)),
        ("MysteryThing", "text-to-video", ("text_to_video",)),
        ("MysteryThing", "text_generation", ("text_generation",)),
    ],
)
def test_tasks(name, tag, tasks):
    """Class names and pipeline tags give tasks that requirements know."""
    assert tasks_of({"architectures": [name]}, tag) == tasks
    assert set(tasks) <= set(TASKS)


@pytest.mark.parametrize("stated", [None, 5, "BertModel", [5, None], {}, [["x"]]])
def test_odd_architectures_give_no_task(stated):
    """A value of the wrong kind is ignored."""
    assert tasks_of({"architectures": stated}, None) == ()


def test_a_directory_completes_safetensors(files, tmp_path):
    """Architecture, context, task and license come from config.json and the model card."""
    front = "license: apache-2.0  # open\npipeline_tag: 'sentence-similarity'\n"
    card = f"---\n{front}---\nlicense: evil\n"
    files.write_config(tmp_path, card=card)
    path = files.safetensors_file(tmp_path / "model.safetensors")
    facts = with_config(read_facts(path), read_config(tmp_path))
    assert (facts.architecture, facts.context_length, facts.license) == ("bert", 512, "apache-2.0")
    assert facts.task_types == ("embedding",)
    assert facts.attention is None


def test_a_graph_that_shows_its_task_is_believed_first(files, tmp_path):
    """An encoder that was exported without its language-model head embeds."""
    files.write_config(tmp_path, files.BERT | {"architectures": ["BertForMaskedLM"]})
    path = files.onnx_file(tmp_path / "model.onnx")
    assert with_config(read_facts(path), read_config(tmp_path)).task_types == ("embedding",)
    path = files.onnx_file(tmp_path / "model.onnx", outputs=("logits",))
    assert with_config(read_facts(path), read_config(tmp_path)).task_types == ("fill_mask",)


def test_attention_of_a_decoder(files, tmp_path):
    """Layers, KV heads and head length come from config.json."""
    files.write_config(tmp_path, files.LLAMA)
    found = read_config(tmp_path).attention
    assert (found.heads_kv, found.key_length, found.value_length) == ((2, 2, 2), 8, 8)


def test_windows_and_linear_layers_of_a_decoder(files, tmp_path):
    """layer_types tells windowed from full and linear layers."""
    kinds = ["sliding_attention", "full_attention", "linear_attention"]
    files.write_config(tmp_path, files.LLAMA | {"layer_types": kinds, "sliding_window": 512})
    found = read_config(tmp_path).attention
    assert (found.heads_kv, found.windowed, found.window) == ((2, 2, 0), (True, False, False), 512)


def test_latent_attention_of_a_decoder(files, tmp_path):
    """kv_lora_rank and the rotary part give one latent per layer."""
    files.write_config(tmp_path, files.LLAMA | {"kv_lora_rank": 512, "qk_rope_head_dim": 64})
    found = read_config(tmp_path).attention
    assert (found.heads_kv, found.latent_rank, found.rope_dimension) == ((1, 1, 1), 512, 64)


def test_experts_give_the_active_count(files, tmp_path):
    """The config tells how many experts one token meets."""
    files.write_config(tmp_path, files.LLAMA | {"num_local_experts": 8, "num_experts_per_tok": 2})
    path = files.safetensors_file(tmp_path / "model.safetensors", prefix="model.experts.0.")
    facts = with_config(read_facts(path), read_config(tmp_path))
    assert facts.active_parameter_count == facts.parameter_count // 4


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"hidden_size": NaN}',
        '{"a":' * 3000,
        '{"hidden_size": "many", "num_hidden_layers": -1}',
        "\ud800",
    ],
)
def test_a_broken_config_is_a_note(files, tmp_path, content):
    """A config that cannot be read does not hide the model."""
    (tmp_path / "config.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    path = files.safetensors_file(tmp_path / "model.safetensors")
    facts = with_config(read_facts(path), read_config(tmp_path))
    assert facts.parameter_count
    assert facts.notes


def test_huge_values_in_a_config_are_ignored(files, tmp_path):
    """A billion layers are not believed, let alone allocated."""
    text = json.dumps(files.LLAMA | {"num_hidden_layers": 10**9, "vocab_size": 10**30})
    (tmp_path / "config.json").write_text(text)
    found = read_config(tmp_path)
    assert found.attention is None
    assert found.vocabulary_size is None


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        ("no front matter\nlicense: mit\n", None),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlicense: <script>\x1b\n---\n", "<script>"),
        ("---\ntags:\n  license: mit\n---\n", None),
        ("---\nlicense:\n- mit\n- 'apache-2.0' # both\ntags:\n- x\n---\n", "mit, apache-2.0"),
        ("---\nlicense:\n\n  - mit\n  # said twice\n  - bsd\n---\n", "mit, bsd"),
        ("---\nlicense: [mit, 'bsd']\n---\n", "mit, bsd"),
        ("---\nlicense: []\n---\n", None),
        (
            "---\nlicense: !!python/object/apply:os.system [x]\n---\n",
            "!!python/object/apply:os.system [x]",
        ),
        ("---\nlicense: mit\nlicense: &a [*a]\n---\n", "mit"),
        ("---\nlicense: mit\r\npipeline_tag: x\r\n---\r\n", "mit"),
        ("---\nlicense:\n" + "- mit\n" * 5000 + "---\n", ", ".join(["mit"] * 8)),
        ("---\n" + "x\n" * 100_000, None),
        ("", None),
    ],
)
def test_licenses_of_model_cards(tmp_path, card, expected):
    """Only the front matter's own lines count."""
    (tmp_path / "README.md").write_text(card)
    assert read_config(tmp_path).license == expected


def test_a_directory_without_anything_says_nothing(tmp_path):
    """No files, no facts, no notes."""
    found = read_config(tmp_path)
    assert (found.architecture, found.task_types, found.notes) == (None, (), ())
