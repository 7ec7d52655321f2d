"""Draws what `mlxtune eval` found: of which model, on which rows, and the loss."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.text import Text

from mlxtune.format import line
from mlxtune.report.console import terminal
from mlxtune.report.style import QUIET, WARN

SPLITS = {"test": "its test rows", "valid": "its validation rows", "train": "all its rows"}


def show(score: Mapping[str, Any]) -> None:
    """A line for each of model, adapter and data, and the line of the loss. score: as `eval --json` prints it."""
    console = terminal(sys.stdout)
    rows = f"{score['data']}, {SPLITS[score['split']]}"
    about = {"model": score["model"], "adapter": score["adapter"] or "none", "data": rows}
    for name, text in about.items():
        console.print(Text.assemble((f"{name:<9}", QUIET), line(text)), soft_wrap=True)
    found = "loss {loss:.4f}  perplexity {perplexity:,.2f}  tokens {tokens:,}  rows {rows:,}"
    console.print(found.format(**score), soft_wrap=True)
    for note in score["notes"]:
        console.print(Text(line(note), style=WARN), soft_wrap=True)
