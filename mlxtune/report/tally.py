"""What is known of a run so far: events folded into what a report shows."""

import math

from mlxtune.events import Checkpoint, End, Eval, Event, Start, Step
from mlxtune.report.plot import Curve, Point


class Ema:
    """An exponential moving average with bias correction: right from the first value on.

    >>> ema = Ema(0.9)
    >>> ema.add(4.0), round(ema.add(2.0), 4)
    (4.0, 2.9474)
    """

    def __init__(self, beta: float) -> None:
        self.beta, self._sum, self._weight = beta, 0.0, 0.0

    def add(self, value: float) -> float:
        """Take a value; one that is not finite is passed over."""
        if math.isfinite(value):
            self._sum = self.beta * self._sum + (1 - self.beta) * value
            self._weight = self.beta * self._weight + (1 - self.beta)
        return self.value

    @property
    def value(self) -> float:
        """The average; nan before the first value."""
        return self._sum / self._weight if self._weight else math.nan


class Tally:
    """The last event of each kind, and the averages and curves over all."""

    def __init__(self) -> None:
        self.start: Start | None = None
        self.step: Step | None = None
        self.eval: Eval | None = None
        self.best: Point | None = None  # the step and the loss of the best validation
        self.checkpoint: Checkpoint | None = None
        self.end: End | None = None
        self.loss = Ema(0.95)
        self.tokens_per_second = Ema(0.9)
        self.seconds = 0.0  # that the events of this sitting took
        self.skipped = 0  # fp16 steps that updated nothing
        self.curve = Curve()  # the smoothed loss
        self.marks: list[Point] = []  # validation losses
        self._pace = Ema(0.98)  # seconds from step to step, with the checkpoints between and no validation
        self._validating = Ema(0.5)  # seconds of a validation
        self._since_step = 0.0

    def take(self, event: Event) -> None:
        self._clock(event)
        match event:
            case Start():
                self._take_start(event)
            case Step():
                self._take_step(event)
            case Eval():
                self._take_eval(event)
            case Checkpoint():
                self.checkpoint = event
            case End():
                self.end = event

    @property
    def done(self) -> int:
        """Steps that are done, those before this sitting included."""
        if self.step:
            return self.step.step
        return self.start.first_step - 1 if self.start else 0

    @property
    def part(self) -> float:
        """The share of the steps that is done."""
        return min(1.0, self.done / self.start.steps) if self.start and self.start.steps > 0 else 0.0

    @property
    def seconds_left(self) -> float:
        """At the present pace, with the validations that are still to come; nan before the first step."""
        if self.start is None:
            return math.nan
        validations = self._validations_left(self.start)
        validating = self._validating.value * validations if validations and self.eval else 0.0
        return self._pace.value * max(0, self.start.steps - self.done) + validating

    def _validations_left(self, start: Start) -> int:
        """Those at each multiple of the interval, and the last."""
        if not start.eval_every:
            return 0
        last = self.eval.step if self.eval else start.first_step - 1
        return max(0, math.ceil(start.steps / start.eval_every) - last // start.eval_every)

    @property
    def smooth(self) -> list[Point]:
        """The smoothed loss up to the last step."""
        points = self.curve.points
        if self.step and points and points[-1].step < self.step.step:
            return [*points, Point(self.step.step, self.loss.value)]
        return points

    def _clock(self, event: Event) -> None:
        seconds = getattr(event, "seconds", 0.0)
        if math.isfinite(seconds):
            self.seconds += seconds
            if isinstance(event, Eval):
                self._validating.add(seconds)
            else:
                self._since_step += seconds

    def _take_start(self, start: Start) -> None:
        self.start = start
        if start.best_eval_loss is not None and start.best_step is not None:
            self.best = Point(start.best_step, start.best_eval_loss)

    def _take_step(self, step: Step) -> None:
        self.step = step
        self.skipped += step.skipped
        self.tokens_per_second.add(step.tokens_per_second)
        self._pace.add(self._since_step)
        self._since_step = 0.0
        if math.isfinite(smooth := self.loss.add(step.loss)):
            self.curve.add(step.step, smooth)

    def _take_eval(self, event: Eval) -> None:
        self.eval = event
        if event.best:
            self.best = Point(event.step, event.loss)
        if math.isfinite(event.loss):
            self.marks.append(Point(event.step, event.loss))
