"""Take pictures of the dashboard in real JupyterLab, with real models, light and dark.

Run it from the checkout, once `raven-lab demo --fetch-only` has fetched the models::

    python tests/browser/take_pictures.py --out pictures
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from jupyter_pages import CHROMIUM, JupyterServer, LabPage, chromium

from ravenxterm_lab.config import paths
from ravenxterm_lab.demo import missing

# Qualities are measured: each question has a known answer, and the judgement is whether it came.
HISTORY = """
from ravenxterm_lab import ModelManager

manager = ModelManager(seed=7)
questions = {
    "What is the capital of France? Answer with one word.": "paris",
    "What colour is a clear sky at noon? Answer with one word.": "blue",
    "What is the capital of Japan? Answer with one word.": "tokyo",
    "How many days are in a week? Answer with one word.": "seven",
    "What is the opposite of hot? Answer with one word.": "cold",
}
for question, answer in questions.items():
    for quantization in ("Q4_0", "Q4_1", "Q8_0"):
        run = manager.run(
            "text_generation",
            question,
            {"quantizations": [quantization]},
            parameters={"max_tokens": 24},
        )
        manager.feedback(run, 1.0 if answer in run.output.lower() else 0.0)
for _ in range(3):
    manager.run("embedding", list(questions))
"""
_DASHBOARD = """
from ravenxterm_lab.widgets import Dashboard

Dashboard(manager)
"""
_MOST_BYTES = 300_000


def main() -> int:
    """Take the pictures; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="directory for the pictures")
    parser.add_argument("--models", type=Path, help="directory of the demo models")
    parser.add_argument("--width", type=int, default=1400, help="of the page, in pixels")
    options = parser.parse_args()
    models = options.models or Path(
        os.environ.get("RAVENXTERM_TEST_MODELS") or paths().models / "demo"
    )
    if not CHROMIUM.exists():
        print(f"{CHROMIUM} is not there: install Debian's chromium.", file=sys.stderr)
        return 1
    if missing(models):
        print(f"{models} lacks models: run `raven-lab demo --fetch-only`.", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="raven-pictures-") as scratch:
        taken = _take(options.out, models, options.width, Path(scratch))
    large = [path for path in taken if path.stat().st_size > _MOST_BYTES]
    for path in taken:
        print(f"{path}  {path.stat().st_size:,} bytes")
    if large:
        print(f"Larger than {_MOST_BYTES:,} bytes: {', '.join(map(str, large))}", file=sys.stderr)
    return 1 if large else 0


def _take(out: Path, models: Path, width: int, scratch: Path) -> list[Path]:
    taken = []
    with JupyterServer(scratch / "lab") as server, chromium(scratch) as browser:
        lab = LabPage(browser, server, width=width, height=1800)
        lab.open(server.notebook("pictures", [HISTORY, _DASHBOARD], models))
        page = lab.page
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        lab.run_all(timeout=300)
        board = page.locator(".jp-OutputArea-output .raven-lab").first
        board.get_by_label("prompt").fill("Explain what a black hole is in one sentence.")
        board.get_by_label("max tokens").fill("48")
        board.get_by_role("button", name="Run").click()
        page.wait_for_selector('button:has-text("Good answer"):not([disabled])')
        board.get_by_role("button", name="Good answer").click()
        page.wait_for_function("document.body.innerText.includes('Judged: quality 1')")
        # The ranking follows the judgement, and is drawn before the next click is answered.
        board.get_by_role("button", name="Select").click()
        for theme, suffix in (("JupyterLab Light", ""), ("JupyterLab Dark", "-dark")):
            lab.theme(theme)
            for tab in ("Select", "History", "Hardware", "Models", "Messages"):
                board.get_by_role("tab", name=tab).click()
                if tab in {"History", "Hardware"}:
                    board.locator(
                        ".js-plotly-plot .svg-container:visible .main-svg"
                    ).first.wait_for()
                page.wait_for_timeout(1500)
                # Neither the ring of the keyboard's focus nor a blinking caret.
                page.evaluate("document.activeElement?.blur()")
                name = "dashboard" if tab == "Select" else f"dashboard-{tab.lower()}"
                taken.append(out / f"{name}{suffix}.png")
                board.screenshot(path=taken[-1])
        problems = [*lab.outside, *lab.errors]
        lab.close()
    if problems:
        raise RuntimeError(f"Requests to other machines, or errors: {problems}")
    return taken


if __name__ == "__main__":
    raise SystemExit(main())
