"""Compute buffers against what llama.cpp logged, with and without flash attention."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ravenxterm_lab.estimation.compute import Batch, compute_buffers
from ravenxterm_lab.estimation.kv import cache_cells
from ravenxterm_lab.estimation.placement import place
from ravenxterm_lab.metadata import AttentionGeometry, NetworkShape

MIB = 2**20
BATCHES = (32, 128, 512)
SMOLLM2 = (NetworkShape(9, 576, 576, 1536), AttentionGeometry((3,) * 30, 64, 64), 576, 49_152)
GEMMA = (
    NetworkShape(4, 1024, 1024, 2048),
    AttentionGeometry(
        (1,) * 18, 256, 256, window=512, windowed=tuple(layer % 6 != 5 for layer in range(18))
    ),
    640,
    262_144,
)
# "CPU compute buffer size" in MiB, as xllamacpp 2026.10.11549 logs it on loading SmolLM2-135M and
# Gemma 3 270M: by context, for batches of 32, 128 and 512 tokens.
SMOLLM2_FLASH = {
    512: (0.95, 3.79, 15.14),
    2048: (1.04, 4.16, 16.64),
    8192: (1.42, 5.66, 22.64),
}
SMOLLM2_PLAIN = {
    512: (1.09, 4.38, 17.51),
    2048: (2.97, 11.88, 47.51),
    8192: (10.47, 41.88, 167.51),
}
GEMMA_FLASH = {
    512: (1.45, 4.82, 19.28),
    2048: (1.56, 5.26, 21.28),
    8192: (1.94, 6.76, 27.28),
}
GEMMA_PLAIN = {
    512: (1.64, 5.57, 22.27),
    2048: (2.11, 8.44, 34.27),
    8192: (5.86, 23.44, 94.27),
}


def buffers(
    model: tuple[NetworkShape, AttentionGeometry, int, int],
    context: int,
    batch_size: int,
    *,
    gpus: int = 0,
    **changes: bool,
) -> tuple[int, ...]:
    cells = cache_cells(model[1], context, batch_size=batch_size)
    placement = place(model[1].layers, None, (1,) * gpus)
    return compute_buffers(*model, 0, 0, Batch(cells, 1, **changes), placement)


@pytest.mark.parametrize(
    ("model", "logged", "flash_attention"),
    [
        (SMOLLM2, SMOLLM2_FLASH, True),
        (SMOLLM2, SMOLLM2_PLAIN, False),
        (GEMMA, GEMMA_FLASH, True),
        (GEMMA, GEMMA_PLAIN, False),
    ],
    ids=["smollm2-flash", "smollm2-plain", "gemma-flash", "gemma-plain"],
)
def test_buffers_are_as_logged(
    model: tuple[NetworkShape, AttentionGeometry, int, int],
    logged: dict[int, tuple[float, ...]],
    flash_attention: bool,
) -> None:
    """Nine loads each: the replayed buffer is the logged one, to the hundredth of a MiB."""
    for context, sizes in logged.items():
        for batch_size, size in zip(BATCHES, sizes, strict=True):
            (found,) = buffers(model, context, batch_size, flash_attention=flash_attention)
            assert found / MIB == pytest.approx(size, abs=0.0051), (context, batch_size)


def test_a_quantized_cache_is_rotated_first() -> None:
    """With q8_0 the log says 21.81 MiB for Gemma 3 and 16.67 for SmolLM2 at 2,048 tokens."""
    turned = {"rotated_keys": True, "rotated_values": True}
    assert buffers(GEMMA, 2048, 512, **turned)[0] / MIB == pytest.approx(21.81, abs=0.0051)
    assert buffers(SMOLLM2, 2048, 512, **turned)[0] / MIB == pytest.approx(16.67, abs=0.0051)


@settings(deadline=None)
@given(st.integers(1, 4096), st.integers(1, 2048))
def test_scores_are_what_flash_attention_saves(context: int, batch_size: int) -> None:
    """Without it the buffer holds the scores of all heads: never less, and that much at least."""
    flash = buffers(SMOLLM2, context, batch_size)[0]
    plain = buffers(SMOLLM2, context, batch_size, flash_attention=False)[0]
    cells = cache_cells(SMOLLM2[1], context, batch_size=batch_size)
    assert plain >= flash
    assert plain >= 4 * 9 * cells.full * cells.batch


def test_pipelines_keep_four_copies_of_the_inputs() -> None:
    """On several GPUs each holds four masks and four hidden states: more than one GPU alone."""
    alone = buffers(SMOLLM2, 8192, 512, gpus=1)
    several = buffers(SMOLLM2, 8192, 512, gpus=3)
    mask = 8192 * 512 * 2
    assert len(several) == 4
    assert all(size - alone[1] >= 3 * mask for size in several[1:])
