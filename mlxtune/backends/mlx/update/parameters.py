"""What trains, as flat tables of arrays, and one step of the optimizer over them. It is lazy: nothing is evaluated.

A 16-bit weight is updated in float32 and goes back into 16 bits by stochastic rounding, or has a float32 master copy
that is rounded to the nearest. Slots that are stored in 16 bits are rounded stochastically too.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import mlx.core as mx

from mlxtune.backends.mlx.device import is_processor
from mlxtune.optim.optimizer import Optimizer, Slots, Step
from mlxtune.optim.rounding import rounded, stochastic

Arrays = dict[str, mx.array]
SLOT_TYPES = {"fp32": mx.float32, "bf16": mx.bfloat16}


class Trained(NamedTuple):
    """The arrays that change in a step. masters is empty unless 16-bit weights are kept that way."""

    weights: Arrays
    slots: dict[str, Slots]  # of each weight, as the optimizer names them
    masters: Arrays

    def arrays(self) -> Iterator[mx.array]:
        """All of them, for the step's one evaluation."""
        yield from self.weights.values()
        for slots in self.slots.values():
            yield from slots
        yield from self.masters.values()


class Rule(NamedTuple):
    """How one step changes a parameter. keys: the randomness of each one's rounding; slot_keys: of its slots'."""

    optimizer: Optimizer
    scalars: Any  # the optimizer's, of this step
    keys: Mapping[str, mx.array]
    slot_keys: Mapping[str, mx.array]  # empty where slots are float32, or there are none

    @classmethod
    def of_step(cls, trained: Trained, optimizer: Optimizer, scalars: Any, key: mx.array) -> "Rule":
        """The rule of one step for all parameters."""
        names = [*trained.weights]
        in_16_bits = names if optimizer.moments == "bf16" else []
        keys = mx.random.split(key, len(names) + len(in_16_bits))
        of_slots = {name: keys[i] for i, name in enumerate(in_16_bits, start=len(names))}
        return cls(optimizer, scalars, {name: keys[i] for i, name in enumerate(names)}, of_slots)

    def step(self, trained: Trained, name: str, gradient: mx.array) -> Trained:
        """The next state of one parameter. gradient: float32, clipped."""
        old = trained.weights[name]
        exact = trained.masters.get(name, old).astype(mx.float32)
        slots = tuple(array.astype(mx.float32) for array in trained.slots[name])
        exact, slots = _update(self.optimizer, self.optimizer.decays(old.shape))(self.scalars, exact, gradient, slots)
        if name in self.slot_keys:
            near = rounded(mx, slots, random_bits(old.shape, _in_turn(self.slot_keys[name], gradient)))
            slots = tuple(array.astype(mx.bfloat16) for array in near)
        masters = {name: exact} if name in trained.masters else {}
        if old.dtype != mx.float32 and not masters:
            key = _in_turn(self.keys[name], gradient)
            noise = mx.random.randint(0, 2**16, old.shape, dtype=mx.uint32, key=key)
            exact = stochastic(mx, exact, str(old.dtype).rpartition(".")[2], noise)
        return Trained({name: exact.astype(old.dtype)}, {name: slots}, masters)


@cache
def _update(optimizer: Optimizer, decays: bool) -> Callable[[Any, mx.array, mx.array, Slots], Step]:
    """The optimizer's `update`; on a GPU as one kernel for all shapes, that reads and writes each array once.

    AdamW's would go over them thirteen times. On a processor a kernel would be compiled by the system's C++ compiler,
    in some seconds, where there is one.
    """
    update = partial(optimizer.update, mx, decays=decays)
    return update if is_processor() else mx.compile(update, shapeless=True)


def _in_turn(key: mx.array, gradient: mx.array) -> mx.array:
    """The key when the gradient is there: MLX would make the noise of all parameters first."""
    return mx.depends([key], [gradient])[0]


def random_bits(shape: tuple[int, ...], key: mx.array) -> mx.array:
    """uint32, uniform over all: keys are raw bits. `randint` goes through float32, which has 24 of them."""
    size = prod(shape)
    return mx.random.split(key, (size + 1) // 2).reshape(-1)[:size].reshape(shape)


def begin(weights: Arrays, optimizer: Optimizer) -> Trained:
    """Zero slots, and master copies where they are asked for. Evaluated, so that they are not made in the step."""
    dtype = SLOT_TYPES[optimizer.moments]
    slots = {name: optimizer.init(mx, weight.shape, dtype) for name, weight in weights.items()}
    masters = {}
    if optimizer.low_precision == "master":
        masters = {name: w.astype(mx.float32) for name, w in weights.items() if w.dtype != mx.float32}
    trained = Trained(weights, slots, masters)
    mx.eval(*trained.arrays())
    return trained


def stepped(trained: Trained, gradients: Arrays, factor: mx.array, rule: Rule) -> Trained:
    """The state after one step. factor: of every gradient.

    One parameter after the other: MLX would work on some twenty at once, and hold what an update makes for each.
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
        {name: parts[name].slots[name] for name in order.weights},
        {name: parts[name].masters[name] for name in order.masters},
    )


def where(condition: mx.array, then: Trained, otherwise: Trained) -> Trained:
    """One state or the other, chosen inside the graph."""

    def pick(new: Arrays, old: Arrays) -> Arrays:
        return {name: mx.where(condition, array, old[name]) for name, array in new.items()}

    slots = {
        name: tuple(mx.where(condition, a, b) for a, b in zip(new, otherwise.slots[name], strict=True))
        for name, new in then.slots.items()
    }
    return Trained(pick(then.weights, otherwise.weights), slots, pick(then.masters, otherwise.masters))
