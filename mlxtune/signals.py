"""SIGINT and SIGTERM ask the run to stop after the step that is under way; a second one ends it at once."""

import signal
import threading
from types import FrameType, TracebackType

ASKING = (signal.SIGINT, signal.SIGTERM)


class StopRequests:
    """While entered, remembers the signal that asked to stop. Outside the main thread it does nothing.

    >>> with StopRequests() as requests:
    ...     signal.raise_signal(signal.SIGINT)
    ...     requests.exit_code
    130
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, object] = {}

    @property
    def exit_code(self) -> int | None:
        """128 plus the signal's number, as a shell reports it, or None."""
        return None if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._ask) for number in ASKING}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave
        self._before = {}
