"""A model that is read and not changed, for `eval`, `generate` and `chat`."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import numpy as np

from mlxtune.adapters import fit as adapter_fit
from mlxtune.adapters.folder import Saved
from mlxtune.backends.base import LossSum, Sampling
from mlxtune.backends.numpy import adapter as adapters
from mlxtune.backends.numpy import config, device, layout, weights
from mlxtune.backends.numpy.arrays import Flat, Workspace
from mlxtune.backends.numpy.generating import generate
from mlxtune.backends.numpy.model import Model
from mlxtune.data.packed import pack
from mlxtune.data.types import Batch
from mlxtune.models.shapes import EMBEDDING, HEAD, linears
from mlxtune.models.shapes import shapes as base_shapes


class NumpySpeaker:
    """See `backends.base.Speaker`."""

    def __init__(self, folder: Path, adapter: Saved | None, precision: str) -> None:
        self.device = device.name()
        decoder = config.read(folder)
        sources = weights.find(folder, decoder)
        shapes = base_shapes(decoder)
        untied = adapter is not None and adapter.untied_head
        if untied:
            shapes[HEAD] = shapes[EMBEDDING]
        if adapter is not None:
            adapter_fit.check(adapter, shapes, linears(decoder))
        places = layout.lay_out(shapes, ())
        flat = Flat(places, np.empty(places.size, np.float32))
        weights.read(sources, flat, precision)
        if adapter is not None:
            adapters.apply(adapter, flat)
        self.model = Model(decoder, flat, None, (), Workspace())

    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        rows = pack(batch)
        hidden = self.model.embed(rows.tokens_N, self.model.ws)
        logps_S = self.model.log_probabilities(rows, hidden, 0)
        return LossSum(-float(logps_S.sum(dtype=np.float64)), batch.n_supervised)

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, up to and without the first of `stop`."""
        return generate(self.model, prompt, sampling, stop)
