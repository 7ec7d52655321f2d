"""The report for a terminal: a panel, a live picture of the run under it, and a summary in its place at the end."""

import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event as Flag
from threading import Lock, RLock, Thread

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress_bar import ProgressBar
from rich.segment import SegmentLines
from rich.text import Text

from mlxtune import format as words
from mlxtune.events import End, Event, Notice, Preparing, Sample, Start
from mlxtune.report import facts, panel
from mlxtune.report.frame import frame
from mlxtune.report.style import ACCENT, QUIET, WARN
from mlxtune.report.tally import Tally

SECONDS_A_PICTURE = 0.25
ROWS_OF_A_PICTURE = 18  # a whole one; the opening panel stays above it where there is room for both


class Screen:
    """Draws four times a second, so that the clock runs while a step does."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._tally, self._lock = Tally(), Lock()  # the picture is drawn in a thread of its own
        self._last_event = clock()
        self._preparing = _progress(console)
        self._live: Live | None = None
        self._size = console.size  # that the last picture was drawn for
        self._drawing, self._over = RLock(), Flag()
        self._thread = Thread(target=self._keep_drawing, name="mlxtune-screen", daemon=True)

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
            self._stop(transient=False)

    def _show(self, event: Event) -> None:
        match event:
            case Preparing():
                self._show_preparing(event)
            case Start():
                self._preparing.stop()
                self._console.print(panel.opening(event, self._console.width))
                self._begin()
            case Notice():
                said = Text.assemble((f"step {words.count(event.step)}  ", WARN), words.line(event.text))
                self._console.print(said)
            case Sample():
                self._console.print(sample(event, self._console.width))
            case End():
                self._finish(event)

    def _show_preparing(self, event: Preparing) -> None:
        what, total = words.line(event.what), event.total or None
        shown = self._preparing.tasks[0] if self._preparing.tasks else None
        if shown is not None and (shown.description, shown.total) != (what, total):
            self._preparing.remove_task(shown.id)
            shown = None
        task = shown.id if shown is not None else self._preparing.add_task(what, total=total, unit=event.unit)
        self._preparing.start()
        self._preparing.update(task, completed=event.done, refresh=True)

    def _begin(self) -> None:
        with self._drawing:
            self._size = self._console.size
            self._live = Live(console=self._console, get_renderable=self._picture, auto_refresh=False)
            self._live.start(refresh=True)
        if not self._thread.ident:
            self._thread.start()

    def _keep_drawing(self) -> None:
        with suppress(OSError):
            while not self._over.wait(SECONDS_A_PICTURE):
                self._draw()

    def _draw(self) -> None:
        with self._drawing:
            if self._live is None:
                return
            if self._console.size == self._size:
                self._live.refresh()
            else:
                self._begin_anew()

    def _begin_anew(self) -> None:
        """Clear the terminal, which was resized: it has folded the rows or moved them where nothing can reach them."""
        if self._live is not None:
            self._live.stop()
        self._console.clear()
        if self._tally.start is not None:
            opening = self._console.render_lines(panel.opening(self._tally.start, self._console.width), pad=False)
            if len(opening) + ROWS_OF_A_PICTURE <= self._console.height:
                self._console.print(SegmentLines(opening, new_lines=True), end="")
        self._begin()

    def _stop(self, *, transient: bool) -> None:
        """End the drawing; transient: the picture gives its place to what comes."""
        self._over.set()
        if self._thread.ident:
            self._thread.join()
        if self._live is not None:
            if self._console.size != self._size:
                self._begin_anew()
            self._live.transient = transient
            self._live.stop()
            self._live = None

    def _finish(self, end: End) -> None:
        self._preparing.stop()
        self._stop(transient=True)
        self._console.print(panel.ending(self._tally, end, self._console.width))
        if command := facts.next_command(self._tally.start, end):
            self._console.print(Text.assemble(("Try it:  ", QUIET), command), soft_wrap=True)

    def _picture(self) -> RenderableType:
        with self._lock:
            waited = self._clock() - self._last_event
            return frame(self._tally, self._console.width, self._console.height - 1, waited)


def sample(event: Sample, width: int) -> Text:
    """A prompt in one row, and what the model says in no more than two."""
    at = f"step {words.count(event.step)}  "
    room = max(20, width - len(at) - 1)
    asked = words.shortened(words.line(event.prompt).strip(), room)
    said = words.shortened(words.line(event.text).strip(), 2 * width - 1)
    return Text.assemble((at, ACCENT), (asked, QUIET), "\n", said)


def _progress(console: Console) -> Progress:
    """What is done before the first step: a bar where it is known how much there is of it."""
    described = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), described, _Bar(), TaskProgressColumn(), _Speed(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


class _Speed(ProgressColumn):
    """How many are done, how fast, and how long the rest will take, of what has a unit."""

    def render(self, task: Task) -> Text:
        unit, speed, left = task.fields.get("unit"), task.finished_speed or task.speed, task.time_remaining
        if not unit:
            return Text("")
        rate = f", {speed:,.0f}/s" if speed else ""
        until = f", {words.duration(left)} left" if left else ""
        return Text(f"{task.completed:,.0f} {unit}{rate}{until}", style=QUIET)


class _Bar(BarColumn):
    """A bar where there is a total, nothing where there is none."""

    def render(self, task: Task) -> ProgressBar:
        if task.total is None:
            return ProgressBar(width=0)
        return super().render(task)
