"""Every view, panel and card on a narrow page: nothing is cut off, overlaps or is too wide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.models]


def test_everything_fits_into_800_pixels(lab: Any, make_notebook: Callable[..., str]) -> None:
    """After real runs of four models, no text of a figure is cut off or lies on another."""
    from picture_misfits import misfits
    from take_view_pictures import cells_of

    setup, views = cells_of("small")
    lab.page.set_viewport_size({"width": 800, "height": 2600})
    lab.open(make_notebook([*setup, *views.values()]))
    lab.page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
    lab.run_all()
    assert lab.failures() == []
    lab.page.wait_for_timeout(1500)
    outputs = lab.page.locator(".jp-Notebook .jp-CodeCell .jp-OutputArea")
    found: dict[str, list[str]] = {}
    for name in views:
        number = len(setup) + list(views).index(name)
        cell = lab.page.locator(".jp-Notebook .jp-CodeCell").nth(number)
        output = cell.locator(".jp-OutputArea").first
        output.scroll_into_view_if_needed()
        found[name] = misfits(output)
    assert {name: said for name, said in found.items() if said} == {}
    # Were there a text that does not fit, it would be found.
    figure = lab.page.locator(".js-plotly-plot .gtitle").first
    figure.evaluate("title => title.setAttribute('x', '-20')")
    assert any(
        "cut off" in said
        for number in range(outputs.count())
        for said in misfits(outputs.nth(number))
    )
