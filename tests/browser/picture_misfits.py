"""What does not fit in the output of a cell: texts that are cut off or overlap, and wide parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Locator

__all__ = ["misfits"]

# What scrolls within a region made for it fits; plotly draws what is under the mouse elsewhere.
_FIND = """area => {
    const found = [];
    const right = area.getBoundingClientRect().right + 1;
    const scrolls = node => node !== area && getComputedStyle(node).overflowX === 'auto'
        && node.scrollWidth > node.clientWidth + 1 && node.tabIndex < 0;
    for (const node of area.querySelectorAll('*')) {
        if (scrolls(node)) found.push(`scrolls sideways: ${node.innerText.slice(0, 40)}`);
        if (node.parentElement.closest('[role=region], svg, .jp-OutputPrompt, .modebar')) continue;
        let above = node.parentElement;
        while (above !== area && !scrolls(above)) above = above.parentElement;
        const box = node.getBoundingClientRect();
        if (above === area && box.width && box.right > right)
            found.push(`reaches ${Math.round(box.right - right)} px beyond its cell: `
                + `<${node.tagName.toLowerCase()} class="${node.className}">`);
    }
    for (const plot of area.querySelectorAll('.js-plotly-plot')) {
        const frame = plot.querySelector('.main-svg').getBoundingClientRect();
        const texts = [...plot.querySelectorAll('.main-svg text')].filter(
            text => text.textContent.trim() && text.getBoundingClientRect().width
                && getComputedStyle(text).visibility !== 'hidden'
                && !text.closest('.hoverlayer') && !text.classList.contains('slicetext'));
        // The second line of one text may reach below the first line of the next.
        const lines = texts.flatMap(text => {
            const found = [...text.querySelectorAll('tspan.line')];
            return found.length ? found : [text];
        });
        const boxes = lines.map(line => [line.textContent, line.getBoundingClientRect()]);
        for (const [said, box] of boxes)
            if (box.left < frame.left - 1 || box.right > frame.right + 1
                || box.top < frame.top - 1 || box.bottom > frame.bottom + 1)
                found.push(`cut off: ${said}`);
        boxes.forEach(([one, a], place) => boxes.slice(place + 1).forEach(([other, b]) => {
            const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            // The boxes of two lines meet by a few pixels in which no letter is.
            if (wide > 1 && high > 6) found.push(`on each other: ${one} | ${other}`);
        }));
    }
    return [...new Set(found)];
}"""


def misfits(output: Locator) -> list[str]:
    """Return what does not fit, in words.

    Parameters
    ----------
    output : Locator
        The output of a cell.
    """
    found: list[str] = output.evaluate(_FIND)
    return found
