"""The replay of ggml's allocator: each rule by itself, on graphs small enough to do by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.estimation.allocation import Graph, Tensor, reserve, split


def graph_of(*outputs: Tensor) -> Graph:
    graph = Graph()
    for tensor in outputs:
        graph.expand(tensor)
    return graph


def test_what_was_read_last_gives_its_place() -> None:
    """Three of 64 bytes in a row: the first is free when the third is made, so two places do."""
    a = Tensor(64, given=True)
    c = Tensor(64, (Tensor(64, (a,)),))
    assert reserve(graph_of(c)) == [128]


def test_an_operation_in_place_takes_its_source_s() -> None:
    """The only reader of a source of equal shape writes over it."""
    a = Tensor(64, given=True, layout=(16,))
    assert reserve(graph_of(Tensor(64, (a,), layout=(16,), inplace=True))) == [64]


def test_a_source_that_is_read_again_is_not_overwritten() -> None:
    """A residual is still needed after the norm."""
    a = Tensor(64, given=True, layout=(16,))
    norm = Tensor(64, (a,), layout=(16,), inplace=True)
    total = Tensor(64, (norm, a), layout=(16,), inplace=True)
    assert reserve(graph_of(total)) == [128]


def test_a_view_is_never_overwritten() -> None:
    """A view owns no memory: what is computed in place from it is new."""
    a = Tensor(64, given=True, layout=(16,))
    view = Tensor(64, (a,), layout=(16,), view=True)
    assert reserve(graph_of(Tensor(64, (view,), layout=(16,), inplace=True))) == [128]


def test_the_smallest_gap_that_holds_it_is_taken() -> None:
    """Gaps of 256 and of 96 bytes: 64 bytes go into the smaller, 256 then still fit."""
    # Inputs lie in order; the two wide ones are freed by their readers, the fences stay.
    large, small = Tensor(256, given=True), Tensor(96, given=True)
    fence, end = Tensor(32, given=True, kept=True), Tensor(32, given=True, kept=True)
    first = Tensor(32, (large, fence, small, end))
    second = Tensor(64, (first,))
    third = Tensor(256, (second,))
    # 256 + 32 + 96 + 32, and the first node beyond: nothing else needs new memory.
    assert reserve(graph_of(third)) == [448]


def test_outputs_stay() -> None:
    """A kept tensor is not freed when it was read."""
    a = Tensor(64, kept=True, sources=(Tensor(64, given=True),))
    b = Tensor(64, (a,))
    assert reserve(graph_of(Tensor(64, (b,)))) == [192]


def test_sizes_are_padded() -> None:
    """A byte takes the alignment."""
    assert reserve(graph_of(Tensor(1, given=True)), alignment=128) == [128]


def test_another_backend_gets_a_copy() -> None:
    """What a GPU reads of the host's is copied; the copies of a pipeline stay, four of each."""

    def two() -> Graph:
        given = Tensor(256, given=True)
        return graph_of(Tensor(256, (Tensor(256, (given,), backend=1),), backend=1))

    assert reserve(split(two()), 2, 128) == [256, 512]
    # Four inputs on the host, four copies on the GPU, and two nodes.
    assert reserve(split(two(), 4), 2, 128) == [1024, 6 * 256]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 5)), min_size=1, max_size=40))
def test_the_reserve_lies_between_what_is_live_and_everything(
    steps: list[tuple[int, int]],
) -> None:
    """No graph needs less than its largest step, nor more than all of its tensors."""
    nodes = [Tensor(64, given=True)]
    largest = 0
    for size, back in steps:
        sources = (nodes[-1], nodes[max(0, len(nodes) - 1 - back)])
        nodes.append(Tensor(size, dict.fromkeys(sources)))
        largest = max(largest, size + sources[0].size)
    everything = sum(-(-node.size // 32) * 32 for node in nodes)
    (found,) = reserve(graph_of(nodes[-1]))
    assert largest <= found <= everything
