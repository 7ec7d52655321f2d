"""Rotary position embedding as config.json says it, where mlx-lm's code computes another.

What mlx-lm makes of a config is compared with what is right, and replaced where it differs.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import rope_utils

from mlxtune.backends.mlx.passes.packing import Rows
from mlxtune.models.rope import NEEDED, Rope, inverse_frequencies

SAME = 1e-5  # relative: mlx-lm computes its frequencies in float32


class RopeByTables(nn.Module):
    """A rotation by given frequencies, which may depend on how long a row is.

    traditional: features 2i and 2i + 1 make a pair, not i and i + dims / 2.
    """

    def __init__(self, rope: Rope, traditional: bool) -> None:
        super().__init__()
        self.dims, self.traditional, self._rope = rope.dims, traditional, rope
        self._made: dict[int, tuple[mx.array, float]] = {}

    def __call__(self, x: mx.array, offset: Any = 0) -> mx.array:
        """x: (B, heads, T, features). Rows end to end turn each by its own frequencies."""
        if not self._rope.by_length or not isinstance(offset, Rows):
            return self._turn(x, offset, x.shape[-2] + offset if self._rope.by_length else 1)
        parts = [self._turn(x[:, :, begin:end], 0, end - begin) for begin, end in pairwise(offset.ends)]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)

    def _turn(self, x: mx.array, offset: Any, length: int) -> mx.array:
        periods, factor = self._periods(length)
        if factor != 1.0:
            turning = x[..., : self.dims] * mx.array(factor, x.dtype)
            x = turning if self.dims == x.shape[-1] else mx.concatenate([turning, x[..., self.dims :]], axis=-1)
        settings = {"traditional": self.traditional, "base": None, "scale": 1.0, "offset": offset, "freqs": periods}
        return mx.fast.rope(x, self.dims, **settings)

    def _periods(self, length: int) -> tuple[mx.array, float]:
        regime = self._rope.regime(length)
        if regime not in self._made:
            frequencies, factor = inverse_frequencies(self._rope, length)
            self._made = {**self._made, regime: (mx.array((1 / frequencies).astype(np.float32)), factor)}
        return self._made[regime]


def put_in(model: nn.Module, ropes: Sequence[Rope]) -> bool:
    """The right rotation in every layer that turns by another; whether any did. ropes: of each layer."""
    replaced = False
    for layer, rope in zip(model.layers, ropes, strict=True):
        for holder, name, found in [*_rotations(layer)]:
            if rope.kind in NEEDED and not _is(found, rope):
                holder[name] = RopeByTables(rope, _pairs_neighbours(found))
                replaced = True
    return replaced


def _rotations(layer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """The modules that turn queries and keys, with where they are."""
    for _, holder in layer.named_modules():
        for name, child in holder.items():
            if isinstance(child, (nn.RoPE, rope_utils.DynamicNTKScalingRoPE)) or hasattr(child, "_freqs"):
                yield holder, name, child


def _pairs_neighbours(found: Any) -> bool:
    return bool(getattr(found, "traditional", type(found).__name__.startswith("Deepseek")))


def _is(found: Any, rope: Rope) -> bool:
    """Whether mlx-lm's module turns as the Rope says."""
    turns = None if rope.by_length else _turns(found)
    frequencies, factor = inverse_frequencies(rope)
    if turns is None or turns[0].shape != frequencies.shape:
        return False
    return bool(np.allclose(turns[0], frequencies, rtol=SAME, atol=0) and np.isclose(turns[1], factor, rtol=SAME))


def _turns(found: Any) -> tuple[np.ndarray, float] | None:
    """The frequencies of mlx-lm's module, and what it multiplies by."""
    if isinstance(found, nn.RoPE):
        return found.scale * found.base ** (-np.arange(0, found.dims, 2) / found.dims), 1.0
    if not hasattr(found, "_freqs"):
        return None
    return 1 / np.array(found._freqs, np.float64), getattr(found, "mscale", getattr(found, "_scale", 1.0))
