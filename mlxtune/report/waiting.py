"""What the program is doing while a terminal would be blank: one line on standard error that goes when it is done."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from mlxtune.format import line
from mlxtune.report.console import draws, terminal


@contextmanager
def doing(what: str) -> Iterator[Callable[[str], None]]:
    """Show `what` until the block ends; the callable that it gives shows something else. A pipe gets nothing."""
    if not draws(sys.stderr):
        yield lambda _: None
        return
    with terminal(sys.stderr).status(Text(line(what))) as status:
        yield lambda text: status.update(Text(line(text)))
