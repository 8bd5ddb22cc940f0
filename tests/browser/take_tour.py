"""Film a short tour of real JupyterLab with real models, as an animated GIF.

Run it from the checkout, once `raven-lab demo --fetch-only` has fetched the models. It needs
Debian's ffmpeg (`apt-get install ffmpeg`) besides Chromium::

    python tests/browser/take_tour.py --out data/tour.gif

Three cells, the dashboard, another mode and a limit that change the ranking, a run whose answer
streams, a judgement, the history and the hardware, live. Nothing is acted: each frame is a picture
of the page. The begin of the answer and the live load run at their own speed; waiting for anything
else is cut short.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_pages import CHROMIUM, JupyterServer, LabPage, chromium
from take_pictures import HISTORY

from ravenxterm_lab.config import paths
from ravenxterm_lab.demo import missing

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator

_CELLS = [
    "from ravenxterm_lab import ModelManager\nfrom ravenxterm_lab.widgets import Dashboard",
    "manager = ModelManager()\nmanager",
    "Dashboard(manager)",
]
_PROMPT = "Why is the sky blue? Explain it to a child."
_MOST_BYTES = 1_500_000
_COLOURS = 128
# Headless Chromium draws no pointer.
_POINTER = """() => {
    const pointer = document.createElement('div');
    pointer.innerHTML = '<svg width="22" height="26" viewBox="0 0 22 26"><path d="M2 2v18l5-5 4 9 '
        + '4-2-4-8h7z" fill="black" stroke="white" stroke-width="1.5"/></svg>';
    pointer.style = 'position:fixed;left:-50px;top:0;z-index:99999;pointer-events:none';
    document.body.append(pointer);
    document.addEventListener('mousemove', event => {
        pointer.style.left = `${event.clientX - 2}px`;
        pointer.style.top = `${event.clientY - 2}px`;
    }, true);
}"""


class Film:
    """Pictures of a page, each with how long it stands.

    Parameters
    ----------
    lab : LabPage
        What is filmed.
    directory : Path
        For the frames.
    """

    def __init__(self, lab: LabPage, directory: Path) -> None:
        self.lab = lab
        self._directory = directory
        self._frames: list[tuple[Path, float]] = []

    @property
    def seconds(self) -> float:
        """How long it is."""
        return sum(seconds for _, seconds in self._frames)

    def take(self, seconds: float) -> None:
        """Take a picture that stands so long."""
        path = self._directory / f"{len(self._frames):04}.png"
        self.lab.page.screenshot(path=path)
        self._frames.append((path, seconds))

    def follow(self, seconds: float, done: Callable[[], bool], every: float = 0.2) -> None:
        """Film at the page's own speed until something is done, or so many seconds have passed."""
        begin = time.monotonic()
        while not done() and time.monotonic() - begin < seconds:
            start = time.monotonic()
            self.take(every)
            time.sleep(max(every - (time.monotonic() - start), 0))
            self._frames[-1] = (self._frames[-1][0], time.monotonic() - start)

    def click(self, target: Locator, seconds: float = 0.5) -> None:
        """Go to a control, stand there, and click it."""
        box = target.bounding_box()
        assert box is not None, target
        x, y = box["x"] + min(box["width"] / 2, 60), box["y"] + box["height"] / 2
        self.lab.page.mouse.move(x, y)
        self.take(seconds)
        self.lab.page.mouse.click(x, y)

    def write(self, path: Path) -> None:
        """Write it as a GIF with one palette."""
        told = "".join(f"file '{frame}'\nduration {told:.2f}\n" for frame, told in self._frames)
        script = self._directory / "frames.txt"
        # ffmpeg takes no notice of how long the last one stands, unless it comes twice.
        script.write_text(f"{told}file '{self._frames[-1][0]}'\n", encoding="utf-8")
        filters = (
            f"split[a][b];[a]palettegen=max_colors={_COLOURS}:stats_mode=full[p];"
            "[b][p]paletteuse=dither=none:diff_mode=rectangle"
        )
        subprocess.run(
            [
                *("ffmpeg", "-y", "-loglevel", "error", "-f", "concat", "-safe", "0"),
                *("-i", script, "-filter_complex", filters),
                *("-fps_mode", "vfr", "-loop", "0", path),
            ],
            check=True,
        )


def main() -> int:
    """Film the tour; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the GIF")
    parser.add_argument("--frames", type=Path, help="keep the frames in this directory")
    parser.add_argument("--models", type=Path, help="directory of the demo models")
    parser.add_argument("--width", type=int, default=1080, help="of the page, in pixels")
    parser.add_argument("--height", type=int, default=740, help="of the page, in pixels")
    options = parser.parse_args()
    models = options.models or Path(
        os.environ.get("RAVENXTERM_TEST_MODELS") or paths().models / "demo"
    )
    if not CHROMIUM.exists() or shutil.which("ffmpeg") is None:
        print("Install Debian's chromium and ffmpeg.", file=sys.stderr)
        return 1
    if missing(models):
        print(f"{models} lacks models: run `raven-lab demo --fetch-only`.", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="raven-tour-") as scratch,
        JupyterServer(Path(scratch) / "lab") as server,
        chromium(Path(scratch)) as browser,
    ):
        frames = options.frames or Path(scratch) / "frames"
        frames.mkdir(parents=True, exist_ok=True)
        lab = LabPage(browser, server, width=options.width, height=options.height)
        lab.open(server.notebook("tour", _CELLS, models))
        film = Film(lab, frames)
        _shoot(film)
        problems = [*lab.outside, *lab.errors]
        lab.close()
        film.write(options.out)
    size = options.out.stat().st_size
    print(f"{options.out}  {film.seconds:.1f} s  {size:,} bytes")
    if problems:
        raise RuntimeError(f"Requests to other machines, or errors: {problems}")
    if size > _MOST_BYTES:
        print(f"Larger than {_MOST_BYTES:,} bytes.", file=sys.stderr)
    return int(size > _MOST_BYTES)


def _shoot(film: Film) -> None:
    lab, page = film.lab, film.lab.page
    for command in (
        "'application:toggle-left-area'",
        "'application:toggle-side-tabbar', {side: 'left'}",
        "'application:toggle-side-tabbar', {side: 'right'}",
        "'statusbar:toggle'",
    ):
        page.evaluate(f"window.jupyterapp.commands.execute({command})")
    lab.execute(HISTORY)
    page.evaluate(_POINTER)
    page.locator(".jp-Notebook .jp-CodeCell").first.click()
    film.take(0.7)
    for number in range(len(_CELLS)):
        page.keyboard.press("Shift+Enter")
        page.wait_for_function(
            f"""Array.from(window.jupyterapp.shell.currentWidget.content.model.cells)[{number}]
                .executionCount !== null"""
        )
        page.wait_for_timeout(300)
        film.take(0.8 if number == 1 else 0.3)
    board = page.locator(".jp-OutputArea-output .raven-lab").first
    board.locator("table.raven").first.wait_for()
    _top(board)
    page.wait_for_timeout(500)
    film.take(1.1)

    ranking = board.locator("table.raven", has_text="score and its parts")
    before = ranking.inner_text()
    film.click(board.get_by_role("radio", name="speed"))
    page.wait_for_timeout(300)
    film.click(board.get_by_role("button", name="Apply"), 0.5)
    page.wait_for_function(
        "before => !document.querySelector('.raven-lab').innerText.includes(before)",
        arg=before.splitlines()[-1],
    )
    page.wait_for_timeout(400)
    film.take(1.0)
    # The largest of the small models falls out, and another one leads.
    film.click(board.get_by_label("max size"), 0.3)
    page.keyboard.type("100")
    film.take(0.4)
    page.keyboard.press("Enter")
    board.get_by_text("2 feasible").first.wait_for()
    page.wait_for_timeout(400)
    film.take(1.4)

    board.get_by_label("prompt").fill(_PROMPT)
    _top(board.get_by_label("why not"))
    board.get_by_label("max tokens").fill("120")
    film.click(board.get_by_role("button", name="Run"), 0.4)
    good = board.get_by_role("button", name="Good answer")
    film.follow(2.0, good.is_enabled)
    page.wait_for_selector('button:has-text("Good answer"):not([disabled])')
    film.take(0.5)
    film.click(good, 0.4)
    page.wait_for_function("document.body.innerText.includes('Judged: quality 1')")
    film.take(0.8)

    figure = board.locator(".js-plotly-plot .svg-container:visible .main-svg").first
    _top(board)
    for tab in ("History", "Hardware"):
        film.click(board.get_by_role("tab", name=tab), 0.3)
        figure.wait_for()
        _top(board)
        page.wait_for_timeout(1000)
        film.take(1.1 if tab == "History" else 0.4)
    board.get_by_label("window").locator("visible=true").select_option("last minute")
    page.wait_for_timeout(1000)
    film.click(board.get_by_role("button", name="Live"), 0.4)
    board.get_by_text("Now:").wait_for()
    page.wait_for_timeout(1000)
    film.follow(2.0, lambda: False, every=0.5)
    board.get_by_role("button", name="Stop").click()


def _top(target: Locator) -> None:
    """Scroll so that something stands at the top of the page."""
    target.evaluate("node => node.scrollIntoView({block: 'start'})")


if __name__ == "__main__":
    raise SystemExit(main())
