"""A model in its form, and what an objective makes of a batch as a function of the weights that train.

N supervised tokens, D hidden size
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.backends.mlx.head.cross_entropy import Head, cut, log_probabilities, log_probabilities_alone, slices
from mlxtune.backends.mlx.model import linear
from mlxtune.backends.mlx.passes.forward import Forward
from mlxtune.backends.mlx.passes.layout import Layout
from mlxtune.backends.mlx.prefix.prefix import Prefix
from mlxtune.backends.mlx.update.parameters import Arrays
from mlxtune.backends.mlx.update.tensors import SHARD, shard_names
from mlxtune.backends.shards import shard_rows
from mlxtune.data.types import Batch
from mlxtune.objectives.base import Found


class Network:
    """A model whose passes are in their form. trains: names of the parameters that train, as the model has them."""

    def __init__(self, model: nn.Module, forward: Forward, prefix: Prefix, trains: Sequence[str]) -> None:
        self.model, self.forward, self.prefix, self.trains = model, forward, prefix, trains
        self.shards: list[str] = []  # names of a trained head's
        head = forward.head
        self.head_weight = head and f"{_name_of(model, head.module)}.weight"
        self.head_trains = self.head_weight in trains

    @property
    def words(self) -> str:
        """The form of the passes: the same words, the same bits."""
        form = self.forward.form
        parts = {
            "whole": not form.split,
            "split": form.split,
            "kept": form.split and self.prefix.file is not None,
            "packed": form.packed,
            "gathered": form.gathered,
            "sharded": form.sharded,
        }
        return ", ".join(name for name, is_so in parts.items() if is_so)

    def take(self) -> Arrays:
        """What trains, out of the model. A head of its own comes in shards, and the model keeps none of it."""
        every = dict(tree_flatten(self.model.parameters()))
        weights, head = {name: every[name] for name in self.trains}, self.forward.head
        if not self.head_trains or head is None or linear.describe(head.module) is None:
            return weights
        taken: Arrays = {}
        for name, weight in weights.items():
            if name != self.head_weight:
                taken[name] = weight
                continue
            parts = cut(weight, shard_rows(weight.shape[0]))
            self.shards = shard_names(name, len(parts))
            taken |= zip(self.shards, parts, strict=True)
            head.module.weight = mx.zeros(weight.shape, weight.dtype)  # never evaluated: its shape is asked for
        return taken

    def put(self, weights: Arrays) -> None:
        """Let the model compute with these weights. Shards are handed over in `loss`."""
        self.model.update(tree_unflatten([(name, array) for name, array in weights.items() if SHARD not in name]))

    @contextmanager
    def head_in_one_piece(self, weights: Arrays) -> Iterator[None]:
        """Within the block the model is whole: it has a head that trains in shards as one weight."""
        if not self.shards or self.forward.head is None:
            yield
            return
        module, placeholder = self.forward.head.module, self.forward.head.module.weight
        module.weight = mx.concatenate([weights[name] for name in self.shards])
        try:
            yield
        finally:
            module.weight = placeholder

    def inputs(self, batch: Batch, after: Sequence[mx.array] = ()) -> tuple[Layout, mx.array | None]:
        """A batch and the hidden states that enter the first trained layer; not before `after` is computed."""
        layout = self.forward.lay_out(batch)
        hidden = self.prefix.hidden(batch, layout)
        if after and hidden is not None:
            (hidden,) = mx.depends([hidden], list(after))
        elif after:
            layout = layout._replace(tokens=mx.depends([layout.tokens], list(after))[0])
        return layout, hidden

    def found_and_gradients(
        self,
        batch: Batch,
        weights: Arrays,
        judge: Callable[[mx.array], Found],
        scale: float,
        after: Sequence[mx.array] = (),
    ) -> tuple[Found, Arrays]:
        """What `judge` makes of a batch's log-probabilities, and the gradient of `scale` times its loss.

        after: what is to be computed before.
        """
        layout, hidden = self.inputs(batch, after)

        def scaled_loss(weights: Arrays) -> tuple[mx.array, mx.array, Mapping[str, mx.array]]:
            self.put(weights)
            of_head = self._of_head(weights, partial(log_probabilities, head_trains=self.head_trains))
            loss_sum, metrics = judge(self.forward.log_probabilities(layout, hidden, of_head))
            return loss_sum * scale, loss_sum, metrics

        (_, loss_sum, metrics), gradients = mx.value_and_grad(scaled_loss)(weights)
        return Found(loss_sum, metrics), gradients

    def log_probabilities(self, batch: Batch, weights: Arrays) -> mx.array:
        """Of the supervised tokens, (N,), with nothing kept for a gradient."""
        return self.forward.log_probabilities(*self.inputs(batch), self._of_head(weights, log_probabilities_alone))

    def _of_head(self, weights: Arrays, compute: Callable[..., mx.array]) -> Callable[[mx.array, mx.array], mx.array]:
        return lambda hidden_ND, targets_N: compute(hidden_ND, self._head(weights), targets_N)

    def _head(self, weights: Arrays) -> Head:
        head = self.forward.head
        assert head is not None
        shards = [weights[name] for name in self.shards] or slices(head.weight)
        return Head(shards, head.bias, head.output)


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(name for name, each in model.named_modules() if each is module)
