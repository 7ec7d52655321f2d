"""What a run came to: whether anything was learned, whether it diverged, and the likely cause where it went wrong.

The one rule. Two losses of the same rows are compared, one before training and one of the last weights: of the
validation rows, or of the first step's rows where none validate, so that no luck of the batches is in it.

- Something was learned where weights that were validated have a lower loss than before training. To give every token
  the same probability is not learned: that is what weights end in that were blown up.
- The run diverged where nothing was learned and the last loss is more than CLEARLY above the one before, or is that of
  blown-up weights. A tenth of a nat is a tenth more perplexity, which is no noise in a run that never gained.
"""

from typing import NamedTuple

from mlxtune.format import count, decimals, rate
from mlxtune.recipe.recipe import Recipe

CLEARLY = 0.1  # nats
LITTLE = 0.02  # nats: less is hardly a change
EXACTLY = 1e-3  # nats: as near as float32 comes to the loss of even probabilities


class Losses(NamedTuple):
    """Of the same rows. None where it was not taken."""

    before: float | None
    best: float | None  # of what was validated after a step
    last: float | None  # of the last weights
    even: float  # of the same probability for every token: the logarithm of the vocabulary
    of: str = "validation"

    @property
    def now(self) -> float | None:
        """Of the last weights, or the nearest that there is to it."""
        return self.best if self.last is None else self.last

    @property
    def learned(self) -> bool | None:
        """Whether anything beat the start; None where that is not known."""
        after = [loss for loss in (self.best, self.last) if loss is not None]
        if self.before is None or not after:
            return None
        return min(after) < self.before and not self._blown_up(min(after))

    @property
    def diverged(self) -> bool:
        """Whether nothing was learned and the last weights are clearly worse than the first, or blown up."""
        if self.learned is not False or self.last is None or self.before is None:
            return False
        return self.last > self.before + CLEARLY or self._blown_up(self.last)

    def _blown_up(self, loss: float) -> bool:
        return abs(loss - self.even) < EXACTLY and self.before is not None and abs(loss - self.before) > CLEARLY


def words(losses: Losses, recipe: Recipe, steps: int, skipped: int) -> str:
    """What a user should know of the outcome, with the likely cause; nothing where it went well.

    skipped: steps that updated nothing.
    """
    before, last = losses.before, losses.last
    if losses.learned is None or before is None:
        return ""
    if not losses.learned:
        said = f"Nothing was learned: {losses.of} {decimals(before)} before, {decimals(losses.now)} now."
        return f"{said} {_cause(losses, recipe, steps, skipped)}"
    if last is not None and last > before + CLEARLY:
        return f"The last weights are worse than before training, {decimals(last)}: {_too_high(recipe)}"
    return ""


def _cause(losses: Losses, recipe: Recipe, steps: int, skipped: int) -> str:
    if skipped == steps:
        return "The float16 gradient overflowed in every step, so none changed anything: --precision bf16."
    if losses.diverged:
        return f"The {_too_high(recipe)}"
    if abs((losses.now or 0.0) - (losses.before or 0.0)) < LITTLE:
        peak = rate(recipe.schedule.learning_rate)
        return f"A learning rate of {peak} over {count(steps)} steps changes little: raise it, or train longer."
    return f"The {_too_high(recipe)} Or the rows are unlike those that validate."


def _too_high(recipe: Recipe) -> str:
    peak = recipe.schedule.learning_rate
    clip = "" if recipe.train.clip_norm is not None else ", and --clip-norm 1.0"
    return f"learning rate {rate(peak)} is likely too high: try --learning-rate {rate(peak / 10)}{clip}."
