"""Untying the head: the embedding keeps its job at the input, a copy of it becomes the head.

mlx-lm's models ask `args.tie_word_embeddings` at each call, so that changing it unties them.
"""

import mlx.core as mx
import mlx.nn as nn

from mlxtune.backends.mlx.head.probe import is_asked
from mlxtune.errors import BadSetting
from mlxtune.strategies.selection import Anatomy

HEAD = "lm_head.weight"


def check_can_untie(model: nn.Module) -> None:
    """Raises BadSetting where the model's code always uses its embedding as its head."""
    if not getattr(getattr(model, "args", None), "tie_word_embeddings", False):
        raise _cannot(model)


def untie(model: nn.Module, anatomy: Anatomy) -> None:
    """Give a tied model a head of its own, equal to its embedding.

    That it works is seen by running the model up to it, with no weight read. Raises BadSetting where it is not asked.
    """
    check_can_untie(model)
    embedding = dict(model.named_modules())[anatomy.embedding.removesuffix(".weight")]
    model.args.tie_word_embeddings = False
    n_vocabulary, n_hidden = embedding.weight.shape
    model.lm_head = nn.Linear(n_hidden, n_vocabulary, bias=False)
    model.lm_head.weight = mx.array(embedding.weight)
    if not is_asked(model, model.lm_head):
        raise _cannot(model)


def _cannot(model: nn.Module) -> BadSetting:
    return BadSetting(
        "strategy.head",
        expected="a model whose head can be untied",
        found=f"{type(model).__module__.rpartition('.')[2]}, which always uses its embedding as its head",
        remedy="Leave --head out: the head then stays tied and frozen.",
    )
