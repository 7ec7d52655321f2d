"""What the run asks of a report: it takes every event in turn, and is closed however the run ends."""

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
