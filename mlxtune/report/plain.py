"""The report for a pipe: whole lines of `name value` words, no colours, and no more of them than a person reads."""

import math
from typing import TextIO

from mlxtune.events import Checkpoint, End, Eval, Event, Notice, Preparing, Sample, Start, Step
from mlxtune.format import UNKNOWN, decimals, duration, line, printable, rate, shortened, size
from mlxtune.report import facts
from mlxtune.report.tally import Tally

EVERY_SECONDS = 30.0
PROMPT_SHOWN = 200  # characters


class Plain:
    """Every step of a short run, about a hundred of a long one, and one at least every half minute."""

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream
        self._tally = Tally()
        self._preparing, self._tenth = "", 0  # what is prepared, and the tenths of it that are said
        self._shown_at = -math.inf  # seconds of the run when a step was last shown

    def __call__(self, event: Event) -> None:
        self._tally.take(event)
        match event:
            case Preparing():
                self._say_preparing(event)
            case Start():
                self._say_facts(facts.opening(event)[:3] + trained(event) + facts.opening(event)[3:])
            case Step() if self._is_due(event):
                self._shown_at = self._tally.seconds
                self._say(step_line(event, self._tally))
            case Eval():
                self._say(eval_line(event))
            case Sample():
                self._say(f"sample {event.step} prompt {line(shortened(event.prompt, PROMPT_SHOWN))}")
                self._say(f"sample {event.step} text {line(event.text)}")
            case Checkpoint():
                taken = f"bytes {event.bytes} seconds {event.seconds:.1f}"
                self._say(f"checkpoint {event.step} {taken} path {line(event.path)}")
            case Notice():
                self._say(f"notice {event.step} {line(event.text)}")
            case End():
                self._say_end(event)

    def close(self) -> None:
        self._stream = None

    def _say_preparing(self, event: Preparing) -> None:
        """Each tenth of a work whose length is known; the others are short."""
        if event.what != self._preparing:
            self._preparing, self._tenth = event.what, 0
        if event.total and event.done * 10 // event.total > self._tenth:
            self._tenth = event.done * 10 // event.total
            self._say(f"preparing {line(event.what)} {self._tenth}0%")

    def _is_due(self, step: Step) -> bool:
        start = self._tally.start
        first, last = (start.first_step, start.steps) if start else (1, 0)
        return (
            step.step in (first, last)
            or step.step % max(1, last // 100) == 0
            or self._tally.seconds - self._shown_at >= EVERY_SECONDS
            or not math.isfinite(step.loss)
        )

    def _say_end(self, end: End) -> None:
        self._say(f"end {end.status}")
        self._say_facts(facts.ending(end))
        if command := facts.next_command(self._tally.start, end):
            self._say(f"{'try':<12}{command}")

    def _say_facts(self, said: list[facts.Fact]) -> None:
        for fact in said:
            self._say(f"{fact.name:<12}{fact.text}")

    def _say(self, text: str) -> None:
        """Write a line at once. A reader that went away must not end a run of hours, so after that nothing is said."""
        if self._stream is None:
            return
        try:
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding).rstrip() + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._stream = None


def trained(start: Start) -> list[facts.Fact]:
    """The table of what trains and what is frozen, a line each."""
    headings, *rows = facts.anatomy(start)
    return [
        facts.Fact(
            row[0],
            ", ".join(f"{name} {cell}" for name, cell in zip(headings[1:], row[1:], strict=True) if cell != UNKNOWN),
        )
        for row in rows[:2]
    ]


def step_line(step: Step, tally: Tally) -> str:
    """One step in words that keep their places."""
    memory = step.memory
    last = tally.start.steps if tally.start else step.step
    pairs = {
        "step": f"{step.step}/{last}",
        "loss": decimals(step.loss),
        "smoothed": decimals(tally.loss.value),
        "learning_rate": rate(step.learning_rate),
        "grad_norm": decimals(step.grad_norm),
        "tokens_per_second": f"{step.tokens_per_second:.0f}",
        "active": size(memory.active_memory_bytes),
        "peak": size(memory.peak_memory_bytes),
        "cache": size(memory.cache_memory_bytes),
        "left": duration(tally.seconds_left),
    } | ({"skipped": "overflow"} if step.skipped else {})
    pairs |= {name: decimals(value) for name, value in step.metrics.items()}
    return " ".join(f"{name} {value.replace(' ', '')}" for name, value in pairs.items())


def eval_line(event: Eval) -> str:
    perplexity = "" if event.perplexity is None else f" perplexity {event.perplexity:.2f}"
    metrics = "".join(f" {name} {decimals(value)}" for name, value in event.metrics.items())
    best = " best" if event.best else ""
    return f"eval {event.step} loss {decimals(event.loss)}{perplexity} rows {event.rows}{metrics}{best}"
