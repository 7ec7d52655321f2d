"""SIGINT, SIGTERM and SIGHUP ask a run to stop after the step that is under way; a second one ends it at once."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

ASKING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows has no SIGHUP
BEFORE_THE_FIRST_STEP = "interrupted before the first step: nothing was trained"


class Asked(BaseException):
    """Raised where the work ends at once, by whatever signal. exit_code: as a shell reports it.

    It is no KeyboardInterrupt, which typer makes an exit without a word, and chat the end of an answer.
    """

    def __init__(self, number: int, text: str = "interrupted") -> None:
        super().__init__(text)
        self.exit_code = 128 + number


@contextmanager
def ending_at_once(text: str) -> Iterator[None]:
    """While entered, each of the signals raises Asked with the text."""

    def ask(number: int, _frame: FrameType | None) -> None:
        raise Asked(number, text)

    before = _set(ask)
    try:
        yield
    finally:
        _reset(before)


def ignored(number: int) -> bool:
    """Whether the program was started to outlive its terminal, as nohup does it."""
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


class StopRequests:
    """While entered, remembers the signal that asked to stop. Outside the main thread it does nothing.

    at_once: whether the first one ends what is being done, by raising Asked; the second always does, and after it the
    handlers are as before.

    >>> with StopRequests() as requests:
    ...     signal.raise_signal(signal.SIGINT)
    ...     requests.exit_code
    130
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.times = 0
        self.at_once = False
        self._before: dict[int, object] = {}

    @property
    def exit_code(self) -> int | None:
        """128 plus the signal's number, as a shell reports it, or None."""
        return None if self.signal is None else 128 + self.signal

    def __enter__(self) -> "StopRequests":
        self._before = _set(self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.signal = self.signal or number
        self.times += 1
        if self.times > 1:
            self._restore()
        if self.times > 1 or self.at_once:
            self.at_once = False
            raise Asked(number)

    def _restore(self) -> None:
        _reset(self._before)
        self._before = {}


def _set(handler: Callable[[int, FrameType | None], None]) -> dict[int, object]:
    """The handlers before. Only the main thread may set any."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in ASKING if not ignored(number)}


def _reset(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave
