"""AdamW over a flat buffer, in place, in blocks that stay in the cache: `optim.adamw` has the formula.

Array by array, as `optim.adamw.update` works, every intermediate goes out to memory and back. Over four million weights
that took 32 ms on one core, by blocks 15 ms, and by blocks and in place 10 ms.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array, is_finite
from mlxtune.backends.numpy.weights import round_to, widen
from mlxtune.optim.adamw import Moments, Scalars, rounded
from mlxtune.optim.rounding import stochastic

BLOCK = 1 << 18  # elements: 1 MiB of each of weight, gradient, m, v and what is between
ROUNDING_STREAM, MOMENT_STREAM = 1 << 32, (1 << 32) + 1  # beside those of the adapters' dropout
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


class State(NamedTuple):
    """Buffers of the trained part's length. exact is `weights` but where 16-bit weights have master copies."""

    weights: Array
    exact: Array
    m: Array  # float32, or bfloat16 as words of 16 bits
    v: Array  # as m


class Noise(NamedTuple):
    """What stochastic rounding draws: a function of the seed, the step and the place in the buffer."""

    seed: int
    step: int

    def words(self, begin: int, count: int) -> NDArray[np.uint32]:
        """For weights, uniform over 0 to 2^16 - 1."""
        return np.random.Generator(self._philox(begin, ROUNDING_STREAM)).integers(0, 2**16, count, np.uint32)

    def bits(self, begin: int, count: int) -> NDArray[np.uint32]:
        """For moments, uniform over all of uint32: raw words, twice as fast as integers in a range."""
        raw = self._philox(begin, MOMENT_STREAM).random_raw((count + 1) // 2)
        return np.asarray(raw).view(np.uint32)[:count]

    def _philox(self, begin: int, stream: int) -> np.random.Philox:
        return np.random.Philox(key=self.seed, counter=[0, begin, self.step, stream])


def update(
    state: State, gradients: Array, factor: float, n_decaying: int, precision: str, s: Scalars, noise: Noise
) -> bool:
    """One step of all weights; whether they and their moments are finite after it.

    factor: what clipping multiplies the gradient by. n_decaying: so many elements decay, from the first on; the others
    do not. precision: what the weights are kept in.
    """
    in_words = state.m.dtype == np.uint16

    def block(begin: int) -> bool:
        place = slice(begin, begin + BLOCK)
        exact, m, v = state.exact[place], state.m[place], state.v[place]
        exact_m, exact_v = (widen(m), widen(v)) if in_words else (m, v)
        adamw(exact, gradients[place], exact_m, exact_v, factor, s, exact[: max(0, n_decaying - begin)])
        if in_words:
            near = rounded(np, Moments(exact_m, exact_v), noise.bits(begin, exact.size))
            m[...], v[...] = (array.view(np.uint32) >> 16 for array in near)
        if precision != "fp32" and state.exact is state.weights:
            exact[...] = stochastic(np, exact, DTYPES[precision], noise.words(begin, exact.size))
        weights = state.weights[place]
        if precision == "fp16" or state.exact is not state.weights:
            weights[...] = exact
            round_to(weights, precision)  # fp16: also what is too large for it, to infinity
        return is_finite(weights) and is_finite(m) and is_finite(v)

    return all(threads.each(block, range(0, gradients.size, BLOCK)))


def adamw(weight: Array, gradient: Array, m: Array, v: Array, factor: float, s: Scalars, decaying: Array) -> None:
    """`optim.adamw.update` of factor * gradient, in place, with one multiplication less. decaying: part of weight."""
    x = np.multiply(gradient, s.beta1_rest * factor)
    m *= s.beta1
    m += x
    np.multiply(gradient, gradient, out=x)
    x *= s.beta2_rest * factor**2
    v *= s.beta2
    v += x
    np.sqrt(v, out=x)
    x += s.epsilon / s.v_correction
    np.divide(m, x, out=x)
    x *= s.rate / s.v_correction
    decaying *= s.keep
    weight -= x
