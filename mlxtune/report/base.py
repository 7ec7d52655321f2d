"""What the run asks of a report: it takes every event in turn, and is closed however the run ends."""

from collections.abc import Iterable
from typing import Protocol

from mlxtune.events import Event


class Report(Protocol):
    """One who is told of the run. `contextlib.closing` makes it a context manager."""

    def __call__(self, event: Event) -> None:
        """Take the next event."""
        ...

    def close(self) -> None:
        """Give the screen or the file back; harmless when called twice."""
        ...


class Reports:
    """Several that are told as one. `all` may grow."""

    def __init__(self, reports: Iterable[Report]) -> None:
        self.all = list(reports)

    def __call__(self, event: Event) -> None:
        """Tell each, in their order."""
        for report in self.all:
            report(event)
