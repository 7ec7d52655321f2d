"""The passes of a model in a chosen form: the frozen layers apart from the rest, the rows packed, the head gathered.

A Form says what of this is used. The self-check takes the best form that is exact for the model at hand.

B rows, T tokens, S places that are read (of all rows), N tokens that carry loss, D hidden size, V vocabulary
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.head.cross_entropy import Head, log_probabilities, slices
from mlxtune.backends.mlx.head.probe import FoundHead, stopped_at
from mlxtune.backends.mlx.passes.layout import Layout, lay_out
from mlxtune.backends.mlx.passes.packing import attention_by_rows, modules_that_attend
from mlxtune.backends.mlx.passes.stand_in import Call, as_it_is, layers_of, standing_in
from mlxtune.data.types import Batch

OfHead = Callable[[mx.array, mx.array], mx.array]


class Form(NamedTuple):
    """How passes are made. split: the layers before the first that trains run apart, outside of the gradient."""

    split: bool
    packed: bool
    gathered: bool  # the final norm and the head see only what carries loss
    sharded: bool  # the head's product and the loss are made shard by shard of the vocabulary


WHOLE = Form(split=False, packed=False, gathered=False, sharded=False)


class Stop(Exception):
    """Carries the hidden states that a pass was made for."""

    def __init__(self, hidden: mx.array) -> None:
        super().__init__()
        self.hidden = hidden


class Forward:
    """A model and how to run it. first: the first layer with anything that trains. head: for the sharded form.

    around: what is called in a layer's place, from the first that trains on; it is given the layer.
    """

    def __init__(self, model: nn.Module, first: int, form: Form, head: FoundHead | None = None) -> None:
        self.model, self.layers, self.form = model, layers_of(model), form
        self.head = head if form.sharded else None
        self.first = first if form.split else 0
        self.around: dict[int, Call] = {}
        self.attending = modules_that_attend() if form.packed else []

    def lay_out(self, batch: Batch) -> Layout:
        """The batch as this form has it."""
        return lay_out(batch, packed=self.form.packed)

    def prefix(self, layout: Layout) -> mx.array | None:
        """Hidden states that enter the first trained layer, to be made outside of the gradient; None without split."""
        return self.between(layout, None, self.first) if self.first else None

    def between(self, layout: Layout, hidden: mx.array | None, end: int, begin: int = 0) -> mx.array:
        """Hidden states before layer `end`, from those before layer `begin` or, where that is 0, from the tokens."""

        def stop(_: nn.Module, hidden: mx.array, *__: Any, **___: Any) -> mx.array:
            raise Stop(hidden)

        try:
            self._run(layout, {**_entering(begin, hidden), end: stop})
        except Stop as stopped:
            return stopped.hidden
        raise AssertionError("the model did not run its layers")

    def logits(self, layout: Layout, hidden: mx.array | None) -> mx.array:
        """Of the supervised tokens, (N, V), from the hidden states of `prefix`."""
        logits = self._run(layout, self._calls(layout, hidden))
        return logits[0] if self.form.gathered else logits.reshape(-1, logits.shape[-1])[layout.chosen_N]

    def _calls(self, layout: Layout, hidden: mx.array | None) -> dict[int, Call]:
        """Stand-ins for a pass from the hidden states of `prefix` on; the last layer hands on what carries loss."""
        calls = {**_entering(self.first, hidden), **self.around}
        if not self.form.gathered:
            return calls
        last = len(self.layers) - 1
        run: Call = calls.get(last, as_it_is)

        def gather(layer: nn.Module, hidden: mx.array, *arguments: Any, **named: Any) -> mx.array:
            hidden = run(layer, hidden, *arguments, **named)
            return hidden.reshape(-1, hidden.shape[-1])[layout.chosen_N][None]

        return {**calls, last: gather}

    def log_probabilities(self, layout: Layout, hidden: mx.array | None, of_head: OfHead | None = None) -> mx.array:
        """Of the supervised tokens, (N,), nats, float32.

        of_head: in the sharded form, these from what enters the head (N, D) and the targets.
        """
        if self.head is None:
            return -cross_entropy(self.logits(layout, hidden), layout.targets_N)
        with stopped_at(self.head) as entered:
            self._run(layout, self._calls(layout, hidden))
        return (of_head or self.of_head)(entered.pop()[0], layout.targets_N)

    def loss_and_logits(self, layout: Layout, hidden: mx.array | None) -> tuple[mx.array, mx.array]:
        """The summed cross-entropy and the logits, of one pass; in the sharded form, of the head as it was found."""
        if self.head is None:
            logits_NV = self.logits(layout, hidden)
            return mx.sum(cross_entropy(logits_NV, layout.targets_N)), logits_NV
        with stopped_at(self.head) as entered:
            self._run(layout, self._calls(layout, hidden))
        hidden_ND = entered.pop()[0]
        return -mx.sum(self.of_head(hidden_ND, layout.targets_N)), self.head.logits(hidden_ND)

    def of_head(self, hidden_ND: mx.array, targets_N: mx.array) -> mx.array:
        """Log-probabilities of the head as the model has it, which may train."""
        assert self.head is not None
        head = Head(slices(self.head.weight), self.head.bias, self.head.output)
        return log_probabilities(hidden_ND, head, targets_N, head_trains=True)

    def _run(self, layout: Layout, calls: dict[int, Call]) -> mx.array:
        with standing_in(self.layers, calls), attention_by_rows(self.attending):
            logits: mx.array = self.model(layout.tokens, cache=layout.caches(len(self.layers)))
        return logits


def _entering(begin: int, hidden: mx.array | None) -> dict[int, Call]:
    """Stand-ins that skip the layers before `begin` and hand `hidden` to it."""
    if begin == 0:
        return {}
    assert hidden is not None

    def skip(_: nn.Module, hidden: mx.array, *__: Any, **___: Any) -> mx.array:
        return hidden

    def hand_over(*_: Any, **__: Any) -> mx.array:
        return hidden

    return {**dict.fromkeys(range(begin - 1), skip), begin - 1: hand_over}


def cross_entropy(logits_NV: mx.array, targets_N: mx.array) -> mx.array:
    """Negative log-likelihood of each target, float32.

    The kernels of Metal and CUDA work in float32 on 16-bit logits. On the CPU `mx.fast.cross_entropy` reduces in the
    logits' own type, which in bfloat16 is off by up to 0.1 nats a token: there they are cast before.
    """
    if mx.default_device().type == mx.DeviceType.cpu:
        logits_NV = logits_NV.astype(mx.float32)
    return mx.fast.cross_entropy(logits_NV, targets_N)
