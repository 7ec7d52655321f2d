"""Adam and AdamW in place, with one array beside weight, gradient, m and v: `optim.moments` has the formula.

An optimizer's own `update` makes an array for every operation; this takes half its time. It divides by sqrt(v) before
it multiplies by the rate, and clips inside the constants: so it has a multiplication less, and other last bits.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array
from mlxtune.optim.moments import Constants


class Part(NamedTuple):
    """Some elements of all buffers, float32, which are changed in place, but for the gradient."""

    weight: Array
    gradient: Array
    slots: tuple[Array, ...]
    factor: float  # of the gradient
    n_decaying: int  # so many elements decay, from the first on


def adamw(s: Constants, part: Part) -> None:
    """`AdamW.update`."""
    taken = _change(s, part)
    decaying = part.weight[: part.n_decaying]
    decaying *= s.decay
    np.subtract(part.weight, taken, out=part.weight)


def adam(s: Constants, part: Part) -> None:
    """`Adam.update`."""
    if part.n_decaying:
        gradient = part.gradient * part.factor
        gradient[: part.n_decaying] += s.decay * part.weight[: part.n_decaying]
        part = part._replace(gradient=gradient, factor=1.0)
    np.subtract(part.weight, _change(s, part), out=part.weight)


def _change(s: Constants, part: Part) -> Array:
    """What is taken off the weight. Makes m and v the next ones."""
    gradient, factor, (m, v) = part.gradient, part.factor, part.slots
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
    return x
