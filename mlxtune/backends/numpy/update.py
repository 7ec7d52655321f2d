"""One step of the optimizer over flat buffers, in blocks that stay in the cache.

Each block has the optimizer's own `update`. Over whole arrays every intermediate would go out to memory and back: of
four million weights AdamW's took 32 ms on one core that way, by blocks 15 ms, and by blocks and in place 10 ms. So the
two optimizers that most runs have are done in place: see `backends.numpy.moments`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.numpy import moments, threads
from mlxtune.backends.numpy.arrays import Array, is_finite
from mlxtune.backends.numpy.moments import Part
from mlxtune.backends.numpy.weights import round_to, widen
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.optimizer import Optimizer
from mlxtune.optim.rounding import rounded, stochastic

IN_PLACE: Mapping[type[Optimizer], Callable[[Any, Part], None]] = {AdamW: moments.adamw, Adam: moments.adam}
BLOCK = 1 << 18  # elements: 1 MiB of each of weight, gradient, slots and what is between
ROUNDING_STREAM, SLOT_STREAM = 1 << 32, (1 << 32) + 1  # beside those of the adapters' dropout
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


class State(NamedTuple):
    """Buffers of the trained part's length. exact is `weights` but where 16-bit weights have master copies."""

    weights: Array
    exact: Array
    slots: tuple[Array, ...]  # as the optimizer names them; float32, or bfloat16 as words of 16 bits


class Noise(NamedTuple):
    """What stochastic rounding draws: a function of the seed, the step and the place in the buffer."""

    seed: int
    step: int

    def words(self, begin: int, count: int) -> NDArray[np.uint32]:
        """For weights, uniform over 0 to 2^16 - 1."""
        return np.random.Generator(self._philox(begin, ROUNDING_STREAM)).integers(0, 2**16, count, np.uint32)

    def bits(self, begin: int, count: int) -> NDArray[np.uint32]:
        """For slots, uniform over all of uint32: raw words, twice as fast as integers in a range."""
        raw = self._philox(begin, SLOT_STREAM).random_raw((count + 1) // 2)
        return np.asarray(raw).view(np.uint32)[:count]

    def _philox(self, begin: int, stream: int) -> np.random.Philox:
        return np.random.Philox(key=self.seed, counter=[0, begin, self.step, stream])


class Rule(NamedTuple):
    """How one step changes the weights.

    factor: what clipping multiplies the gradient by. n_decaying: so many elements decay, from the first on; the others
    do not. precision: what the weights are kept in.
    """

    optimizer: Optimizer
    scalars: Any  # the optimizer's, of this step
    factor: float
    n_decaying: int
    precision: str
    noise: Noise


def update(state: State, gradients: Array, rule: Rule) -> bool:
    """One step of all weights; whether they and their slots are finite after it."""
    noise, precision, in_words = rule.noise, rule.precision, rule.optimizer.moments == "bf16"

    def block(begin: int) -> bool:
        place = slice(begin, begin + BLOCK)
        exact, kept = state.exact[place], tuple(slot[place] for slot in state.slots)
        slots = tuple(map(widen, kept)) if in_words else kept
        _change(rule, Part(exact, gradients[place], slots, rule.factor, max(0, rule.n_decaying - begin)))
        if in_words and kept:
            near = rounded(np, slots, noise.bits(begin, exact.size))
            for slot, words in zip(kept, near, strict=True):
                slot[...] = words.view(np.uint32) >> 16
        if precision != "fp32" and state.exact is state.weights:
            exact[...] = stochastic(np, exact, DTYPES[precision], noise.words(begin, exact.size))
        weights = state.weights[place]
        if precision == "fp16" or state.exact is not state.weights:
            weights[...] = exact
            round_to(weights, precision)  # fp16: also what is too large for it, to infinity
        return is_finite(weights) and all(map(is_finite, kept))

    return all(threads.each(block, range(0, gradients.size, BLOCK)))


def _change(rule: Rule, part: Part) -> None:
    """The optimizer's step of one block, in place."""
    in_place = IN_PLACE.get(type(rule.optimizer))
    if in_place is not None:
        in_place(rule.scalars, part)
        return
    end = part.n_decaying
    for place, decays in ((slice(0, end), True), (slice(end, None), False)):
        weight, slots = part.weight[place], tuple(slot[place] for slot in part.slots)
        gradient = part.gradient[place] * part.factor
        weight[...], after = rule.optimizer.update(np, rule.scalars, weight, gradient, slots, decays=decays)
        for slot, new in zip(slots, after, strict=True):
            slot[...] = new
