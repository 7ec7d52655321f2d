"""Draws what `mlxtune data` says: rows with the tokens that carry loss in colour, in a pipe in brackets."""

import sys
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from mlxtune.data.stats import Stats
from mlxtune.data.summary import Count, Shown, Summary
from mlxtune.format import line, printable, share
from mlxtune.report.console import terminal
from mlxtune.report.style import folded

SUPERVISED, QUIET = "bold green", "bright_black"
OPEN, CLOSE = "⟦", "⟧"  # rare in text, so that a reader of a pipe can tell the marks from the row
LISTED = 20  # refused rows; --json names all
WIDTH = 40  # of the histogram's longest bar, in columns


def show(summary: Summary, console: Console | None = None, *, figures: bool = False) -> None:
    """Print everything; lines are never folded at a pipe's imagined width."""
    console = console or terminal(sys.stdout)
    for each in _lines(summary, coloured=console.is_terminal, figures=figures):
        console.print(each, soft_wrap=True)
    for place, note in enumerate(summary.notes):
        console.print(Text(f"{'' if place else chr(10)}{folded(note, console)}"), soft_wrap=True)


def _lines(summary: Summary, *, coloured: bool, figures: bool) -> Iterator[Text]:
    for row in summary.shown:
        yield Text(f"{line(row.source)}: {_some(row.tokens, 'token')}, {row.supervised:,} with loss", style=QUIET)
        yield Text.assemble(_body(row, coloured=coloured), "\n")
    if summary.shown:
        mark = ("this colour", SUPERVISED) if coloured else f"{OPEN}brackets{CLOSE}"
        yield Text.assemble("What is in ", mark, " carries loss.\n")
    yield Text(f"train  {_count(summary.train)}")
    yield Text(f"valid  {_count(summary.valid)}")
    if summary.lengths:
        yield Text("\nLengths of the training rows, in tokens:")
        yield from _histogram(summary)
        yield Text(f"The longest has {_some(summary.longest, 'token')}.")
        waste = f"{summary.padding_waste:.1%} of batches of {summary.batch_size} are padding"
        yield Text(f"Where rows cannot be packed, {waste}.")
    if figures:
        yield from _figures(summary.stats)
    yield from _refused(summary)


def _body(row: Shown, *, coloured: bool) -> Text:
    body = Text()
    for piece in row.pieces:
        text = printable(piece.text)
        marked = text if coloured or not piece.supervised else f"{OPEN}{text}{CLOSE}"
        body.append(marked, style=SUPERVISED if coloured and piece.supervised else None)
    return body


def _count(count: Count) -> str:
    return f"{_some(count.rows, 'row')}, {_some(count.tokens, 'token')}, {count.supervised:,} with loss"


def _some(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _histogram(summary: Summary) -> Iterator[Text]:
    most = max(bar.rows for bar in summary.lengths)
    labels = [f"{bar.first:,}-{bar.last:,}" for bar in summary.lengths]
    for bar, label in zip(summary.lengths, labels, strict=True):
        drawn = "█" * (-(-bar.rows * WIDTH // most))
        yield Text(f"  {label:>{max(map(len, labels))}}  {drawn} {bar.rows:,}")


def _figures(stats: Stats) -> Iterator[Text]:
    """How long rows are and how much of them carries loss, of all rows."""
    named = "".join(f"{f'{each}%':>8}" for each in stats.lengths.at)
    yield Text(f"\n{'tokens of a row':<22}{'least':>8}{'mean':>9}{named}{'most':>9}")
    for name, found in (("in all", stats.lengths), ("with loss", stats.supervised)):
        at = "".join(f"{value:>8,}" for value in found.at.values())
        yield Text(f"{name:<22}{found.least:>8,}{found.mean:>9,.1f}{at}{found.most:>9,}")
    yield Text(f"{share(stats.supervised_share)} of {stats.tokens:,} tokens carry loss.")
    yield Text(f"{_some(stats.repeated, 'row')} repeat one before (--dedup exact leaves such out).")
    yield Text(f"{_some(stats.few, 'row')} with fewer than {stats.few_limit} tokens that carry loss.")


def _refused(summary: Summary) -> Iterator[Text]:
    if not len(summary.refused):
        return
    yield Text(f"\nRefused: {_some(len(summary.refused), 'row')}")
    for reason, count in summary.refused.kinds.most_common():
        yield Text(f"  {count:,} {reason}")
    for each in summary.refused[:LISTED]:
        yield Text(f"  {line(each.source)}: {line(each.reason)}", style=QUIET)
    if len(summary.refused) > LISTED:
        yield Text(f"  and {len(summary.refused) - LISTED:,} more; --json names all", style=QUIET)
