"""The contract of a reader: bytes in, facts out, nothing executed.

A reader looks at one file's header. It owns the file only while ``read`` runs, keeps no state,
and may be called from any thread. Whatever is wrong with the file, it raises ``ModelFileError``
and nothing else, in bounded time and memory (the caps are in ``limits``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from ravenxterm_lab.readers.binary import FileWindow

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ravenxterm_lab.metadata import AttentionGeometry, ModelType, NetworkShape, WeightLayout

__all__ = ["FACTS_VERSION", "FileFacts", "Reader", "TensorSignature", "active_parameters"]

#: To be raised with every change of what a reader says of the same file: facts that an earlier
#: version read are then not trusted, and the files are read again.
FACTS_VERSION = 5


def active_parameters(total: int, in_experts: int, experts: tuple[int, int] | None) -> int:
    """Return the parameters that one token meets: of the routed experts only those in use.

    Parameters
    ----------
    total, in_experts : int
        All parameters, and those in routed experts.
    experts : tuple of int or None
        Experts of a layer, and how many of them one token meets.

    Examples
    --------
    >>> active_parameters(1000, 800, (8, 2))
    400
    """
    if experts is None or not 0 < experts[1] <= experts[0]:
        return total
    return total - in_experts + in_experts * experts[1] // experts[0]


@dataclass(frozen=True, slots=True)
class TensorSignature:
    """One input or output of a graph.

    Attributes
    ----------
    name : str
    dtype : str
        Such as ``"F32"`` or ``"I64"``.
    shape : tuple of int or str or None
        A number, the name of a symbolic dimension, or None where it is not known.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] = ()


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What one file's header says. Sizes in bytes, lengths in tokens.

    Attributes
    ----------
    model_type : ModelType
    size_bytes : int
        Of this file.
    kind : str
        ``"model"``, ``"projector"``, ``"adapter"``, ``"vocabulary"`` or ``"other"``.
    name : str or None
        What the file calls itself; not unique.
    architecture, quantization, license : str or None
    parameter_count, active_parameter_count : int or None
        Sum of the tensors' elements; active per token for mixtures of experts.
    context_length, embedding_length, vocabulary_size : int or None
    attention : AttentionGeometry or None
    weight_layout : WeightLayout or None
        Where the bytes of this file's tensors are.
    network : NetworkShape or None
    task_types : tuple of str
    expert_parameter_count : int
        Elements in the routed experts' tensors.
    experts : tuple of int or None
        Routed experts of a layer, and how many of them one token meets.
    file_type : int or None
        ``general.file_type`` of GGUF: the mixture that its writer says it is.
    tensor_bytes : mapping of str to int
        Bytes of tensor data by tensor type.
    split : tuple of int or None
        Index (from 0) and count, where the file itself says that it is one shard of several.
    external : tuple of str
        Names, relative to the file's directory, of files that hold its tensors.
    inputs, outputs : tuple of TensorSignature
        The signature of an ONNX graph.
    pickle_globals : tuple of str
        What a pickle in the file would import if it were loaded, such as ``"os.system"``.
    problems : tuple of str
        What makes the file unusable although it could be read.
    notes : tuple of str
    """

    model_type: ModelType
    size_bytes: int = 0
    kind: str = "model"
    name: str | None = None
    architecture: str | None = None
    parameter_count: int | None = None
    active_parameter_count: int | None = None
    expert_parameter_count: int = 0
    experts: tuple[int, int] | None = None
    file_type: int | None = None
    quantization: str | None = None
    context_length: int | None = None
    attention: AttentionGeometry | None = None
    weight_layout: WeightLayout | None = None
    network: NetworkShape | None = None
    embedding_length: int | None = None
    vocabulary_size: int | None = None
    task_types: tuple[str, ...] = ()
    license: str | None = None
    tensor_bytes: Mapping[str, int] = field(default_factory=dict, hash=False)
    split: tuple[int, int] | None = None
    external: tuple[str, ...] = ()
    inputs: tuple[TensorSignature, ...] = ()
    outputs: tuple[TensorSignature, ...] = ()
    pickle_globals: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Reader(ABC):
    """Reads the header of one format.

    Attributes
    ----------
    model_type : ModelType
    suffixes : tuple of str
        Lower-case file suffixes that the format usually has.
    """

    model_type: ClassVar[ModelType]
    suffixes: ClassVar[tuple[str, ...]]
    chunk: ClassVar[int] = 1 << 16

    @abstractmethod
    def sniff(self, path: Path, head: bytes) -> bool:
        """Say whether a file with these first bytes is of this format.

        Parameters
        ----------
        path : Path
            For formats that only a suffix tells apart.
        head : bytes
            The first bytes of the file.
        """

    @abstractmethod
    def parse(self, window: FileWindow) -> FileFacts:
        """Read the facts from an open file (see ``read``)."""

    def read(self, path: Path) -> FileFacts:
        """Read the facts from a file's header.

        Raises
        ------
        ModelFileError
            If the file cannot be opened, is truncated, hostile or of another format.
        """
        with FileWindow(path, self.chunk) as window:
            return self.parse(window)

    @staticmethod
    def not_this_format(window: FileWindow, expected: str) -> str:
        """Say what a file is that does not start as its format must, as far as its head tells."""
        head = window.head(256)
        if not head:
            return "is empty. Download it again."
        if head.startswith(b"version https://git-lfs"):
            return "is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`."
        if head.lstrip()[:1] == b"<":
            return "is an HTML or XML page, not a model. Download it again (a login may be needed)."
        if not head.strip(b"\0"):
            return "holds only zeros at its start: an unfinished download. Download it again."
        return f"is not {expected}: it starts with {head[:8]!r}."
