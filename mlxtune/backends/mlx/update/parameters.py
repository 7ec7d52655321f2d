"""What trains, as flat tables of arrays, and one AdamW step over them. A step is lazy: nothing is evaluated.

A 16-bit weight is updated in float32 and goes back into 16 bits by stochastic rounding, or has a float32 master copy
that is rounded to the nearest. Moments that are stored in 16 bits are rounded stochastically too.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import prod
from typing import NamedTuple

import mlx.core as mx

from mlxtune.backends.mlx.device import is_processor
from mlxtune.optim import adamw
from mlxtune.optim.adamw import AdamW, Moments
from mlxtune.optim.rounding import stochastic

Arrays = dict[str, mx.array]
MOMENT_TYPES = {"fp32": mx.float32, "bf16": mx.bfloat16}


class Trained(NamedTuple):
    """The arrays that change in a step. masters is empty unless 16-bit weights are kept that way."""

    weights: Arrays
    moments: dict[str, Moments]
    masters: Arrays

    def arrays(self) -> Iterator[mx.array]:
        """All of them, for the step's one evaluation."""
        yield from self.weights.values()
        for moments in self.moments.values():
            yield from moments
        yield from self.masters.values()


class Rule(NamedTuple):
    """How one step changes a parameter. keys: the randomness of each one's rounding; moment_keys: of its moments'."""

    settings: AdamW
    scalars: adamw.Scalars
    keys: Mapping[str, mx.array]
    moment_keys: Mapping[str, mx.array]  # empty where moments are float32

    @classmethod
    def of_step(cls, trained: Trained, settings: AdamW, scalars: adamw.Scalars, key: mx.array) -> "Rule":
        """The rule of one step for all parameters."""
        names = [*trained.weights]
        rounded = names if settings.moments == "bf16" else []
        keys = mx.random.split(key, len(names) + len(rounded))
        of_moments = {name: keys[i] for i, name in enumerate(rounded, start=len(names))}
        return cls(settings, scalars, {name: keys[i] for i, name in enumerate(names)}, of_moments)

    def step(self, trained: Trained, name: str, gradient: mx.array) -> Trained:
        """The next state of one parameter. gradient: float32, clipped."""
        old = trained.weights[name]
        exact = trained.masters.get(name, old).astype(mx.float32)
        decays = adamw.decays(self.settings, old.shape)
        moments = Moments(*(array.astype(mx.float32) for array in trained.moments[name]))
        exact, moments = _update(decays)(self.scalars, exact, gradient, moments)
        if name in self.moment_keys:
            near = adamw.rounded(mx, moments, random_bits(old.shape, _in_turn(self.moment_keys[name], gradient)))
            moments = Moments(*(array.astype(mx.bfloat16) for array in near))
        masters = {name: exact} if name in trained.masters else {}
        if old.dtype != mx.float32 and not masters:
            key = _in_turn(self.keys[name], gradient)
            noise = mx.random.randint(0, 2**16, old.shape, dtype=mx.uint32, key=key)
            exact = stochastic(mx, exact, str(old.dtype).rpartition(".")[2], noise)
        return Trained({name: exact.astype(old.dtype)}, {name: moments}, masters)


@cache
def _update(decays: bool) -> Callable[[adamw.Scalars, mx.array, mx.array, Moments], tuple[mx.array, Moments]]:
    """`adamw.update`; on a GPU as one kernel for all shapes, that reads and writes each array once, not thirteen times.

    On a processor a kernel would be compiled by the system's C++ compiler, in some seconds, where there is one.
    """
    update = partial(adamw.update, mx, decays=decays)
    return update if is_processor() else mx.compile(update, shapeless=True)


def _in_turn(key: mx.array, gradient: mx.array) -> mx.array:
    """The key when the gradient is there: MLX would make the noise of all parameters first."""
    return mx.depends([key], [gradient])[0]


def random_bits(shape: tuple[int, ...], key: mx.array) -> mx.array:
    """uint32, uniform over all: keys are raw bits. `randint` goes through float32, which has 24 of them."""
    size = prod(shape)
    return mx.random.split(key, (size + 1) // 2).reshape(-1)[:size].reshape(shape)


def begin(weights: Arrays, settings: AdamW) -> Trained:
    """Zero moments, and master copies where they are asked for. Evaluated, so that they are not made in the step."""
    dtype = MOMENT_TYPES[settings.moments]
    moments = {name: adamw.init(mx, weight.shape, dtype) for name, weight in weights.items()}
    masters = {}
    if settings.low_precision == "master":
        masters = {name: w.astype(mx.float32) for name, w in weights.items() if w.dtype != mx.float32}
    trained = Trained(weights, moments, masters)
    mx.eval(*trained.arrays())
    return trained


def stepped(trained: Trained, gradients: Arrays, factor: mx.array, rule: Rule) -> Trained:
    """The state after one step. factor: of every gradient.

    One parameter after the other: MLX would work on some twenty at once, and hold what AdamW has between for each.
    """
    parts: dict[str, Trained] = {}
    done: list[mx.array] = []
    for name in reversed(trained.weights):
        gradient = gradients[name]
        if done:
            (gradient,) = mx.depends([gradient], done)
        parts[name] = rule.step(trained, name, gradient.astype(mx.float32) * factor)
        done = [*parts[name].arrays()]
    return together(trained, parts)


def together(order: Trained, parts: Mapping[str, Trained]) -> Trained:
    """The states of single parameters as one, in the order of `order`."""
    return Trained(
        {name: parts[name].weights[name] for name in order.weights},
        {name: parts[name].moments[name] for name in order.weights},
        {name: parts[name].masters[name] for name in order.masters},
    )


def where(condition: mx.array, then: Trained, otherwise: Trained) -> Trained:
    """One state or the other, chosen inside the graph."""

    def pick(new: Arrays, old: Arrays) -> Arrays:
        return {name: mx.where(condition, array, old[name]) for name, array in new.items()}

    moments = {
        name: Moments(*(mx.where(condition, a, b) for a, b in zip(new, otherwise.moments[name], strict=True)))
        for name, new in then.moments.items()
    }
    return Trained(pick(then.weights, otherwise.weights), moments, pick(then.masters, otherwise.masters))
