"""What ggml's allocator reserves for a graph: the same rules, replayed on sizes alone.

A tensor is allocated when it is first needed, in the smallest free gap that holds it, and freed
after its last use; some operations write over one of their sources. Gaps that nothing fits into
remain, which is why the answer is found by replaying and not by a sum of what is live.
Source: ggml, ``ggml-alloc.c`` (``ggml_dyn_tallocr_alloc``, ``ggml_gallocr_alloc_graph_impl``)
and ``ggml-backend.cpp`` (``ggml_backend_sched_split_graph``), at llama.cpp 0c1e57098.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Graph", "Tensor", "reserve", "split"]

_ENDLESS = 1 << 62


class Tensor:
    """A tensor that the graph computes or is given; weights and caches are not among them.

    Parameters
    ----------
    size : int
        Bytes.
    sources : sequence of Tensor
        What it is computed from.
    layout : tuple of int, optional
        Its shape, if it is contiguous: only then may it be written over a source of equal layout.
    view : bool
        It is another look at its first source, or at what that one is a view of.
    inplace : bool
        Its operation may write over a source.
    given : bool
        An input of the graph.
    kept : bool
        An output, which is never overwritten.
    backend : int
        Where it is computed and stored.
    """

    __slots__ = (
        "allocated", "backend", "children", "given", "inplace", "kept", "layout", "offset",
        "place", "root", "size", "sources", "views",
    )  # fmt: skip

    def __init__(
        self,
        size: int,
        sources: Sequence[Tensor] = (),
        *,
        layout: tuple[int, ...] = (),
        view: bool = False,
        inplace: bool = False,
        given: bool = False,
        kept: bool = False,
        backend: int = 0,
    ) -> None:
        self.size = size
        self.sources = list(sources)
        self.layout = layout
        # A view without a source of ours looks into a cache.
        self.root: Tensor | None = None
        if view:
            self.root = (sources[0].root or sources[0]) if sources else self
        self.inplace = inplace
        self.given = given
        self.kept = kept
        self.backend = backend
        self.children = self.views = 0
        self.allocated = False
        self.place = self.offset = 0


class Graph:
    """The nodes of a graph in the order in which they are computed, and its inputs."""

    def __init__(self) -> None:
        self.leafs: list[Tensor] = []
        self.nodes: list[Tensor] = []
        self._seen: set[int] = set()

    def expand(self, tensor: Tensor) -> None:
        """Add a tensor after everything that it is computed from."""
        if id(tensor) in self._seen:
            return
        self._seen.add(id(tensor))
        for source in tensor.sources:
            self.expand(source)
        (self.leafs if tensor.given else self.nodes).append(tensor)


class _Buffer:
    """Free gaps of one buffer, by address; the last one has no end."""

    def __init__(self, alignment: int) -> None:
        self._alignment = alignment
        self._gaps = [(0, _ENDLESS)]
        self.most = 0

    def padded(self, size: int) -> int:
        return -(-size // self._alignment) * self._alignment

    def take(self, size: int) -> int:
        size = self.padded(size)
        best = -1
        for index in range(len(self._gaps) - 1):
            length = self._gaps[index][1]
            if length >= size and (best < 0 or length <= self._gaps[best][1]):
                best = index
        offset, length = self._gaps[best]
        if length == size:
            del self._gaps[best]
        else:
            self._gaps[best] = (offset + size, length - size)
        self.most = max(self.most, offset + size)
        return offset

    def give(self, offset: int, size: int) -> None:
        size = self.padded(size)
        gaps = self._gaps
        index = 0
        while index < len(gaps) and gaps[index][0] < offset:
            index += 1
        gaps.insert(index, (offset, size))
        if index + 1 < len(gaps) and offset + size == gaps[index + 1][0]:
            gaps[index] = (offset, size + gaps[index + 1][1])
            del gaps[index + 1]
        if index and sum(gaps[index - 1]) == offset:
            gaps[index - 1] = (gaps[index - 1][0], gaps[index - 1][1] + gaps[index][1])
            del gaps[index]


def reserve(graph: Graph, backends: int = 1, alignment: int = 32) -> list[int]:
    """Return the bytes of each backend's buffer that a graph needs.

    Parameters
    ----------
    graph : Graph
        Each tensor on a backend below ``backends``. It is used up: a graph is reserved once.
    backends : int
    alignment : int
        Of each tensor, in bytes.
    """
    buffers = [_Buffer(alignment) for _ in range(backends)]
    for leaf in graph.leafs:
        _allocate(leaf, buffers)
    for node in graph.nodes:
        if node.root is not None and node.sources:
            node.root.views += 1
        for source in node.sources:
            source.children += 1
    for node in graph.nodes:
        _allocate(node, buffers)
        for source in node.sources:
            source.children -= 1
            if source.children or source.views:
                continue
            if source.root is None:
                _free(source, buffers)
                continue
            source.root.views -= 1
            if not source.root.views and not source.root.children:
                _free(source.root, buffers)
    return [buffer.most for buffer in buffers]


def _allocate(tensor: Tensor, buffers: list[_Buffer]) -> None:
    if tensor.allocated or tensor.root is not None:
        return
    tensor.allocated = True
    if tensor.inplace:
        for source in tensor.sources:
            # A view owns nothing, so that nothing is written over it.
            if not source.allocated or source.kept or source.children != 1 or source.views:
                continue
            if not tensor.layout or tensor.layout != source.layout:
                continue
            tensor.place, tensor.offset = source.place, source.offset
            source.allocated = False
            return
    tensor.place = tensor.backend
    tensor.offset = buffers[tensor.backend].take(tensor.size)


def _free(tensor: Tensor, buffers: list[_Buffer]) -> None:
    if tensor.allocated and not tensor.kept:
        buffers[tensor.place].give(tensor.offset, tensor.size)
        tensor.allocated = False


def split(graph: Graph, copies: int = 1) -> Graph:
    """Return the graph with a copy of each tensor that is read on another backend than its own.

    Parameters
    ----------
    graph : Graph
    copies : int
        More than one where several batches are under way at once (pipeline parallelism): each
        has its own inputs, which stay for the whole graph.
    """
    made: dict[tuple[int, int], Tensor] = {}
    first: list[Tensor] = []
    pieces: list[tuple[list[tuple[Tensor, Tensor]], list[Tensor]]] = [([], [])]
    current = -1
    for node in graph.nodes:
        is_view = node.root is not None
        if not is_view and node.backend != current:
            current = node.backend
            if pieces[-1][1]:
                pieces.append(([], []))
        inputs, members = pieces[-1]
        members.append(node)
        if is_view:
            continue
        for index, source in enumerate(node.sources):
            if source.backend == current:
                continue
            key = (id(source), current)
            if key not in made:
                made[key] = Tensor(
                    source.size, layout=source.layout, backend=current, kept=copies > 1
                )
                inputs.append((source, made[key]))
            node.sources[index] = made[key]
    if copies > 1:
        for leaf in graph.leafs:
            leaf.kept = True
            first.extend(
                Tensor(leaf.size, given=True, kept=True, backend=leaf.backend)
                for _ in range(copies - 1)
            )
    whole = Graph()
    whole.leafs = first
    for inputs, members in pieces:
        for source, copy in inputs:
            # So that the source is kept until it was copied, and the copy is there at the start.
            dependency = Tensor(0, (source,), backend=source.backend)
            dependency.root = dependency
            whole.nodes.extend((dependency, copy))
            if copies > 1:
                whole.leafs.append(copy)
                whole.leafs.extend(
                    Tensor(copy.size, given=True, kept=True, backend=copy.backend)
                    for _ in range(copies - 1)
                )
        whole.nodes.extend(members)
    whole.leafs.extend(graph.leafs)
    return whole
