"""Rows end to end in one sequence, none of which sees another: no place is spent on padding.

mlx-lm's models ask a cache for their mask and hand it to their attention. `PackedCache` is one that keeps nothing: its
mask lets a token see its own row, and `attention_by_rows` computes row after row, so that the squares between rows cost
nothing. Where positions are absolute, or layers recurrent, this is not exact; the self-check at the start finds out.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from types import ModuleType
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models import base
from numpy.typing import NDArray

ATTENTION = "scaled_dot_product_attention"
Mask = mx.array | str | None


class Rows(int):
    """The offset 0 of rows end to end, that says where they end: a rotation may depend on the length of a row."""

    ends: tuple[int, ...]  # 0 first


class PackedCache:
    """A cache in the eyes of a model: empty, with a mask for rows of the lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.ends = (0, *accumulate(lengths))
        self.offset = Rows(0)
        self.offset.ends = self.ends
        self.masks: dict[int | None, mx.array] = {}  # by window: the layers of a pass share them

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Keys and values as they are: nothing came before."""
        return keys, values

    def make_mask(self, n_tokens: int, return_array: bool = False, window_size: int | None = None) -> Mask:
        """The word "causal", taken row by row by `attention_by_rows`; an array where one is wanted or a window cuts."""
        longest = max(end - begin for begin, end in pairwise(self.ends))
        if not return_array and (window_size is None or longest <= window_size):
            return "causal"
        return self.array(n_tokens, window_size)

    def array(self, n_tokens: int, window_size: int | None) -> mx.array:
        """The mask as an array, made once for all layers."""
        if window_size not in self.masks:
            self.masks[window_size] = mx.array(self._seen(n_tokens, window_size))
        return self.masks[window_size]

    def _seen(self, n_tokens: int, window_size: int | None) -> NDArray[np.bool_]:
        """Which token sees which."""
        place = np.arange(n_tokens)
        begin = np.repeat(self.ends[:-1], np.diff(self.ends))
        if window_size is not None:
            begin = np.maximum(begin, place - window_size + 1)
        return (place >= begin[:, None]) & (place <= place[:, None])


def modules_that_attend() -> list[ModuleType]:
    """The modules of mlx-lm's models that are imported and use its common attention."""
    return [
        module
        for name, module in list(sys.modules.items())
        if name.startswith("mlx_lm.models.") and getattr(module, ATTENTION, None) is base.scaled_dot_product_attention
    ]


@contextmanager
def attention_by_rows(modules: Sequence[ModuleType]) -> Iterator[None]:
    """Within the block, the modules attend row by row where their cache is `PackedCache`."""
    whole = base.scaled_dot_product_attention

    def by_rows(
        queries: mx.array,
        keys: mx.array,
        values: mx.array,
        cache: Any,
        scale: float,
        mask: Mask,
        sinks: mx.array | None = None,
    ) -> mx.array:
        if not isinstance(cache, PackedCache):
            return whole(queries, keys, values, cache, scale, mask, sinks)
        return _rows((queries, keys, values), cache, scale, mask, sinks)

    try:
        for module in modules:
            setattr(module, ATTENTION, by_rows)
        yield
    finally:
        for module in modules:
            setattr(module, ATTENTION, whole)


def _rows(heads: Sequence[mx.array], cache: PackedCache, scale: float, mask: Mask, sinks: mx.array | None) -> mx.array:
    """Attention of each row by itself, (1, heads, S, h). An array as mask is cut to the row's square."""
    parts = [
        mx.fast.scaled_dot_product_attention(
            *(array[:, :, begin:end] for array in heads),
            scale=scale,
            mask=mask[..., begin:end, begin:end] if isinstance(mask, mx.array) else mask,
            sinks=sinks,
        )
        for begin, end in pairwise(cache.ends)
    ]
    return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
