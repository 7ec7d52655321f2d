"""The answer of `mlxtune doctor`: as a table, as plain lines, or as JSON."""

import sys
from collections.abc import Sequence
from json import dumps
from typing import TextIO

from rich.table import Table
from rich.text import Text

from mlxtune.checks import Check
from mlxtune.format import line
from mlxtune.report.console import terminal
from mlxtune.report.style import BAD, GOOD, MAX_WIDTH, QUIET, WARN

STYLE = {"ok": GOOD, "warn": WARN, "bad": f"bold {BAD}"}


def as_json(checks: Sequence[Check]) -> str:
    """One document: {"checks": [{"name", "state", "found", "meaning", "remedy"}], "ok": whether none is bad}."""
    return dumps({"checks": [check._asdict() for check in checks], "ok": is_ok(checks)}, indent=1)


def is_ok(checks: Sequence[Check]) -> bool:
    """Whether everything works, if perhaps slowly."""
    return all(check.state != "bad" for check in checks)


def show(checks: Sequence[Check], stream: TextIO | None = None) -> None:
    """A table in a terminal; in a pipe a line for each check, to be searched."""
    stream = stream or sys.stdout
    console = terminal(stream)
    checks = [check._replace(found=_writable(check.found, stream)) for check in checks]
    if stream.isatty():
        console.print(_table(checks), width=min(console.width, MAX_WIDTH))
    for check in [] if stream.isatty() else checks:
        console.print(_plain(check), soft_wrap=True)
    console.print(f"\n{_summary(checks)}" if stream.isatty() else _summary(checks))


def _table(checks: Sequence[Check]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        table.add_row(Text(check.state, style=STYLE[check.state]), Text(check.name), _words(check))
    return table


def _words(check: Check) -> Text:
    """What was found, and beneath it what it means and what to do."""
    text = Text(line(check.found))
    if check.meaning:
        text.append(f"\n{line(check.meaning)}", style=QUIET)
    if check.remedy:
        text.append(f"\n{line(check.remedy)}")
    return text


def _plain(check: Check) -> str:
    """One line, whatever the texts have in them.

    >>> _plain(Check("swap", "warn", "9.1 GB in use", "Paged.", "Close something."))
    'warn  swap                  9.1 GB in use. Paged. Close something.'
    """
    said = [f"{check.found}.", check.meaning, check.remedy] if check.meaning or check.remedy else [check.found]
    return f"{check.state:<6}{line(check.name):<22}{line(' '.join(filter(None, said)))}"


def _writable(text: str, stream: TextIO) -> str:
    """What the stream's encoding does not have, as an escape: a folder's name must not end the report."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _summary(checks: Sequence[Check]) -> str:
    """The last line.

    >>> _summary([Check("a", "ok", ""), Check("b", "warn", ""), Check("c", "bad", "")])
    '1 bad, 1 to look at, 1 ok'
    """
    counted = [(sum(check.state == state for check in checks), words) for state, words in SUMMARY]
    return ", ".join(f"{number} {words}" for number, words in counted)


SUMMARY = (("bad", "bad"), ("warn", "to look at"), ("ok", "ok"))
