"""Layers of which only the input is kept: the backward pass computes the inside again, uses it, and lets go of it.

Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", arXiv:1604.06174, a layer at a time.

`mx.checkpoint` computes again what it is given, as soon as it likes and as the model is by then. Here the computation
waits for the gradient that comes in, so that one layer's inside is there at a time, and has what the first one had: the
arrays that gradients flow to are handed to it, attention is by rows as in the pass, and dropout is a function of a key.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from mlxtune.backends.mlx.passes.forward import Forward
from mlxtune.backends.mlx.passes.packing import attention_by_rows
from mlxtune.backends.mlx.passes.self_check import GRADIENT_WITHIN, for_check
from mlxtune.backends.mlx.passes.stand_in import Call
from mlxtune.backends.mlx.update.parameters import Arrays
from mlxtune.backends.row_file import Tokens

CHECKED_TOKENS = 48
# A gradient that is nothing but rounding, as of a bias before a softmax, is measured against the largest of all.
SMALL = 1e-2


def recomputed(trains: Sequence[str], attending: Sequence[ModuleType]) -> Call:
    """What to call in a layer's place. trains: what trains of it, by its names; attending: see `attention_by_rows`.

    The input's gradient is handed on when those of the weights are made: they need the inside, which then goes.
    """

    def call(layer: nn.Module, hidden: mx.array, *arguments: Any, **named: Any) -> mx.array:
        weights = dict(tree_flatten(layer.parameters()))
        given = [hidden, *(weights[name] for name in trains), *_floats((arguments, named))]

        def inside(hidden: mx.array, *given: mx.array) -> mx.array:
            positional, by_name = _with_floats((arguments, named), given[len(trains) :])
            with _having(layer, dict(zip(trains, given, strict=False))):
                out: mx.array = layer(hidden, *positional, **by_name)
            return out

        def pull_back(primals: Any, cotangent: mx.array, _: mx.array) -> Any:
            primals = primals if len(given) > 1 else [primals]  # MLX hands over a single one as it is
            waiting = mx.depends([*primals], [cotangent])
            with attention_by_rows(attending):
                of_input, *others = mx.vjp(inside, waiting, [cotangent])[1]
            if trains:
                (of_input,) = mx.depends([of_input], others[: len(trains)])
            return (of_input, *others) if others else of_input

        function: Any = mx.custom_function(inside)
        function.vjp(pull_back)
        out: mx.array = function(*given)
        return out

    return call


def _flows(leaf: Any) -> bool:
    """Whether a gradient may flow to it."""
    return isinstance(leaf, mx.array) and mx.issubdtype(leaf.dtype, mx.floating)


def _floats(tree: Any) -> list[mx.array]:
    return [leaf for _, leaf in tree_flatten(tree) if _flows(leaf)]


def _with_floats(tree: Any, arrays: Sequence[mx.array]) -> Any:
    """The tree with other arrays in the places of `_floats`."""
    left = iter(arrays)
    return tree_map(lambda leaf: next(left) if _flows(leaf) else leaf, tree)


@contextmanager
def _having(layer: nn.Module, weights: Arrays) -> Iterator[None]:
    """The layer with these weights, until the end of the block."""
    before = dict(tree_flatten(layer.parameters()))
    layer.update(tree_unflatten([*weights.items()]))
    try:
        yield
    finally:
        layer.update(tree_unflatten([(name, before[name]) for name in weights]))


class Check(NamedTuple):
    """What the layers are tried on. names: of the parameters whose gradients are compared. forget: see `unread`.

    Some models might hand from layer to layer what a gradient flows through besides the hidden states, or draw random
    numbers. A short row, cut in two that must not see each other, tells, in the training mode.
    """

    forward: Forward
    names: Sequence[str]
    row: Tokens
    forget: Callable[[], None]

    def fault(self, calls: Mapping[int, Call]) -> str | None:
        """Why the layers cannot be computed again: the gradients are not those of the plain pass."""
        try:
            return _worst(*self._gradients(calls))
        except Exception as error:
            return f"its code fails on it, {type(error).__name__}"

    def _gradients(self, calls: Mapping[int, Call]) -> tuple[Arrays, Arrays]:
        """With the calls and without, not evaluated."""
        model = self.forward.model
        every = dict(tree_flatten(model.parameters()))
        weights = {name: every[name] for name in self.names}
        layout = self.forward.lay_out(for_check(_halves(self.row[:CHECKED_TOKENS])))
        hidden = self.forward.prefix(layout)

        def loss(weights: Arrays) -> mx.array:
            model.update(tree_unflatten([*weights.items()]))
            return -mx.sum(self.forward.log_probabilities(layout, hidden))

        model.train()
        try:
            self.forward.around = dict(calls)
            found = mx.grad(loss)(weights)
            self.forward.around = {}
            return found, mx.grad(loss)(weights)
        finally:
            self.forward.around = {}
            model.update(tree_unflatten([*weights.items()]))
            model.eval()
            self.forget()


def _halves(row: Tokens) -> list[Tokens]:
    """Two rows of one, where that leaves something to predict."""
    middle = len(row) // 2
    return [row[:middle], row[middle:]] if middle > 1 else [row]


def _worst(found: Arrays, expected: Arrays) -> str | None:
    """The first parameter, in words, whose gradient differs by more than rounding.

    From the last layer to the first, as they are made, and each is let go of: few are in memory at a time.
    """
    within = max(GRADIENT_WITHIN[array.dtype] for array in expected.values())
    differences: dict[str, tuple[float, float]] = {}
    for name in reversed([*expected]):
        pair = _largest(found.pop(name).astype(mx.float32) - expected[name]), _largest(expected.pop(name))
        mx.eval(pair)
        differences[name] = _number(pair[0]), _number(pair[1])
    floor = SMALL * max(size for _, size in differences.values())
    for name, (apart, size) in differences.items():
        share = apart / max(size, floor, 1e-30)
        if not share <= within:
            return f"the gradient of {name} differs by {share:.1g} of its largest entry"
    return None


def _largest(array: mx.array) -> mx.array:
    return mx.max(mx.abs(array)).astype(mx.float32)


def _number(array: mx.array) -> float:
    return float(array.item())  # type: ignore[arg-type]  # a real scalar
