"""Where a run is: all that the loop knows of it. Everything in it goes into a checkpoint."""

from dataclasses import dataclass

from pydantic import ConfigDict

from mlxtune.events import Eval


@dataclass
class Progress:
    """Where a run is. Everything in it goes into a checkpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # of a checkpoint that is read back

    step: int = 0
    epoch: int = 0  # from 0
    window: int = 0  # windows of this epoch that are done
    tokens: int = 0
    valid_rows: int = 0  # that validate: a resumed run stays with them, or losses could not be compared
    seconds: float = 0.0  # spent training and evaluating
    first_loss: float | None = None  # of the first step, whose rows were seen by what nothing had trained yet
    last_loss: float | None = None
    sampled_step: int = -1  # the last step after which samples were taken
    evaluated_step: int = -1  # the last step at which the validation loss was taken
    eval_loss: float | None = None  # the validation loss at that step
    eval_seconds: float = 0.0  # that it took
    start_loss: float | None = None  # the validation loss before training, which is no result
    best_loss: float | None = None  # of what was trained
    best_step: int | None = None
    evals_since_best: int = 0  # validations without a gain, on the one before training too

    def take(self, event: Eval) -> None:
        """Note a validation of the schedule."""
        before = [loss for loss in (self.start_loss, self.best_loss) if loss is not None]
        self.evals_since_best = 0 if all(event.loss < loss for loss in before) else self.evals_since_best + 1
        if event.step == 0:
            self.start_loss = event.loss
        elif event.best:
            self.best_loss, self.best_step = event.loss, event.step
        self.evaluated_step, self.eval_loss = event.step, event.loss
        self.eval_seconds, self.seconds = event.seconds, self.seconds + event.seconds

    def stepped(self, loss: float, n_tokens: int, seconds: float) -> None:
        """Note a step of so many supervised tokens."""
        self.step, self.window = self.step + 1, self.window + 1
        self.tokens, self.seconds, self.last_loss = self.tokens + n_tokens, self.seconds + seconds, loss
        if self.step == 1:
            self.first_loss = loss
