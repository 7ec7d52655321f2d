"""Stand-ins for single layers: how a pass is cut at a layer without knowing the model's code.

A model calls its layers one after the other in a loop of its own, with masks and caches that it makes. A stand-in takes
a layer's place in that list for the time of a pass: it can hand on other hidden states, stop the pass, or do something
after the layer. The list keeps its length, and the layer's attributes (which say how it is to be called) are seen
through the stand-in.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlxtune.errors import BadModel

Call = Callable[..., mx.array]  # (the layer, hidden states, what else the model gives it) -> hidden states


def as_it_is(layer: nn.Module, hidden: mx.array, *arguments: Any, **named: Any) -> mx.array:
    """The Call that changes nothing."""
    result: mx.array = layer(hidden, *arguments, **named)
    return result


class StandIn:
    """`call(layer, hidden, ...)` in the place of `layer(hidden, ...)`."""

    def __init__(self, layer: nn.Module, call: Call) -> None:
        self._layer, self._call = layer, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)

    def __call__(self, *arguments: Any, **named: Any) -> mx.array:
        """The hidden states come first, in GPT-J by a name."""
        if not arguments:
            arguments = (named.pop(next(iter(named))),)
        return self._call(self._layer, *arguments, **named)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The list that the model's loop runs over: the one that begins with `model.layers[0]`. Raises BadModel."""
    first, count = model.layers[0], len(model.layers)
    for _, module in model.named_modules():
        for value in module.values():
            if isinstance(value, list) and len(value) == count and value[0] is first:
                return value
    raise BadModel(
        type(model).__module__,
        expected="a list of layers that belongs to a module",
        found="layers that are put together anew in each pass",
        remedy="mlxtune cannot cut this architecture; please report the model's name.",
    )


@contextmanager
def standing_in(layers: list[Any], calls: Mapping[int, Call]) -> Iterator[None]:
    """Stand-ins by place in the list, until the end of the block."""
    real = {place: layers[place] for place in calls}
    try:
        for place, call in calls.items():
            layers[place] = StandIn(real[place], call)
        yield
    finally:
        for place, layer in real.items():
            layers[place] = layer
