"""The pass of a shape that comes again and again, compiled where that is seen to be faster.

MLX compiles a graph for its shapes, and a packed batch's graph has its rows' lengths in it: of ragged rows hardly any
shape comes twice, rows cut to one length have one alone. A shape is compiled when so much time was spent on it that
compiling at its slowest would not have doubled it; it stays compiled if that gives the same bits, takes no more memory
and less time. So a choice by the clock changes no number of a run.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlxtune.backends.mlx.passes.layout import Layout
from mlxtune.backends.mlx.passes.network import Network
from mlxtune.backends.mlx.update.parameters import Arrays

PATIENCE_SECONDS = 40.0  # spent on a shape before it is compiled
TIMED_STEPS = 3  # of each way
FASTER, LARGER = 0.98, 1.02  # less of the time than this, no more of the peak than that
MOST_SHAPES = 8  # that are compiled
MOST_WATCHED = 4096  # ragged rows have a new shape in every step

Found = tuple[mx.array, Arrays]  # the summed loss, the gradients


@dataclass
class Shape:
    """What is known of one. pass_: compiled, from when it is tried until it is refused."""

    seconds: float = 0.0
    plain: float = math.inf  # the fastest step
    compiled: list[float] = field(default_factory=list)
    pass_: Callable[..., Found] | None = None
    refused: bool = False

    def refuse(self) -> None:
        """For good."""
        self.pass_, self.refused = None, True


class Compiled:
    """`Network.loss_and_gradients`, compiled for some shapes. may: without it, for none."""

    def __init__(self, network: Network, *, may: bool) -> None:
        self.network, self.may = network, may
        self.patience_seconds = PATIENCE_SECONDS
        self.tried = 0  # shapes
        self._shapes: dict[Any, Shape] = {}
        self._of_step: list[Shape] = []
        self._peak_bytes = 0  # before the last trial

    def loss_and_gradients(self, layout: Layout, hidden: mx.array | None, weights: Arrays, scale: float) -> Found:
        """As of the network."""
        shape = self._shape(layout)
        self._of_step.append(shape)
        if shape.pass_ is None and self._is_due(shape):
            self._try(shape, layout, hidden, weights, scale)
        if shape.pass_ is None:
            return self.network.loss_and_gradients(layout, hidden, weights, scale)
        return shape.pass_(*_arrays(layout, hidden, weights, scale))

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one step with its evaluation, whose time is that of its shape if all its micro-batches have one."""
        self._of_step, tried, began = [], self.tried, time.perf_counter()
        yield
        if self._of_step and self.tried == tried and all(shape is self._of_step[0] for shape in self._of_step):
            self._note(self._of_step[0], time.perf_counter() - began)

    def _shape(self, layout: Layout) -> Shape:
        if len(self._shapes) >= MOST_WATCHED:
            self._shapes = {key: shape for key, shape in self._shapes.items() if shape.pass_ is not None}
        return self._shapes.setdefault((layout.tokens.shape, layout.lengths, layout.targets_N.size), Shape())

    def _is_due(self, shape: Shape) -> bool:
        is_long = shape.plain < math.inf and shape.seconds >= self.patience_seconds
        return self.may and is_long and not shape.refused and self.tried < MOST_SHAPES

    def _try(self, shape: Shape, layout: Layout, hidden: mx.array | None, weights: Arrays, scale: float) -> None:
        """Compile it, and compare with what it is without. What fails for whatever reason goes on as it was."""
        self.tried += 1
        self._peak_bytes = mx.get_peak_memory()
        compiled = mx.compile(_of_arrays(self.network, layout), inputs=[mx.random.state])
        try:
            found = _marks(compiled(*_arrays(layout, hidden, weights, scale)))
            expected = _marks(self.network.loss_and_gradients(layout, hidden, weights, scale))
        except Exception:
            shape.refuse()
            return
        shape.pass_ = compiled
        if found != expected or self._takes_more:
            shape.refuse()

    @property
    def _takes_more(self) -> bool:
        return mx.get_peak_memory() > LARGER * self._peak_bytes

    def _note(self, shape: Shape, seconds: float) -> None:
        shape.seconds += seconds
        if shape.pass_ is None:
            shape.plain = min(shape.plain, seconds)
        elif len(shape.compiled) < TIMED_STEPS:
            shape.compiled.append(seconds)
            slow = len(shape.compiled) == TIMED_STEPS and min(shape.compiled) > FASTER * shape.plain
            if slow or self._takes_more:
                shape.refuse()


def _arrays(layout: Layout, hidden: mx.array | None, weights: Arrays, scale: float) -> Sequence[Any]:
    return (
        layout.tokens,
        layout.chosen_N,
        layout.targets_N,
        [] if hidden is None else [hidden],
        weights,
        mx.array(scale),
    )


def _of_arrays(network: Network, like: Layout) -> Callable[..., Found]:
    """The pass of a shape as a function of arrays alone."""

    def run(tokens: mx.array, chosen_N: mx.array, targets_N: mx.array, hidden: Any, weights: Any, scale: Any) -> Found:
        layout = like._replace(tokens=tokens, chosen_N=chosen_N, targets_N=targets_N)
        return network.loss_and_gradients(layout, hidden[0] if hidden else None, weights, scale)

    return run


def _marks(found: Found) -> list[int]:
    """Sums over the bits of the loss and of each gradient. A gradient is let go of when its sum is there."""
    loss, gradients = found
    words = (array.view(mx.uint16 if array.itemsize == 2 else mx.uint32) for array in (loss, *gradients.values()))
    sums = [mx.sum(each.astype(mx.uint32)) for each in words]
    del found, gradients
    mx.eval(sums)
    return [int(each.item()) for each in sums]  # type: ignore[arg-type]  # not complex
