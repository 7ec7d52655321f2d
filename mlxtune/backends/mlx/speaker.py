"""A model that is read and not changed, for `eval`, `generate` and `chat`."""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import load_adapters

from mlxtune.adapters import fit as adapter_fit
from mlxtune.adapters.folder import Saved
from mlxtune.backends.base import LossSum, Sampling
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.generating import generate
from mlxtune.backends.mlx.head import untie as head
from mlxtune.backends.mlx.model import anatomy
from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.backends.mlx.passes.forward import WHOLE, Forward
from mlxtune.backends.mlx.update.finite import not_finite
from mlxtune.data.types import Batch
from mlxtune.errors import BadModel
from mlxtune.models import fit


class MlxSpeaker:
    """See `backends.base.Speaker`."""

    def __init__(self, folder: Path, adapter: Saved | None, precision: str) -> None:
        self.device = device.name()
        self.model = load_lazily(folder, precision)
        if adapter is not None:
            self.model = with_adapter(self.model, adapter)
        self.model.eval()
        if bad := not_finite(dict(tree_flatten(self.model.parameters()))):
            raise fit.not_finite(folder, bad, precision)

    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        forward = Forward(self.model, 0, WHOLE)
        loss = -mx.sum(forward.log_probabilities(forward.lay_out(batch), None))
        return LossSum(float(loss.item()), batch.n_supervised)  # type: ignore[arg-type]  # a real scalar

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, up to and without the first of `stop`."""
        return generate(self.model, prompt, sampling, stop)


def with_adapter(model: nn.Module, adapter: Saved) -> nn.Module:
    """The model with an adapter of ours or of mlx-lm's. Raises BadModel where it does not fit."""
    if adapter.untied_head:
        head.untie(model, anatomy.describe(model))
    parts = anatomy.describe(model)
    adapter_fit.check(adapter, {name: part.shape for name, part in parts.parameters.items()}, parts.linears)
    try:
        return load_adapters(model, str(adapter.folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise BadModel(
            str(adapter.folder),
            expected="an adapter of this model",
            found=str(error).strip().replace("\n", " "),
            remedy="Name with --model the model that the adapter was trained on.",
        ) from error
