"""GGUF: against the gguf package, and against files that lie."""

from __future__ import annotations

import struct
import tracemalloc

import gguf
import numpy as np
import pytest

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import read_facts
from ravenxterm_lab.readers.gguf_types import FILE_TYPES, TENSOR_TYPES, quantization_of

Q = gguf.GGMLQuantizationType


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def text(value):
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def raw_file(path, keys=(), tensors=(), *, counts=None, tail=b"", version=3):
    """Write a header byte by byte, which a real library would refuse to write."""
    key_count, tensor_count = counts or (len(keys), len(tensors))
    head = b"GGUF" + u32(version) + u64(tensor_count) + u64(key_count)
    for key, kind, value in keys:
        head += text(key) + u32(kind) + value
    for name, shape, kind, offset in tensors:
        head += text(name) + u32(len(shape)) + b"".join(map(u64, shape)) + u32(kind) + u64(offset)
    path.write_bytes(head + bytes(-len(head) % 32) + tail)
    return path


def test_tables_agree_with_the_gguf_package():
    """Block sizes of every tensor type and names of every file type are those of the package."""
    assert {int(kind): (kind.name, *gguf.GGML_QUANT_SIZES[kind]) for kind in Q} == TENSOR_TYPES
    names = {
        int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_")
        for kind in gguf.LlamaFileType
        if kind.name != "GUESSED"
    }
    assert names == FILE_TYPES


# The package writes these from arrays of their own type only, or not at all.
_NOT_WRITTEN = {Q.Q8_1, Q.Q8_K, Q.I8, Q.I16, Q.I32, Q.I64, Q.F64, Q.BF16}
_LITTLE = [(kind, False) for kind in sorted(set(Q) - _NOT_WRITTEN, key=int)]


@pytest.mark.parametrize(
    ("kind", "big_endian"), [*_LITTLE, (Q.F32, True), (Q.F16, True), (Q.Q4_0, True)]
)
def test_facts_agree_with_the_gguf_package(files, tmp_path, kind, big_endian):
    """Parameters, bytes by type and keys are what gguf.GGUFReader finds, in both byte orders."""
    tensors = {"token_embd.weight": ((4, 256), Q.F32), "blk.0.ffn_up.weight": ((8, 256), kind)}
    path = files.gguf_file(tmp_path / "a.gguf", tensors=tensors, big_endian=big_endian, layers=1)
    facts = read_facts(path)
    oracle = gguf.GGUFReader(path)
    by_type: dict[str, int] = {}
    for tensor in oracle.tensors:
        by_type[tensor.tensor_type.name] = by_type.get(tensor.tensor_type.name, 0) + tensor.n_bytes
    assert facts.tensor_bytes == {name: int(size) for name, size in by_type.items()}
    assert facts.parameter_count == sum(int(tensor.n_elements) for tensor in oracle.tensors)
    assert facts.vocabulary_size == 16
    assert (facts.context_length, facts.embedding_length) == (2048, 64)
    assert facts.quantization == kind.name


def test_version_2_is_read_and_others_are_refused(files, tmp_path):
    """Version 2 has the layout of 3; version 1 and an unknown one are named."""
    path = files.gguf_file(tmp_path / "a.gguf")
    facts = read_facts(path)
    data = bytearray(path.read_bytes())
    data[4] = 2
    path.write_bytes(data)
    assert read_facts(path) == facts
    for version, words in [(1, "version 1"), (9, "version 9")]:
        data[4] = version
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=words):
            read_facts(path)


def test_version_2_in_the_other_byte_order(files, tmp_path):
    """A big-endian file of version 2 says what a little-endian one of version 3 does."""
    keys = {"rope.freq_base": 1e6, "attention.layer_norm_rms_epsilon": 1e-5}
    general = {"general.file_type": 2, "general.alignment": 64}
    facts = read_facts(files.gguf_file(tmp_path / "a.gguf", keys=keys, general=general))
    path = files.gguf_file(tmp_path / "b.gguf", keys=keys, general=general, big_endian=True)
    data = bytearray(path.read_bytes())
    assert data[4:8] == b"\0\0\0\3"
    assert read_facts(path) == facts
    data[7] = 2
    path.write_bytes(data)
    assert read_facts(path) == facts


def test_huge_counts_in_the_other_byte_order(files, tmp_path):
    """Counts are read in the file's own order before they are believed."""
    path = files.gguf_file(tmp_path / "a.gguf", big_endian=True)
    data = bytearray(path.read_bytes())
    for at in (8, 16):
        broken = bytes(data[:at]) + b"\x7f" + bytes(data[at + 1 :])
        path.write_bytes(broken)
        with pytest.raises(ModelFileError, match="claims"):
            read_facts(path)


def test_general_keys(files, tmp_path):
    """Name and license come from the file, cleaned of line breaks."""
    general = {"general.name": "Evil\nName\x00<b>", "general.license": "apache-2.0"}
    facts = read_facts(files.gguf_file(tmp_path / "a.gguf", general=general))
    assert facts.name == "Evil Name <b>"
    assert facts.license == "apache-2.0"
    assert facts.task_types == ("text_generation",)


class TestKinds:
    @pytest.mark.parametrize(
        ("arch", "general", "kind"),
        [
            ("clip", {}, "projector"),
            ("llama", {"general.type": "mmproj"}, "projector"),
            ("llama", {"general.type": "adapter"}, "adapter"),
            ("llama", {"general.type": "imatrix"}, "other"),
            ("llama", {"general.type": "model"}, "model"),
        ],
    )
    def test_of_files_with_tensors(self, files, tmp_path, arch, general, kind):
        """Projectors, adapters and importance matrices are not called models."""
        facts = read_facts(files.gguf_file(tmp_path / "a.gguf", arch=arch, general=general))
        assert facts.kind == kind
        assert bool(facts.task_types) == (kind == "model")

    def test_a_vocabulary_has_no_tensors(self, files, tmp_path):
        """A file with tokens and without tensors is a vocabulary."""
        path = files.gguf_file(tmp_path / "a.gguf", tensors={})
        assert read_facts(path).kind == "vocabulary"

    @pytest.mark.parametrize(
        ("arch", "keys", "tasks"),
        [
            ("bert", {"attention.causal": False}, ("embedding",)),
            ("nomic-bert", {}, ("embedding",)),
            ("bert", {"pooling_type": 4}, ("reranking",)),
            ("qwen3", {"pooling_type": 3}, ("embedding",)),
            ("qwen3", {}, ("text_generation",)),
            ("flux", {}, ("text_to_image",)),
        ],
    )
    def test_tasks_follow_the_architecture(self, files, tmp_path, arch, keys, tasks):
        """Decoders generate, encoders embed, rank-pooled ones rerank."""
        facts = read_facts(files.gguf_file(tmp_path / "a.gguf", arch=arch, keys=keys))
        assert facts.task_types == tasks

    def test_a_shard_says_which_it_is(self, files, tmp_path):
        """split.no and split.count are reported."""
        general = {"split.no": 1, "split.count": 3}
        assert read_facts(files.gguf_file(tmp_path / "a.gguf", general=general)).split == (1, 3)


class TestQuantization:
    def test_the_mixture_is_believed_where_the_tensors_agree(self, files, tmp_path):
        """Q4_K_M is reported for mostly Q4_K with some Q6_K."""
        tensors = {
            "token_embd.weight": ((16, 256), Q.Q6_K),
            "blk.0.ffn_up.weight": ((64, 256), Q.Q4_K),
            "blk.0.ffn_down.weight": ((16, 256), Q.Q6_K),
        }
        general = {"general.file_type": 15}
        path = files.gguf_file(tmp_path / "x-Q8_0.gguf", tensors=tensors, general=general, layers=1)
        facts = read_facts(path)
        assert facts.quantization == "Q4_K_M"
        assert not facts.notes

    def test_a_lie_is_noted(self, files, tmp_path):
        """Where file_type and tensors disagree, the tensors win and a note says so."""
        path = files.gguf_file(tmp_path / "x.gguf", general={"general.file_type": 7})
        facts = read_facts(path)
        assert facts.quantization == "Q4_0"
        assert "Q8_0" in facts.notes[0]

    def test_without_a_file_type_the_dominant_type_is_named(self):
        """No claim: the type that holds most bytes."""
        assert quantization_of(None, {"Q5_K": 10, "F32": 9}, {}) == ("Q5_K", None)
        assert quantization_of(None, {}, {}) == (None, None)

    def test_a_large_embedding_does_not_hide_the_layers(self):
        """The layers' tensors decide, not a vocabulary that was kept at a higher precision."""
        assert quantization_of(15, {"Q4_K": 100}, {"Q4_K": 100, "Q8_0": 900}) == ("Q4_K_M", None)


class TestAttention:
    def geometry(self, files, tmp_path, arch, layers, **keys):
        named = {name.replace("__", "."): value for name, value in keys.items()}
        path = files.gguf_file(tmp_path / "a.gguf", arch=arch, layers=layers, keys=named, tensors={
            "blk.0.attn_q.weight": ((64, 64), Q.Q4_0)})  # fmt: skip
        return read_facts(path)

    def test_grouped_query(self, files, tmp_path):
        """Key and value length default to the width divided by the heads."""
        found = self.geometry(files, tmp_path, "llama", 3).attention
        assert found.heads_kv == (2, 2, 2)
        assert (found.key_length, found.value_length) == (16, 16)
        assert found.window is None
        assert found.layers == 3

    def test_every_item_of_an_array_counts(self, files, tmp_path):
        """head_count_kv may differ by layer, and its first item may be 0."""
        keys = {"attention__head_count_kv": [0, 2, 0, 4]}
        assert self.geometry(files, tmp_path, "deci", 4, **keys).attention.heads_kv == (0, 2, 0, 4)

    def test_explicit_lengths(self, files, tmp_path):
        """Stated lengths win over the default."""
        keys = {"attention__key_length": 256, "attention__value_length": 128}
        found = self.geometry(files, tmp_path, "gemma", 2, **keys).attention
        assert (found.key_length, found.value_length) == (256, 128)

    @pytest.mark.parametrize(
        ("arch", "layers", "windowed"),
        [
            ("gemma2", 4, (True, False, True, False)),
            ("gpt-oss", 4, (True, False, True, False)),
            ("gemma3", 7, (True,) * 5 + (False, True)),
            ("cohere2", 5, (True, True, True, False, True)),
            ("laguna", 5, (False, True, True, True, False)),
        ],
    )
    def test_windows_repeat_as_in_llama_cpp(self, files, tmp_path, arch, layers, windowed):
        """Each architecture's pattern of windowed and full layers."""
        found = self.geometry(
            files, tmp_path, arch, layers, attention__sliding_window=512
        ).attention
        assert found.window == 512
        assert found.windowed == windowed

    def test_a_stated_pattern_wins(self, files, tmp_path):
        """sliding_window_pattern as an array gives each layer."""
        keys = {
            "attention__sliding_window": 512,
            "attention__sliding_window_pattern": [True, False, False],
        }
        assert self.geometry(files, tmp_path, "gemma4", 3, **keys).attention.windowed == (
            True,
            False,
            False,
        )

    def test_a_window_without_a_pattern_is_counted_as_full(self, files, tmp_path):
        """An unknown architecture's window is noted and not believed."""
        facts = self.geometry(files, tmp_path, "newarch", 2, attention__sliding_window=512)
        assert facts.attention.windowed == ()
        assert "counted as full" in facts.notes[0]

    def test_a_window_that_llama_cpp_does_not_use(self, files, tmp_path):
        """phi3 states a window that is not applied."""
        facts = self.geometry(files, tmp_path, "phi3", 2, attention__sliding_window=512)
        assert facts.attention.window is None
        assert "does not use" in facts.notes[0]

    def test_windowed_layers_with_narrower_heads_keep_the_bytes(self, files, tmp_path):
        """Heads of two lengths are expressed in one unit, with the same elements in each layer."""
        keys = {
            "attention__sliding_window": 512,
            "attention__sliding_window_pattern": [True, False],
            "attention__key_length": 512,
            "attention__value_length": 512,
            "attention__key_length_swa": 256,
            "attention__value_length_swa": 256,
        }
        found = self.geometry(files, tmp_path, "gemma4", 2, **keys).attention
        assert [heads * found.key_length for heads in found.heads_kv] == [2 * 256, 2 * 512]
        assert [heads * found.value_length for heads in found.heads_kv] == [2 * 256, 2 * 512]

    def test_latent_attention(self, files, tmp_path):
        """DeepSeek's latent is one per layer; an older conversion caches full heads."""
        keys = {
            "attention__head_count_kv": 1,
            "attention__key_length": 576,
            "attention__value_length": 512,
            "attention__key_length_mla": 192,
            "attention__kv_lora_rank": 512,
            "rope__dimension_count": 64,
        }
        found = self.geometry(files, tmp_path, "deepseek2", 3, **keys).attention
        assert (found.heads_kv, found.latent_rank, found.rope_dimension) == ((1, 1, 1), 512, 64)
        older = keys | {
            "attention__key_length_mla": None,
            "attention__key_length": 192,
            "attention__head_count_kv": 4,
        }
        found = self.geometry(files, tmp_path, "deepseek2", 3, **older).attention
        assert (found.heads_kv, found.latent_rank) == ((4, 4, 4), None)

    def test_layers_that_share_a_cache_have_none(self, files, tmp_path):
        """gemma4 says how many layers share a cache; gemma3n keeps one for the first twenty."""
        found = self.geometry(files, tmp_path, "gemma4", 6, attention__shared_kv_layers=2).attention
        assert found.heads_kv == (2, 2, 2, 2, 0, 0)
        found = self.geometry(files, tmp_path, "gemma3n", 30).attention
        assert found.heads_kv == (2,) * 20 + (0,) * 10

    def test_recurrent_models_have_state_and_no_cache(self, files, tmp_path):
        """Mamba: convolution and state elements in each layer."""
        keys = {
            "attention__head_count": None,
            "attention__head_count_kv": None,
            "ssm__conv_kernel": 4,
            "ssm__inner_size": 128,
            "ssm__state_size": 16,
        }
        found = self.geometry(files, tmp_path, "mamba", 2, **keys).attention
        assert found.heads_kv == (0, 0)
        assert found.recurrent_elements == 2 * (3 * 128 + 16 * 128)

    def test_hybrids_have_both(self, files, tmp_path):
        """Jamba by its array, Qwen3-Next by its interval, Falcon-H1 in every layer."""
        ssm = {
            "ssm__conv_kernel": 4,
            "ssm__inner_size": 128,
            "ssm__state_size": 16,
            "ssm__group_count": 1,
        }
        each = 3 * (128 + 2 * 16) + 16 * 128
        jamba = self.geometry(
            files, tmp_path, "jamba", 4, attention__head_count_kv=[0, 2, 0, 0], **ssm
        ).attention
        assert (jamba.heads_kv, jamba.recurrent_elements) == ((0, 2, 0, 0), 3 * each)
        qwen = self.geometry(files, tmp_path, "qwen3next", 8, **ssm).attention
        assert qwen.heads_kv == (0, 0, 0, 2, 0, 0, 0, 2)
        assert qwen.recurrent_elements == 6 * each
        falcon = self.geometry(files, tmp_path, "falcon-h1", 2, **ssm).attention
        assert (falcon.heads_kv, falcon.recurrent_elements) == ((2, 2), 2 * each)

    def test_short_convolutions(self, files, tmp_path):
        """LFM2: layers without attention keep a short convolution's inputs."""
        keys = {"attention__head_count_kv": [0, 2], "shortconv__l_cache": 3}
        found = self.geometry(files, tmp_path, "lfm2", 2, **keys).attention
        assert (found.heads_kv, found.recurrent_elements) == ((0, 2), 2 * 64)

    def test_missing_keys_give_unknown_not_zero(self, files, tmp_path):
        """Without head_count there is no geometry, and a note says so."""
        keys = {"attention__head_count": None, "attention__head_count_kv": None}
        facts = self.geometry(files, tmp_path, "llama", 2, **keys)
        assert facts.attention is None
        assert "head_count" in facts.notes[0]

    def test_encoders_have_no_cache(self, files, tmp_path):
        """BERT keeps nothing between tokens."""
        assert self.geometry(files, tmp_path, "bert", 2).attention is None


def test_a_mixture_of_experts_has_fewer_active_parameters(files, tmp_path):
    """Of the routed experts only the used share counts for one token."""
    tensors = {
        "blk.0.attn_q.weight": ((64, 64), Q.F32),
        "blk.0.ffn_up_exps.weight": ((8, 32, 64), Q.F32),
    }
    keys = {"expert_count": 8, "expert_used_count": 2}
    path = files.gguf_file(
        tmp_path / "a.gguf", arch="qwen3moe", tensors=tensors, keys=keys, layers=1
    )
    facts = read_facts(path)
    assert facts.parameter_count == 64 * 64 + 8 * 32 * 64
    assert facts.active_parameter_count == 64 * 64 + 2 * 32 * 64
    assert facts.experts == (8, 2)


class TestHostile:
    @pytest.mark.parametrize(
        "counts", [(2**63, 0), (0, 2**63), (2**64 - 1, 2**64 - 1), (10_000, 0), (0, 10_000)]
    )
    def test_huge_counts_allocate_nothing(self, tmp_path, counts):
        """Counts that the file cannot hold are refused before anything is allocated."""
        path = raw_file(tmp_path / "a.gguf", counts=counts)
        tracemalloc.start()
        with pytest.raises(ModelFileError, match="claims"):
            read_facts(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20

    @pytest.mark.parametrize("kind", [8, 4, 12, 9])
    def test_huge_arrays(self, tmp_path, kind):
        """An array's length is checked against what is left."""
        keys = [("a", 9, u32(kind) + u64(2**40))]
        with pytest.raises(ModelFileError, match="claims"):
            read_facts(raw_file(tmp_path / "a.gguf", keys))

    def test_huge_strings(self, tmp_path):
        """A string's length, in a key, a value or an array, is checked against what is left."""
        for keys in (
            [("a", 8, u64(2**62))],
            [("a", 9, u32(8) + u64(1) + u64(2**63 + 5) + bytes(64))],
            [("a", 9, u32(8) + u64(2) + u64(2**62) + bytes(64))],
        ):
            with pytest.raises(ModelFileError):
                read_facts(raw_file(tmp_path / "a.gguf", keys))

    def test_nested_arrays(self, tmp_path):
        """Arrays within arrays are read to a small depth and refused below it."""
        inner = u32(4) + u64(1) + u32(7)
        assert read_facts(raw_file(tmp_path / "a.gguf", [("a", 9, u32(9) + u64(1) + inner)]))
        deep = inner
        for _ in range(2000):
            deep = u32(9) + u64(1) + deep
        with pytest.raises(ModelFileError, match="deeply"):
            read_facts(raw_file(tmp_path / "b.gguf", [("a", 9, deep)]))

    @pytest.mark.parametrize("alignment", [0, 3, 2**31])
    def test_alignment(self, tmp_path, alignment):
        """An alignment of 0 or of no power of two is refused."""
        keys = [("general.alignment", 4, u32(alignment))]
        with pytest.raises(ModelFileError, match="alignment"):
            read_facts(raw_file(tmp_path / "a.gguf", keys))

    @pytest.mark.parametrize(
        ("tensors", "word"),
        [
            ([("a", (32,), 0, 0), ("b", (32,), 0, 64)], "overlap"),
            ([("a", (32,), 0, 2**60)], "truncated"),
            ([("a", (2**40,), 0, 0)], "truncated"),
            ([("a", (2**63, 2**63), 0, 0)], "elements"),
            ([("a", (33,), 2, 0)], "blocks"),
            ([("a", (1,) * 9, 0, 0)], "dimensions"),
            ([("a", (8,), 0, 0), ("a", (8,), 0, 32)], "alike"),
        ],
    )
    def test_tensors_that_lie(self, tmp_path, tensors, word):
        """Overlapping, oversized, misshapen and doubled tensors are refused."""
        with pytest.raises(ModelFileError, match=word):
            read_facts(raw_file(tmp_path / "a.gguf", tensors=tensors, tail=bytes(256)))

    def test_unknown_tensor_types_are_noted(self, tmp_path):
        """A type of a later version is a note: its extent cannot be checked."""
        facts = read_facts(
            raw_file(tmp_path / "a.gguf", tensors=[("a", (8,), 99, 0)], tail=bytes(64))
        )
        assert "type 99" in facts.notes[-1]
        assert facts.tensor_bytes == {}

    def test_keys_stated_twice_and_unknown_types(self, tmp_path):
        """A doubled key, an unknown value type and an unknown array type are refused."""
        for keys, word in [
            ([("a", 4, u32(1)), ("a", 4, u32(2))], "twice"),
            ([("a", 77, u32(1))], "unknown type 77"),
            ([("a", 9, u32(77) + u64(0))], "unknown type 77"),
        ]:
            with pytest.raises(ModelFileError, match=word):
                read_facts(raw_file(tmp_path / "a.gguf", keys))

    def test_invalid_text(self, tmp_path):
        """Undecodable bytes are replaced in a value and refused in a key."""
        keys = [("general.architecture", 8, text(b"ll\xff\xfeama"))]
        assert "�" in read_facts(raw_file(tmp_path / "a.gguf", keys)).architecture
        with pytest.raises(ModelFileError, match="UTF-8"):
            read_facts(raw_file(tmp_path / "b.gguf", [(b"\xff\xff", 4, u32(1))]))

    def test_values_of_the_wrong_kind_are_ignored(self, tmp_path):
        """Text, a huge number or an array where a small number belongs gives no fact."""
        for value in [
            (8, text("many")),
            (10, u64(2**63)),
            (6, b"\0\0\xc0\x7f"),
            (9, u32(4) + u64(0)),
        ]:
            keys = [("general.architecture", 8, text("llama"))]
            keys += [
                (f"llama.{key}", *value)
                for key in ("block_count", "context_length", "expert_count")
            ]
            facts = read_facts(raw_file(tmp_path / "a.gguf", keys))
            assert facts.attention is None
            assert facts.context_length in (None, 2**63)
            assert facts.context_length is None

    def test_long_values_are_not_kept(self, tmp_path):
        """A 10 MB string costs a window, not its length."""
        keys = [("general.name", 8, text(b"x" * 10_000_000)), ("general.license", 8, text("mit"))]
        path = raw_file(tmp_path / "a.gguf", keys)
        del keys
        tracemalloc.start()
        facts = read_facts(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (facts.name, facts.license) == (None, "mit")
        assert peak < 4 << 20

    def test_a_real_vocabulary_costs_no_memory(self, files, tmp_path):
        """100,000 tokens and as many scores are counted in a few windows' memory."""
        writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
        writer.add_token_list([f"token-{number}" for number in range(100_000)])
        writer.add_array("tokenizer.ggml.scores", [0.5] * 100_000)
        writer.add_tensor("blk.0.a.weight", np.zeros((4, 4), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        tracemalloc.start()
        facts = read_facts(tmp_path / "a.gguf")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert facts.vocabulary_size == 100_000
        assert peak < 8 << 20
