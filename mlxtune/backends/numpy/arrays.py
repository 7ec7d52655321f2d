"""Arrays by name: views into one flat buffer, and working memory that is used again.

Fresh large arrays cost page faults in every step; these are made once and grow with the longest batch.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mlxtune.backends.numpy.layout import Layout

Array: TypeAlias = NDArray[Any]  # float32 everywhere but in the tests of gradients, which need float64
Shapes: TypeAlias = tuple[tuple[int, ...], ...]
MOST_VIEWS = 1 << 12  # that are remembered: batches of ragged rows have shapes of their own each, some ten a step


class Flat:
    """A buffer and the parameters in it. Of gradients, only the trained part is there: `begin` is its place."""

    def __init__(self, layout: Layout, buffer: Array, begin: int = 0) -> None:
        self.layout, self.buffer, self.begin = layout, buffer, begin

    def get(self, name: str) -> Array | None:
        """A parameter's view; None where it is not in this buffer."""
        return self.joined([name], self.layout.places[name][1]) if name in self.layout.places else None

    def __getitem__(self, name: str) -> Array:
        view = self.get(name)
        if view is None:
            raise KeyError(name)
        return view

    def joined(self, names: Sequence[str], shape: tuple[int, ...]) -> Array | None:
        """Parameters that lie side by side, as one array of the shape; None where they are not in this buffer."""
        if names[0] not in self.layout.places:
            return None
        at = self.layout.places[names[0]][0]
        size = prod(shape)
        assert sum(prod(self.layout.places[name][1]) for name in names) == size
        assert self.layout.places[names[-1]][0] + prod(self.layout.places[names[-1]][1]) == at + size
        return None if at < self.begin else self.buffer[at - self.begin :][:size].reshape(shape)


class Workspace:
    """Working arrays by name and shape. An array's content lasts until its name is taken again."""

    def __init__(self, dtype: type[np.floating[Any]] = np.float32) -> None:
        self.dtype = dtype
        self.bytes = 0  # of all arrays together
        self._buffers: dict[str, Array] = {}
        self._views: dict[tuple[str, tuple[int, ...]], Array] = {}
        self._parts: dict[tuple[str, Shapes], tuple[Array, ...]] = {}
        self._n_parts = 0  # arrays since they were last forgotten

    def __call__(self, name: str, *shape: int) -> Array:
        """An array of the shape with whatever was in it."""
        view = self._views.get((name, shape))
        return self._make(name, shape) if view is None else view

    def parts(self, name: str, shapes: Shapes) -> tuple[Array, ...]:
        """One array cut into arrays of these shapes, one after the other."""
        parts = self._parts.get((name, shapes))
        return self._cut(name, shapes) if parts is None else parts

    def another(self) -> "Workspace":
        """An empty one of the same type, for another thread."""
        return type(self)(self.dtype)

    def _make(self, name: str, shape: tuple[int, ...]) -> Array:
        size = prod(shape)
        view = self._buffer(name, size)[:size].reshape(shape)
        self._views[name, shape] = view
        return view

    def _cut(self, name: str, shapes: Shapes) -> tuple[Array, ...]:
        ends = [0, *accumulate(map(prod, shapes))]
        buffer = self._buffer(name, ends[-1])
        parts = tuple(buffer[a:b].reshape(shape) for (a, b), shape in zip(pairwise(ends), shapes, strict=True))
        self._parts[name, shapes] = parts
        self._n_parts += len(parts)
        return parts

    def _buffer(self, name: str, size: int) -> Array:
        """With room for so many elements. Views of what was too small are forgotten, and all when they are many."""
        known = self._buffers.get(name)
        if len(self._views) + self._n_parts >= MOST_VIEWS:
            self._views, self._parts, self._n_parts = {}, {}, 0
        if known is not None and known.size >= size:
            return known
        self._views = {key: view for key, view in self._views.items() if key[0] != name}
        self._parts = {key: parts for key, parts in self._parts.items() if key[0] != name}
        self._buffers[name] = np.empty(size, self.dtype)
        self.bytes += self._buffers[name].nbytes - (0 if known is None else known.nbytes)
        return self._buffers[name]


def is_finite(array: Array) -> bool:
    """Whether all numbers are, float32 or bfloat16 in words, without another array of their size.

    >>> is_finite(np.float32([1, -2])), is_finite(np.float32([1, -np.inf])), is_finite(np.uint16([0x3F80, 0xFFC0]))
    (True, False, False)
    """
    if array.dtype == np.uint16:
        return bool(array.max() < 0xFF80 and array.view(np.int16).max() < 0x7F80)
    return math.isfinite(array.max()) and math.isfinite(array.min())
