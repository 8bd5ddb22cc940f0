"""The look of the panels: one style sheet of JupyterLab's variables, and escaped HTML."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from ravenxterm_lab.plots.theme import COLOURS, FOLLOW_THEME, OTHERS
from ravenxterm_lab.tables import printable

if TYPE_CHECKING:
    from ravenxterm_lab.plots import Rows

__all__ = ["PART_COLOURS", "STYLE", "bar", "escape", "note", "rows_table", "status", "table"]

#: The colours of a score's parts, the same as in ``plots.ranking``.
PART_COLOURS = dict(zip(("quality", "latency", "memory"), COLOURS, strict=False))

# In JupyterLab's command mode a letter typed on a focused drop-down, radio button or tab works
# on the cells ("x" cuts one), and arrows move between them, so that the controls could not be
# used by keyboard. Lumino passes over an element that carries this attribute itself.
_OWN_KEYS = (
    "const root = this.closest('.raven-lab'); if (root) root.addEventListener('focusin', "
    "event => event.target.setAttribute('data-lm-suppress-shortcuts', 'true'))"
)

# The arrow of ipywidgets' drop-downs is black, and is not seen on dark.
_ARROW = (
    "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    f"%3Cpath d='M5 7l4 4 4-4' fill='none' stroke='%23{OTHERS[1:]}' stroke-width='2'/%3E"
    '%3C/svg%3E")'
)

STYLE = (
    f'<style onload="{_OWN_KEYS}">'
    """
.raven-lab { --jp-widgets-dropdown-arrow: ARROW; }
.raven-lab { color: var(--jp-ui-font-color1); font-family: var(--jp-ui-font-family);
  font-size: var(--jp-ui-font-size1, 13px); }
.raven-lab .widget-html-content { line-height: 1.45; height: auto; align-self: stretch; }
.raven-lab .widget-html { height: auto; max-width: 100%; }
.raven-lab .widget-html-content { min-width: 0; }
.raven-lab h3 { font-size: 1.15em; font-weight: 600; margin: 2px 0 6px 0; }
.raven-lab .raven-dim { color: var(--jp-ui-font-color2); }
.raven-lab .raven-status { min-height: 1.45em; }
.raven-lab .raven-error { color: var(--jp-ui-font-color1);
  border-left: 4px solid var(--jp-error-color1); padding-left: 8px; }
.raven-lab .raven-scroll { overflow-x: auto; }
.raven-lab table.raven { border-collapse: collapse; margin: 2px 0 6px 0; }
.raven-lab table.raven caption { text-align: left; color: var(--jp-ui-font-color2);
  padding: 0 0 2px 0; }
.raven-lab table.raven th, .raven-lab table.raven td { text-align: left; vertical-align: top;
  padding: 3px 12px 3px 0; border-bottom: 1px solid var(--jp-border-color2); }
.raven-lab table.raven th { font-weight: 600; }
.raven-lab table.raven td { font-variant-numeric: tabular-nums; overflow-wrap: break-word;
  min-width: 1.2em; max-width: 30em; }
.raven-lab table.raven td:first-child, .raven-lab table.raven strong { overflow-wrap: anywhere; }
.raven-lab table.raven strong { display: inline-block; min-width: 8em; }
.raven-lab .raven-bar { display: flex; height: 8px; width: 120px; margin: 4px 0;
  background: var(--jp-border-color2); }
.raven-lab .raven-bar i { display: block; height: 100%; }
.raven-lab .raven-progress { height: 8px; max-width: 340px; margin: 4px 0 2px 0;
  border: 1px solid OTHERS; }
.raven-lab .raven-progress i { display: block; height: 100%; background: PROGRESS; }
.raven-lab .raven-progress:not([aria-valuenow]) i { width: 100%; opacity: 0.5;
  background: repeating-linear-gradient(135deg, PROGRESS 0 6px, transparent 6px 12px); }
.raven-lab .raven-key i { display: inline-block; width: 10px; height: 10px;
  margin: 0 4px 0 10px; }
.raven-lab .raven-answer { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0;
  font-family: var(--jp-content-font-family); max-height: 22em; overflow-y: auto;
  border-left: 3px solid var(--jp-border-color1); padding: 2px 0 2px 10px; }
.raven-lab .raven-code { display: block; width: 100%; box-sizing: border-box;
  padding: 3px 6px; resize: vertical; overflow-wrap: anywhere;
  color: var(--jp-ui-font-color1); background: var(--jp-layout-color2);
  border: 1px solid var(--jp-border-color2); font-family: var(--jp-code-font-family);
  font-size: var(--jp-code-font-size); }
.raven-lab .raven-box { border: 1px solid var(--jp-border-color2); border-radius: 4px;
  padding: 8px 10px; }
"""
    f"{FOLLOW_THEME}</style>"
)
STYLE = STYLE.replace("ARROW", _ARROW).replace("OTHERS", OTHERS).replace("PROGRESS", COLOURS[0])


def escape(text: object, *, lines: bool = False) -> str:
    """Return printable text that is safe inside HTML, in an attribute too."""
    return html.escape(printable(text, keep="\n\t" if lines else ""))


def status(text: str, *, error: bool = False) -> str:
    """Return a sentence that a screen reader announces when it changes."""
    kind = " raven-error" if error else ""
    return f'<div role="status" class="raven-status{kind}">{escape(text)}</div>'


def note(text: str) -> str:
    """Return a sentence of lesser weight."""
    return f'<div class="raven-dim">{escape(text)}</div>'


def bar(name: str, share: float | None, text: str) -> str:
    """Return a bar of what goes on, with its figures in words; no share: nobody knows how far."""
    # ipywidgets' own bars have neither a role nor a name, so that a screen reader passes them over.
    # The words beside it change many times a second, and are no status that it would read out.
    now = "" if share is None else f' aria-valuenow="{100 * share:.0f}"'
    width = "" if share is None else f' style="width:{share:.1%}"'
    return (
        f'<div class="raven-progress" role="progressbar" aria-label="{escape(name)}"'
        f' aria-valuemin="0" aria-valuemax="100"{now} aria-valuetext="{escape(text)}">'
        f"<i{width}></i></div>{note(f'{name}: {text}')}"
    )


def table(caption: str, header: list[str], rows: list[list[str]]) -> str:
    """Return a table; the cells are HTML already, caption and header are text."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    # A region that scrolls must be reachable by keyboard, and then it needs a name.
    return (
        f'<div class="raven-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="raven"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def rows_table(rows: Rows) -> str:
    """Return the table beside a figure."""
    cells = [[escape(cell) for cell in row] for row in rows.cells]
    return table(rows.caption, list(rows.header), cells)
