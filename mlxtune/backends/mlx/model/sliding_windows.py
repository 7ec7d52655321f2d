"""Sliding windows of attention where mlx-lm's code for a family has none: each layer that slides has its own mask."""

import inspect
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.base import create_attention_mask
from mlx_lm.models.cache import KVCache, RotatingKVCache

from mlxtune.backends.mlx.passes.packing import PackedCache


def slide(model: nn.Module, windows: Sequence[int | None]) -> None:
    """Let each token see the window's tokens, itself among them; generation's cache follows."""
    for layer, window in zip(model.layers, windows, strict=True):
        if window is not None:
            layer.__class__ = _sliding(type(layer), window)

    def make_cache(_: nn.Module) -> list[KVCache | RotatingKVCache]:
        return [KVCache() if window is None else RotatingKVCache(max_size=window) for window in windows]

    own = type(model)
    model.__class__ = type(own.__name__, (own,), {"make_cache": make_cache, "__module__": own.__module__})


def _sliding(layer_class: type[nn.Module], window: int) -> type[nn.Module]:
    signature = inspect.signature(layer_class.__call__)

    def call(*arguments: Any, **named: Any) -> mx.array:
        given = signature.bind(*arguments, **named)
        x, mask, cache = given.args[1], given.arguments.get("mask"), given.arguments.get("cache")
        given.arguments["mask"] = _mask(x, mask, cache, window)
        out: mx.array = layer_class.__call__(*given.args, **given.kwargs)
        return out

    return type(layer_class.__name__, (layer_class,), {"__call__": call, "__module__": layer_class.__module__})


def _mask(x: mx.array, mask: Any, cache: Any, window: int) -> Any:
    """In the form of the model's own, which may have to be an array."""
    n_tokens = x.shape[1]
    if cache is None and n_tokens > window:
        return _alone(n_tokens, window)
    return create_attention_mask(x, cache, window_size=window, return_array=isinstance(mask, mx.array))


@lru_cache(maxsize=2)
def _alone(n_tokens: int, window: int) -> mx.array:
    """The mask of rows below each other, made once for all layers; nothing of a pass is in it."""
    return PackedCache([n_tokens]).array(n_tokens, window)
