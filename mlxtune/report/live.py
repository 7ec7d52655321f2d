"""The report for a terminal: a panel, a live picture of the run under it, and a summary in its place at the end."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Lock

from rich.console import Console, RenderableType
from rich.control import Control
from rich.live import Live
from rich.progress import Progress
from rich.segment import ControlType, Segment, SegmentLines
from rich.text import Text

from mlxtune import words
from mlxtune.events import End, Event, Notice, Preparing, Start
from mlxtune.report import facts, panel
from mlxtune.report.frame import frame
from mlxtune.report.style import QUIET, WARN
from mlxtune.report.tally import Tally


class Screen:
    """Draws four times a second, so that the clock runs while a step does."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._tally, self._lock = Tally(), Lock()  # the picture is drawn in a thread of its own
        self._last_event = clock()
        self._row_widths: list[int] = []  # of the last picture
        self._preparing = Progress(console=console, transient=True)
        self._live = Live(console=console, get_renderable=self._picture, vertical_overflow="crop")

    def __call__(self, event: Event) -> None:
        with self._lock:
            self._tally.take(event)
            self._last_event = self._clock()
        with suppress(OSError):  # a terminal that was closed must not end the run
            self._show(event)

    def close(self) -> None:
        """Leave the last picture standing, where there was no end."""
        with suppress(OSError):
            self._preparing.stop()
            self._live.stop()

    def _show(self, event: Event) -> None:
        match event:
            case Preparing():
                self._show_preparing(event)
            case Start():
                self._preparing.stop()
                self._console.print(panel.opening(event, self._console.width))
                self._live.start()
            case Notice():
                said = Text.assemble((f"step {words.count(event.step)}  ", WARN), words.line(event.text))
                self._console.print(said)
            case End():
                self._finish(event)

    def _show_preparing(self, event: Preparing) -> None:
        if not self._preparing.task_ids:
            self._preparing.add_task(words.line(event.what), total=event.total)
            self._preparing.start()
        self._preparing.update(self._preparing.task_ids[0], completed=event.done)

    def _finish(self, end: End) -> None:
        self._live.transient = True
        self._live.stop()
        self._console.print(panel.ending(self._tally, end, self._console.width))
        if command := facts.next_command(self._tally.start, end):
            self._console.print(Text.assemble(("Try it:  ", QUIET), command), soft_wrap=True)

    def _picture(self) -> RenderableType:
        self._wipe_folded_rows()
        with self._lock:
            waited = self._clock() - self._last_event
            picture = frame(self._tally, self._console.width, self._console.height - 1, waited)
        rows = self._console.render_lines(picture, pad=False)
        self._row_widths = [Segment.get_line_length(row) for row in rows]
        return SegmentLines(rows, new_lines=True)

    def _wipe_folded_rows(self) -> None:
        """A terminal that got narrower folds each row into several; wipe those that the next picture does not cover."""
        width = self._console.width
        folded = sum(max(0, (cells - 1) // width) for cells in self._row_widths)
        if folded and self._live.is_started:
            codes = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)] * folded
            self._console.control(Control(*codes))
