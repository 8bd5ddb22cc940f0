"""fastText: against a published model's own figures, and against files that lie."""

from __future__ import annotations

import re
import struct

import pytest
from fasttext_files import LABELS, WORDS, fasttext_bytes, pruned_file
from hypothesis import given
from hypothesis import strategies as st

from ravenxterm_lab.exceptions import ModelFileError
from ravenxterm_lab.readers import limits, read_facts
from ravenxterm_lab.readers.fasttext import FastTextReader
from ravenxterm_lab.readers.fasttext_labels import _TWO_LETTERS, LabelTally


def read(path, raw):
    path.write_bytes(raw)
    return FastTextReader().read(path)


def task_of(*labels):
    tally = LabelTally()
    for label in labels:
        tally.add(label.encode())
    return tally.task


@pytest.mark.models
def test_the_published_model_is_read(demo_directory):
    """lid.176.ftz: 176 languages, 50,000 quantized rows of 16, a dense output of 176 × 16."""
    facts = read_facts(demo_directory / "lid-176" / "lid.176.ftz")
    assert facts.task_types == ("language_identification",)
    assert (facts.vocabulary_size, facts.embedding_length) == (7235, 16)
    assert facts.parameter_count == (50_000 + 176) * 16
    assert facts.quantization == "PQ"
    # Codes, centroids and norms are counted one by one in the file's own layout.
    codes = 1 + 20 + 50_000 * 8 + 16 + 4 * 256 * 16 + 50_000 + 16 + 4 * 256
    assert facts.tensor_bytes == {"PQ": codes, "F32": 4 * 176 * 16}
    assert facts.notes == (
        "fastText 12, supervised, hierarchical softmax",
        "176 labels: en, ru, de, fr, it, ja, es, ceb, …",
    )


def test_a_dense_model_is_read(tmp_path):
    """Rows of words and buckets, and a row for each label, all of float32."""
    facts = read(tmp_path / "a.bin", fasttext_bytes(bucket=10, ngrams=(2, 3)))
    rows = len(WORDS) + 10 + len(LABELS)
    assert facts.parameter_count == 4 * rows
    assert facts.tensor_bytes == {"F32": 16 * rows}
    assert facts.quantization == "F32"
    assert facts.notes[1] == "3 labels: fr, en, de"


def test_a_bin_file_is_known_by_its_magic(tmp_path):
    """``.bin`` is what many things are called; the first four bytes decide."""
    (tmp_path / "model.bin").write_bytes(fasttext_bytes())
    assert read_facts(tmp_path / "model.bin").task_types == ("language_identification",)


@pytest.mark.parametrize("model", [1, 2])
def test_word_vectors_are_embeddings(tmp_path, model):
    """CBOW and skip-gram have a row of output for each word, and no labels."""
    facts = read(tmp_path / "a.bin", fasttext_bytes(model=model, labels=(), loss=2))
    assert facts.task_types == ("embedding",)
    assert facts.parameter_count == 2 * 4 * len(WORDS)
    assert "word vectors" in facts.notes[0]


def test_what_follows_the_model_is_a_note(tmp_path):
    """The library stops after the second matrix, and so does the reader."""
    facts = read(tmp_path / "a.ftz", fasttext_bytes() + bytes(2048))
    assert facts.notes[-1] == "2.0 KiB follow the model and are ignored"


@pytest.mark.parametrize(
    ("labels", "language"),
    [
        (("__label__de", "__label__fr", "__label__it"), True),
        (("eng_Latn", "srp_Cyrl", "srp_Latn", "gsw_Latn"), True),
        (("zh-Hans", "pt-BR", "es-419", "en"), True),
        (("de", "fr", "gsw", "als"), True),
        (("de", "als", "gsw", "nds"), False),  # three letters alone may be anything
        (("__label__pos", "__label__neg", "__label__neu"), False),
        (("no", "yes", "maybe"), False),
        (("no", "it"), False),
        (("DE", "FR", "IT"), False),
        (("spam", "ham", "en"), False),
        ((), False),
    ],
)
def test_labels_tell_the_task(labels, language):
    """Language tags make a language identifier; everything else is a text classifier."""
    task = "language_identification" if language else "text_classification"
    assert task_of(*labels) == task


def test_a_few_codes_that_are_no_tags_do_not_matter():
    """One in ten labels may be what Wikipedia invented, such as ``zh-classical``."""
    usual = ["de", "fr", "it", "es", "pt", "nl", "sv", "da", "fi"]
    assert task_of(*usual, "zh-classical") == "language_identification"
    assert task_of(*usual[:5], "zh-classical") == "text_classification"


def test_the_codes_are_those_of_the_standard():
    """ISO 639-1 has 183 codes; ``bh`` and ``sh`` were withdrawn, and ``mo`` is not used."""
    assert len(_TWO_LETTERS) == 185
    assert all(re.fullmatch("[a-z]{2}", code) for code in _TWO_LETTERS)


AT = {
    "version": 4, "dim": 8, "word_ngrams": 28, "loss": 32, "model": 36, "bucket": 40, "maxn": 48,
    "size": 64, "words": 68, "labels": 72,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("version", 13, "version 13 of fastText's format; 11 and 12 are known"),
        ("dim", 0, "vectors of 0 elements"),
        ("dim", 5, "need 7 × 5"),
        ("dim", 70_000, "vectors of 70000 elements"),
        ("loss", 9, "loss 9"),
        ("model", 0, "model 0"),
        ("word_ngrams", 2, "no buckets"),
        ("maxn", 3, "no buckets"),
        ("bucket", 4, "need 11 × 4"),
        ("size", 2**31 - 1, "words and 3 labels"),
        ("words", 8, "words and 3 labels"),
        ("labels", -1, "-1 labels"),
    ],
)
def test_numbers_that_lie_are_refused(tmp_path, name, value, word):
    """What would make the library read beyond an array never becomes a model."""
    raw = bytearray(fasttext_bytes())
    struct.pack_into("<i", raw, AT[name], value)
    with pytest.raises(ModelFileError, match=word):
        read(tmp_path / "a.ftz", bytes(raw))


def test_a_dictionary_out_of_order_is_refused(tmp_path):
    """Labels stand behind the words, since the library finds them by their distance."""
    raw = bytearray(fasttext_bytes(words=("one", "two"), labels=LABELS))
    raw[raw.index(b"one\0") + 12] = 1
    with pytest.raises(ModelFileError, match="entry 0 of its dictionary"):
        read(tmp_path / "a.ftz", bytes(raw))
    with pytest.raises(ModelFileError, match="entry 1 of its dictionary"):
        read(tmp_path / "a.ftz", fasttext_bytes(words=("one", "")))


@pytest.mark.parametrize("count", [-1, 10**15, 2**63 - 1])
def test_counts_that_no_text_has_are_refused(tmp_path, count):
    """The library builds its tree of labels from them, and writes beyond it where they lie."""
    raw = bytearray(fasttext_bytes(loss=1))
    struct.pack_into("<q", raw, raw.index(b"__label__en\0") + 12, count)
    with pytest.raises(ModelFileError, match="claims that its labels occurred"):
        read(tmp_path / "a.ftz", bytes(raw))


def test_an_empty_dictionary_is_refused(tmp_path):
    """The library looks words up modulo its size."""
    with pytest.raises(ModelFileError, match="claims 0 words and 0 labels"):
        read(tmp_path / "a.ftz", fasttext_bytes(words=(), labels=()))


@pytest.mark.parametrize("row", [-1, 3, 2**31 - 1])
def test_a_pruned_dictionary_that_points_beyond_is_refused(tmp_path, row):
    """A hash that was kept names one of the rows that were kept."""
    pairs = [(5, 0), (17, row), (3, 1)]
    raw = fasttext_bytes(bucket=100, ngrams=(2, 4), pruned=pairs, width=2)
    with pytest.raises(ModelFileError, match="beyond its 3"):
        read(tmp_path / "a.ftz", raw)


def test_a_pruned_dictionary_needs_a_quantized_matrix(tmp_path):
    """The library refuses such a file too."""
    with pytest.raises(ModelFileError, match="not quantized"):
        read(tmp_path / "a.ftz", fasttext_bytes(pruned=[], bucket=1))


@pytest.mark.parametrize(("place", "value"), [(0, 4), (1, 4), (2, 0), (2, 6), (3, 2)])
def test_a_quantizer_that_does_not_fit_is_refused(tmp_path, place, value):
    """Parts, their width and the last one's follow from the columns."""
    raw = bytearray(pruned_file(tmp_path / "a.ftz").read_bytes())
    at = raw.index(struct.pack("<4i", 5, 3, 2, 1))
    struct.pack_into("<i", raw, at + 4 * place, value)
    with pytest.raises(ModelFileError, match="for a matrix of 5 columns"):
        read(tmp_path / "a.ftz", bytes(raw))


def test_codes_that_do_not_fit_are_refused(tmp_path):
    """A quantized matrix has one code for each part of each row."""
    raw = pruned_file(tmp_path / "a.ftz").read_bytes()
    head = struct.pack("<2qi", 10, 5, 30)
    assert head in raw
    changed = raw.replace(head, struct.pack("<2qi", 9, 5, 30), 1)
    with pytest.raises(ModelFileError, match="30 codes for 9 rows of 3"):
        read(tmp_path / "a.ftz", changed)


def test_a_word_without_end_is_refused(tmp_path):
    """A dictionary is read in steps of 64 KiB, and no word is as long."""
    with pytest.raises(ModelFileError, match="does not end within 65536 bytes"):
        read(tmp_path / "a.ftz", fasttext_bytes(words=["x" * 70_000]))


@pytest.mark.parametrize("rows", [2**62, 2**40, -1])
def test_a_matrix_larger_than_the_file_is_refused(tmp_path, rows):
    """The claim is held against the bytes that are left."""
    raw = fasttext_bytes()
    second = raw.rindex(struct.pack("<2q", 3, 4))
    changed = raw[:second] + struct.pack("<2q", rows, 4) + raw[second + 16 :]
    with pytest.raises(ModelFileError, match=r"truncated|claims a matrix"):
        read(tmp_path / "a.ftz", changed)


@given(
    st.lists(st.binary(min_size=1, max_size=300).filter(lambda raw: b"\0" not in raw), max_size=400)
)
def test_words_may_hold_anything_but_a_zero(tmp_path_factory, words):
    """Words of any bytes and length are counted, wherever a step of reading cuts them."""
    path = tmp_path_factory.mktemp("words") / "a.ftz"
    facts = read(path, fasttext_bytes(words=words, dim=1))
    assert facts.vocabulary_size == len(words)


def test_a_dictionary_of_many_steps_is_counted(tmp_path):
    """A million bytes of words are seventeen steps; what a step cuts is read again."""
    words = [f"{number:05d}".ljust(50 + number % 37, "w") for number in range(16_000)]
    facts = read(tmp_path / "a.ftz", fasttext_bytes(words=words, dim=1))
    assert facts.vocabulary_size == 16_000
    assert facts.parameter_count == 16_003


def test_more_entries_than_the_library_takes_are_refused(tmp_path):
    """The claim alone is enough; no entry is read."""
    raw = bytearray(fasttext_bytes())
    words = limits.FASTTEXT_ENTRIES
    struct.pack_into("<3i", raw, 64, words + 3, words, 3)
    with pytest.raises(ModelFileError, match=f"claims {words} words and 3 labels"):
        read(tmp_path / "a.ftz", bytes(raw))
