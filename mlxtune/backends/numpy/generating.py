"""Text from a decoder, token by token."""

from collections.abc import Iterator, Sequence, Set

import numpy as np

from mlxtune.backends.base import Sampling
from mlxtune.backends.numpy.arrays import Array
from mlxtune.backends.numpy.cache import Cache
from mlxtune.backends.numpy.layout import FLOAT_BYTES
from mlxtune.backends.numpy.model import Model
from mlxtune.backends.numpy.sampling import choose


def generate(model: Model, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
    """The tokens that follow the prompt, up to and without the first of `stop`."""
    generator, tokens = np.random.default_rng(sampling.seed), list(prompt)
    caches = _caches(model, len(prompt) + sampling.max_tokens)
    for _ in range(sampling.max_tokens):
        token = choose(model.next_logits(tokens, caches), sampling, generator)
        if token in stop:
            return
        yield token
        tokens = [token]


def next_logits(model: Model, tokens: Sequence[int]) -> Array:
    """Logits of the token after `tokens`, (V,), with nothing cached."""
    return model.next_logits(tokens, _caches(model, len(tokens)))


def cache_bytes(model: Model, n_tokens: int) -> int:
    """Keys and values of so many tokens, in all layers."""
    d = model.decoder
    return 2 * FLOAT_BYTES * d.n_layers * d.n_kv_heads * d.head_dim * n_tokens


def _caches(model: Model, n_tokens: int) -> list[Cache]:
    d = model.decoder
    return [Cache(d.n_kv_heads, n_tokens, d.head_dim) for _ in range(d.n_layers)]
