"""AdamW as pure functions: `init` makes a parameter's moments, `update` makes one step.

Adam with decoupled weight decay, Loshchilov and Hutter, arXiv:1711.05101, algorithm 2, with bias correction and with
decay multiplied by the learning rate, as PyTorch has it:

    m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
    p = p - lr decay p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

The lines run on any array namespace `xp` (mlx.core, numpy), so both backends share them.
"""

from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from mlxtune.optim.arrays import Array, Namespace
from mlxtune.optim.rounding import stochastic
from mlxtune.settings import section


@section
class AdamW:
    """The settings. low_precision says how 16-bit weights are kept exact enough: see `rounding`.

    moments: what m and v are stored in; they are computed with in float32, see `rounded`.
    """

    name: Literal["adamw"] = "adamw"
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[float, Field(gt=1e-30)] = 1e-8  # less is 0 in float32
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    decay_norms_and_biases: bool = False
    low_precision: Literal["stochastic", "master"] | None = None  # None: stochastic where weights have 16 bits
    moments: Literal["fp32", "bf16"] = "fp32"


class Moments(NamedTuple):
    m: Array  # mean of gradients, the parameter's shape; float32 in every computation
    v: Array  # mean of squared gradients, as m


class Scalars(NamedTuple):
    """One step's constants as float32 arrays, made once and used by every parameter."""

    beta1: Array
    beta1_rest: Array  # 1 - beta1
    beta2: Array
    beta2_rest: Array
    epsilon: Array
    keep: Array  # 1 - lr * decay: what decay leaves of a weight
    rate: Array  # lr / (1 - beta1^t)
    v_correction: Array  # 1 / sqrt(1 - beta2^t)


def init(xp: Namespace, shape: tuple[int, ...], dtype: Any = None) -> Moments:
    """Zero moments. dtype: what they are stored in, float32 if not given, whatever the parameter's type."""
    dtype = dtype or xp.float32
    return Moments(xp.zeros(shape, dtype=dtype), xp.zeros(shape, dtype=dtype))


def scalars(xp: Namespace, settings: AdamW, step: int, learning_rate: float) -> Scalars:
    """The constants of step `step`, which counts from 1. The arithmetic here is Python's, in float64."""
    b1, b2 = settings.beta1, settings.beta2
    values = (
        b1,
        1 - b1,
        b2,
        1 - b2,
        settings.epsilon,
        1 - learning_rate * settings.weight_decay,
        learning_rate / (1 - b1**step),
        (1 - b2**step) ** -0.5,
    )
    return Scalars(*(xp.array(value, dtype=xp.float32) for value in values))


def update(
    xp: Namespace, s: Scalars, weight: Array, gradient: Array, moments: Moments, *, decays: bool
) -> tuple[Array, Moments]:
    """The next float32 weight and moments.

    weight, moments: float32. gradient: float32, the weight's shape, already clipped. decays: whether decay applies.

    >>> import numpy as np
    >>> step_one = scalars(np, AdamW(weight_decay=0.0), 1, 0.1)
    >>> weight, _ = update(np, step_one, np.float32([5.0]), np.float32([2.0]), init(np, (1,)), decays=True)
    >>> round(float(weight[0]), 4)          # the first step is the sign of the gradient times the rate
    4.9
    """
    m = s.beta1 * moments.m + s.beta1_rest * gradient
    v = s.beta2 * moments.v + s.beta2_rest * (gradient * gradient)
    change = s.rate * m / (xp.sqrt(v) * s.v_correction + s.epsilon)
    return (s.keep * weight if decays else weight) - change, Moments(m, v)


def rounded(xp: Namespace, moments: Moments, bits: Array) -> Moments:
    """Float32 moments moved to bfloat16 at random, still as float32, ready for an exact cast.

    bits: uint32, uniform over all; one half is m's noise, the other v's.

    A step takes a thousandth off v, and neighbours in bfloat16 are 1/256 to 1/128 apart: rounding to the nearest would
    freeze it. Here the error has mean zero. Measured over 3,000 steps of random gradients, sqrt(v) is off by 1.8%; by
    2.8% where sqrt(v) is what is stored, and by 14% with rounding to the nearest.
    """
    low = xp.array(0xFFFF, dtype=xp.uint32)
    return Moments(stochastic(xp, moments.m, "bfloat16", bits & low), stochastic(xp, moments.v, "bfloat16", bits >> 16))


def decays(settings: AdamW, shape: tuple[int, ...]) -> bool:
    """Whether a parameter decays: matrices do, norms and biases (one axis) only by the setting."""
    return settings.weight_decay > 0 and (len(shape) > 1 or settings.decay_norms_and_biases)
