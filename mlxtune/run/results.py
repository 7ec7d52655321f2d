"""The adapters that a run leaves: `adapter/`, the best of what was validated, and `adapter-last/`, the last weights.

Weights that nothing trained are never among them. The last weights stand beside the best only where they are others.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune import engine
from mlxtune.events import Eval, Event
from mlxtune.run.beginning import Begun
from mlxtune.run.outcome import Losses

QUICK_SECONDS = 5.0  # that whoever interrupts a run waits at most for the validation of the last weights


class Kept(NamedTuple):
    """An adapter of this run. loss: of the validation; None where it was not taken."""

    folder: Path
    step: int
    loss: float | None


class Results:
    """best, last: what there is of each. shown: hears of a validation that is none of the run's schedule."""

    def __init__(self, begun: Begun, shown: Callable[[Event], None]) -> None:
        self.prepared, self.learner, self.progress, self.saving = begun
        self.feed, self.shown = self.prepared.feed, shown
        self.best: Kept | None = None
        self.last: Kept | None = None
        self.last_loss: float | None = None  # of the last weights, on the rows that `Losses` compares
        if self.progress.best_step is not None and self.saving.best.exists():
            self.best = Kept(self.saving.best, self.progress.best_step, self.progress.best_loss)

    def take(self, event: Eval) -> None:
        """Save the weights as they are, if their validation is the best."""
        if event.best:
            self.saving.save_best(self._about(event.loss))
            self.best = Kept(self.saving.best, event.step, event.loss)

    def finish(self, *, in_haste: bool) -> None:
        """Save the last weights. in_haste: someone waits for the end, so what takes long is left out."""
        if not self.feed.valid:
            self._save_alone()
            return
        self._validate(in_haste=in_haste)
        if self.best is not None and self.best.step == self.progress.step:
            self.saving.drop_last()
            return
        self.saving.save_last(self._about(self.last_loss))
        self.last = Kept(self.saving.last, self.progress.step, self.last_loss)

    @property
    def losses(self) -> Losses:
        """Before training and now, of the same rows."""
        anatomy, progress = self.prepared.blueprint.anatomy, self.progress
        even = math.log(anatomy.parameters[anatomy.embedding].shape[0])
        if not self.feed.valid:
            return Losses(progress.first_loss, None, self.last_loss, even, "the first step's rows")
        return Losses(progress.start_loss, self.best.loss if self.best else None, self.last_loss, even)

    def _validate(self, *, in_haste: bool) -> None:
        progress = self.progress
        if progress.evaluated_step == progress.step:
            self.last_loss = progress.eval_loss
        elif not in_haste or 0 < progress.eval_seconds <= QUICK_SECONDS:
            event = engine.validate(self.learner, self.feed, progress)
            self.saving.approve()
            self.shown(event)  # the log is without it, as the resumed run's is
            self.last_loss = event.loss
            if event.best and self.best is not None:
                self.saving.keep_scheduled()
            self.take(event)

    def _save_alone(self) -> None:
        """Where no row validates, the last weights are the result, once they were seen to compute."""
        self.last_loss = engine.validate(self.learner, self.feed, self.progress).loss
        self.saving.approve()
        self.saving.save_best(self._about(None))
        self.best = Kept(self.saving.best, self.progress.step, None)

    def _about(self, loss: float | None) -> dict[str, Any]:
        recipe = self.prepared.recipe
        end = {} if recipe.data.end_of_turn is None else {"end_of_turn": recipe.data.end_of_turn}
        return {"base_model": recipe.model.name, "step": self.progress.step, "eval_loss": loss, **end}
