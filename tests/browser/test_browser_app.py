"""The dashboard as an app: ``raven-lab app`` with real Voilà, and no other machine is asked."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.models,
    pytest.mark.skipif(
        importlib.util.find_spec("voila") is None,
        reason='voila is absent: pip install "ravenxterm-lab[voila]"',
    ),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, demo_directory: Path) -> Iterator[str]:
    """The address that ``raven-lab app`` prints, in a home that holds the real demo models."""
    directory = tmp_path_factory.mktemp("app")
    (directory / "home" / "models").mkdir(parents=True)
    (directory / "home" / "models" / "demo").symlink_to(demo_directory, target_is_directory=True)
    (directory / "person").mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(directory / "person"),
        "RAVENXTERM_HOME": str(directory / "home"),
    }
    log = directory / "log.txt"
    words = ["-m", "ravenxterm_lab.cli", "app", "--no-browser", "--port", str(port)]
    with log.open("wb") as place:
        app = subprocess.Popen(
            [sys.executable, *words],
            env=environment, stdout=place, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        yield _printed(app, log)
    finally:
        # Voilà ends its kernels when it is asked to end, as Ctrl-C asks it.
        app.send_signal(signal.SIGINT)
        try:
            app.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(app.pid, signal.SIGKILL)
            app.wait()


def _printed(app: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and app.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", log.read_text(encoding="utf-8"))
        if found:
            return found[0]
        time.sleep(0.2)
    pytest.fail(f"Voilà did not start:\n{log.read_text(encoding='utf-8')[-3000:]}")


@pytest.fixture
def app(browser: Any, address: str) -> Iterator[Any]:
    """A page that may only ask the app; what else it asked, and its errors, must be none."""
    base = address.partition("?")[0]
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(120_000)
    outside: list[str] = []
    errors: list[str] = []

    def guard(route: Any) -> None:
        if route.request.url.startswith((base, "data:", "blob:")):
            route.continue_()
        else:
            outside.append(route.request.url)
            route.abort()

    def guard_socket(opened: Any) -> None:
        if not opened.url.startswith(base.replace("http", "ws", 1)):
            outside.append(opened.url)

    page.route("**/*", guard)
    page.on("websocket", guard_socket)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    yield page
    context.close()
    assert outside == []
    assert errors == []


def test_the_dashboard_is_a_page_of_its_own(app: Any, address: str, pages: Any) -> None:
    """Ranking, a run, history and live hardware work; no code is shown, nothing is uploaded."""
    app.goto(address)
    board = app.locator(".raven-lab").first
    board.locator("table.raven", has_text="score and its parts").wait_for()
    assert app.title() == "RavenXTerm Lab"
    assert "ModelManager()" not in app.locator("body").inner_text()
    # The icons come from this machine: no font of another one was waited for.
    icon = board.get_by_role("button", name="Run").locator("i")
    assert "Awesome" in icon.evaluate("element => getComputedStyle(element).fontFamily")

    board.get_by_label("max tokens").fill("8")
    board.get_by_role("button", name="Run").click()
    said = board.get_by_role("status").filter(has_text=re.compile(r"\d+ tokens .* tok/s"))
    said.first.wait_for()

    board.get_by_role("tab", name="History").click()
    board.get_by_role("status").filter(has_text="1 execution of 1 model").first.wait_for()
    figure = board.locator(".js-plotly-plot .svg-container:visible")
    figure.locator(".main-svg .trace").first.wait_for(state="attached")
    titles = figure.locator("[data-title]").evaluate_all("all => all.map(one => one.dataset.title)")
    assert any("PNG" in title for title in titles)
    assert not re.search("share|cloud|plotly", " ".join(titles), re.IGNORECASE)

    board.get_by_role("tab", name="Hardware").click()
    board.get_by_role("button", name="Live").click()
    board.get_by_text("Now: CPU load").wait_for()
    # An axis of times, also after the figure was given new samples.
    app.wait_for_function(
        """() => Array.from(document.querySelectorAll('.raven-lab .xaxislayer-above text'))
            .some(tick => /\\d\\d:\\d\\d/.test(tick.textContent))
            && Array.from(document.querySelectorAll('.raven-lab .js-plotly-plot')).some(
                plot => plot.checkVisibility() && plot.data[0].x.length > 2)"""
    )
    board.get_by_role("button", name="Stop").click()
    app.evaluate(pages.AXE.read_text(encoding="utf-8"))
    found = app.evaluate(
        """async () => (await axe.run({include: [['.raven-lab']]},
            {resultTypes: ['violations']})).violations"""
    )
    assert [rule["id"] for rule in found if rule["impact"] in {"serious", "critical"}] == []


def test_a_page_in_the_dark_theme_is_dark(app: Any, address: str) -> None:
    """The address may ask for a theme; our text follows it."""
    colours = []
    for theme in ("light", "dark"):
        app.goto(f"{address}&theme={theme}")
        heading = app.locator(".raven-lab").first.get_by_text("Preferences", exact=True)
        heading.wait_for()
        app.wait_for_function(
            "theme => (document.body.dataset.jpThemeLight === 'true') === (theme === 'light')",
            arg=theme,
        )
        colours.append(
            [
                heading.evaluate("element => getComputedStyle(element).color"),
                app.evaluate("() => getComputedStyle(document.body).backgroundColor"),
            ]
        )
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_only_who_has_the_token_sees_it_and_the_page_may_ask_nobody_else(address: str) -> None:
    """Without the token there is no dashboard; the policy of the page names no other machine."""
    with urllib.request.urlopen(address.partition("?")[0], timeout=60) as answer:
        assert "token" in answer.geturl() or "login" in answer.geturl()
        assert "raven" not in answer.read().decode().lower()
    with contextlib.closing(urllib.request.urlopen(address, timeout=60)) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "//" not in policy
