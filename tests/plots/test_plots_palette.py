"""The four colours: contrast on both themes, and told apart by the colour-blind."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ravenxterm_lab.plots.theme import (
    COLOURS,
    OTHERS,
    see_through,
    series_style,
    style,
    text_on,
)

#: White, and the three layers of JupyterLab's dark theme (--jp-layout-color0, 1 and 2).
BACKGROUNDS = ["#ffffff", "#111111", "#212121"]
#: For linear RGB, at full severity; G. M. Machado, M. M. Oliveira, L. A. F. Fernandes: "A
#: Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 15(6), 2009,
#: table of the supplementary material.
BLINDNESS = {
    "none": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
#: sRGB to XYZ with the white of D65 (IEC 61966-2-1).
TO_XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375],
    [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
#: Difference in CIELAB (CIE76); 2.3 is just noticeable (M. Mahy, L. Van Eycken, A. Oosterlinck,
#: "Evaluation of uniform color spaces", Color Research & Application 19(2), 1994).
JUST_NOTICEABLE = 2.3


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    ratio = TO_XYZ @ np.clip(rgb, 0, 1) / (TO_XYZ @ np.ones(3))
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("colour", [*COLOURS, OTHERS])
def test_every_colour_stands_out_on_light_and_on_dark(colour: str, background: str) -> None:
    """WCAG 2.2, 1.4.11: graphics have a contrast of 3:1 against their background."""
    assert contrast(colour, background) >= 3


@pytest.mark.parametrize("colour", [*COLOURS, OTHERS])
def test_text_on_a_colour_can_be_read(colour: str) -> None:
    """WCAG 2.2, 1.4.3: text on a tile has a contrast of 4.5:1; 3:1 where it is the large grey."""
    assert contrast(text_on(colour), colour) >= (4.5 if colour != OTHERS else 3)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colours_are_told_apart_by_the_colour_blind(kind: str) -> None:
    """Any two differ by at least six times what is just noticeable, whatever cone is missing."""
    seen = [lab(np.array(BLINDNESS[kind]) @ linear(colour)) for colour in COLOURS]
    least = min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2))
    assert least >= 6 * JUST_NOTICEABLE


def test_a_mark_that_is_seen_through_keeps_its_outline() -> None:
    """The fill lets others through; the outline has the colour, and with it the contrast."""
    marker = see_through({"color": COLOURS[0], "size": 8})
    assert marker["line"]["color"] == COLOURS[0]
    assert marker["color"] == "rgba(0,114,178,0.6)"
    assert marker["size"] == 8


def test_series_differ_without_colour_too() -> None:
    """Eight series: no two share marker and dash; the others are grey and dotted."""
    looks = [(style(i)["marker"]["symbol"], style(i)["line"]["dash"]) for i in range(8)]
    assert len(set(looks)) == 8
    assert series_style(7, None)["line"] == {"color": OTHERS, "dash": "dot"}
