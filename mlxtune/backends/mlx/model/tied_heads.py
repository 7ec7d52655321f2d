"""A head that is the embedding, or is not, as config.json says it, where mlx-lm's code knows only one of the two."""

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.model import anatomy
from mlxtune.errors import BadModel

HEAD = "lm_head.weight"


def fit(model: nn.Module, *, tied: bool) -> bool:
    """Tie or untie the head of a model without its weights; whether that changed anything."""
    try:
        parts = anatomy.describe(model)
    except BadModel:
        return False  # what cannot be described is refused later, in words of its own
    if (parts.head is None) == tied:
        return False
    modules = dict(model.named_modules())
    embedding = modules[parts.embedding.removesuffix(".weight")]
    if not tied:
        _untie(model, embedding)
        return True
    holder, _, name = str(parts.head).removesuffix(".weight").rpartition(".")
    if "bias" in modules[f"{holder}.{name}".removeprefix(".")]:
        return False
    _tie(modules[holder] if holder else model, name, embedding)
    return True


def _tie(holder: nn.Module, name: str, embedding: nn.Module) -> None:
    """The embedding in the head's place: not a part of the model for a second time, only asked there."""
    del holder[name]

    def head(hidden: mx.array) -> mx.array:
        return embedding.as_linear(hidden)

    object.__setattr__(holder, name, head)


def _untie(model: nn.Module, embedding: nn.Module) -> None:
    """A head of its own, which is asked where the embedding would be."""
    n_vocabulary, n_hidden = embedding.weight.shape
    model.lm_head = nn.Linear(n_hidden, n_vocabulary, bias=False)
    own = type(embedding)
    as_linear = {"as_linear": lambda _, hidden: model.lm_head(hidden), "__module__": own.__module__}
    embedding.__class__ = type(own.__name__, (own,), as_linear)
