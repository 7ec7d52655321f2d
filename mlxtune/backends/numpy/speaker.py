"""A model that is read and not changed, for `eval`, `generate` and `chat`."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from mlxtune.adapters import fit as adapter_fit
from mlxtune.adapters.folder import Saved
from mlxtune.backends.base import LossSum, Sampling
from mlxtune.backends.numpy import adapter as adapters
from mlxtune.backends.numpy import config, device, layout, weights
from mlxtune.backends.numpy.arrays import Array, Flat, Workspace
from mlxtune.backends.numpy.cache import Cache
from mlxtune.backends.numpy.model import Model
from mlxtune.backends.numpy.sampling import choose
from mlxtune.data.packed import pack
from mlxtune.data.types import Batch
from mlxtune.models.shapes import EMBEDDING, HEAD, linears
from mlxtune.models.shapes import shapes as base_shapes


class NumpySpeaker:
    """See `backends.base.Speaker`."""

    def __init__(self, folder: Path, adapter: Saved | None, precision: str) -> None:
        self.device = device.name()
        self.decoder = config.read(folder)
        sources = weights.find(folder, self.decoder)
        shapes = base_shapes(self.decoder)
        untied = adapter is not None and adapter.untied_head
        if untied:
            shapes[HEAD] = shapes[EMBEDDING]
        if adapter is not None:
            adapter_fit.check(adapter, shapes, linears(self.decoder))
        places = layout.lay_out(shapes, ())
        flat = Flat(places, np.empty(places.size, np.float32))
        weights.read(sources, flat, precision)
        if adapter is not None:
            adapters.apply(adapter, flat)
        self.model = Model(self.decoder, flat, None, (), Workspace())

    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        rows = pack(batch)
        hidden = self.model.embed(rows.tokens_N, self.model.ws)
        logps_S = self.model.log_probabilities(rows, hidden, 0)
        return LossSum(-float(logps_S.sum(dtype=np.float64)), batch.n_supervised)

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, up to and without the first of `stop`."""
        generator = np.random.default_rng(sampling.seed)
        d = self.decoder
        room = len(prompt) + sampling.max_tokens
        caches = [Cache(d.n_kv_heads, room, d.head_dim) for _ in range(d.n_layers)]
        tokens = list(prompt)
        for _ in range(sampling.max_tokens):
            token = choose(self.model.next_logits(tokens, caches), sampling, generator)
            if token in stop:
                return
            yield token
            tokens = [token]

    def logits(self, tokens: Sequence[int]) -> Array:
        """Logits of the token after `tokens`, (V,), with nothing cached."""
        d = self.decoder
        caches = [Cache(d.n_kv_heads, len(tokens), d.head_dim) for _ in range(d.n_layers)]
        return self.model.next_logits(tokens, caches)
