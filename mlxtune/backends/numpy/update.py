"""AdamW over a flat buffer, in place, in blocks that stay in the cache: `optim.adamw` has the formula.

Array by array, as `optim.adamw.update` works, every intermediate goes out to memory and back; in place and by blocks
the same arithmetic took a third of the time over four million weights, and two thirds of it by blocks alone.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array
from mlxtune.backends.numpy.weights import round_to
from mlxtune.optim.adamw import Scalars
from mlxtune.optim.rounding import stochastic

BLOCK = 1 << 16  # elements: 256 KiB of each of weight, gradient, m, v and what is between
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


class State(NamedTuple):
    """Buffers of the trained part's length. exact is `weights` but where 16-bit weights have master copies."""

    weights: Array
    exact: Array
    m: Array
    v: Array


class Span(NamedTuple):
    """Elements that are updated alike. precision: what the weights are kept in."""

    begin: int
    end: int
    decays: bool
    precision: str


def update(state: State, gradients: Array, factor: float, span: Span, s: Scalars, noise: np.random.Generator) -> None:
    """One step of the weights in a span. factor: what clipping multiplies the gradient by."""
    work = np.empty(BLOCK, np.float32)
    for begin in range(span.begin, span.end, BLOCK):
        place = slice(begin, min(begin + BLOCK, span.end))
        exact, x = state.exact[place], work[: place.stop - begin]
        adamw(exact, gradients[place], state.m[place], state.v[place], x, factor, s, decays=span.decays)
        if span.precision == "fp32":
            continue
        if state.exact is state.weights:
            words = noise.integers(0, 2**16, x.size, np.uint32)
            exact[...] = stochastic(np, exact, DTYPES[span.precision], words)
        else:
            state.weights[place] = exact
            round_to(state.weights[place], span.precision)


def adamw(
    weight: Array, gradient: Array, m: Array, v: Array, x: Array, factor: float, s: Scalars, *, decays: bool
) -> None:
    """`optim.adamw.update` of factor * gradient, in place, with one multiplication less.

    x: as large as the weight, for what is between.
    """
    np.multiply(gradient, s.beta1_rest * factor, out=x)
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
    if decays:
        weight *= s.keep
    weight -= x
