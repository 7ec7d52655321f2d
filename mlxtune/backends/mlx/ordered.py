"""Updates inside the backward pass: a gradient is used up before the next one is made.

MLX orders a lazy graph from its outputs, so that of an ordinary step all gradients are there before the first weight
changes. Here each layer is entered through an identity whose gradient function gets the gradients of the layer's input
and of its parameters together; it makes the update, and hands the input's gradient on only when the update is done.

It changes no number. It needs each gradient to be final where it appears: nothing that clips by the norm of all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_unflatten

from mlxtune.backends.mlx.passes.stand_in import Call
from mlxtune.backends.mlx.update.parameters import Arrays, Rule, Trained, together
from mlxtune.optim import clip


class Ordered:
    """The updates of one step. after: the states that are made so far, by name; squares: of their gradients."""

    def __init__(self, trained: Trained, rule: Rule) -> None:
        self.trained, self.rule = trained, rule
        self.after: dict[str, Trained] = {}
        self.squares: list[mx.array] = []
        self.done: list[mx.array] = []

    def update(self, name: str, gradient: mx.array) -> list[mx.array]:
        """Make the next state of a parameter, after the one before; what to wait for before the next gradient."""
        if self.done:
            (gradient,) = mx.depends([gradient], self.done)
        gradient = gradient.astype(mx.float32)
        self.squares.append(clip.square_sum(mx, gradient))
        self.after[name] = self.rule.step(self.trained, name, gradient)
        self.done = [*self.after[name].arrays(), self.squares[-1]]
        return self.done

    def layer(self, prefix: str, weights: Arrays, run: Call, first: bool) -> Call:
        """What to call in a layer's place. weights: what trains of it, as MLX traces it, named without the prefix.

        run: how the layer itself is called. first: no layer before it trains, so that no one asks for its input's
        gradient.
        """

        def call(layer: nn.Module, hidden: mx.array, *arguments: Any, **named: Any) -> mx.array:
            names = [prefix + name for name in weights]
            hidden, *tapped = self._tap(names, first)(hidden, *weights.values())
            layer.update(tree_unflatten(list(zip(weights, tapped, strict=True))))
            return run(layer, hidden, *arguments, **named)

        return call

    def _tap(self, names: Sequence[str], first: bool) -> Any:
        def pull_back(primals: Sequence[mx.array], cotangents: Sequence[mx.array], _: Any) -> tuple[mx.array, ...]:
            of_input, *gradients = cotangents
            if not first:
                gradients = mx.depends(gradients, [of_input])
            done = [array for pair in zip(names, gradients, strict=True) for array in self.update(*pair)]
            if not first:
                (of_input,) = mx.depends([of_input], done)
            return (of_input, *(mx.zeros_like(weight) for weight in primals[1:]))

        tap: Any = mx.custom_function(lambda hidden, *weights: (hidden, *weights))
        tap.vjp(pull_back)
        return tap

    def finish(self, gradients: Mapping[str, mx.array]) -> tuple[mx.array, Trained]:
        """The norm of all gradients and the next state. gradients: of what no layer has taken, among others."""
        for name, gradient in gradients.items():
            if name not in self.after:
                self.update(name, gradient)
        return mx.sqrt(sum(self.squares, start=mx.array(0.0))), together(self.trained, self.after)
