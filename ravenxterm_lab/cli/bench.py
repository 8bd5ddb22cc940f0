"""``raven-lab bench``: models side by side."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from ravenxterm_lab.cli.commands import manager_of, print_json

if TYPE_CHECKING:
    import argparse

__all__ = ["add_arguments", "bench"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    parser.add_argument("task", help="such as text_generation or embedding")
    parser.add_argument(
        "-m", "--model", action="append", metavar="NAME",
        help="only this model (may be repeated); default: every one that can do the task",
    )  # fmt: skip
    parser.add_argument(
        "-i", "--input", action="append", metavar="TEXT",
        help="an input (may be repeated); default: a built-in few",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="default: 3 rounds")
    parser.add_argument("--quality", action="store_true", help="ask the built-in questions too")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="of each generation")
    parser.add_argument("--timeout", type=float, metavar="S", help="seconds for each run")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the order")


def bench(options: argparse.Namespace) -> int:
    """Run a benchmark and print its report; 1 when no run worked."""
    report = manager_of(options).benchmark(
        options.task,
        options.model,
        options.input,
        options.repeats,
        quality=options.quality,
        parameters=None if options.max_tokens is None else {"max_tokens": options.max_tokens},
        seed=options.seed,
        timeout=options.timeout,
        progress=sys.stderr.isatty(),
    )
    if options.json:
        print_json({
            "benchmark": report.id, "task": report.task, "left_out": report.left_out,
            "models": report.pl().to_dicts(), "runs": [asdict(run) for run in report.runs],
        })  # fmt: skip
    else:
        print(report)
    return 0 if any(run.success for run in report.runs) else 1
