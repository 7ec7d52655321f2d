"""A checked model folder becomes an mlx-lm model in one precision, read lazily: no weight is touched here.

Any architecture of mlx-lm loads. Nothing is unpickled and no code from the folder runs.
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path
from mlx_lm.utils import load_config, load_model

from mlxtune.backends.mlx.rope import older_keys
from mlxtune.backends.mlx.windows import slide
from mlxtune.errors import BadModel

PRECISIONS = {"bf16": mx.bfloat16, "fp16": mx.float16, "fp32": mx.float32}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ModelClasses = Callable[[dict[str, Any]], tuple[type[nn.Module], type]]
# mlx-lm's own table from a config to its classes, which is the default of this parameter.
mlx_lm_classes: ModelClasses = inspect.signature(load_model).parameters["get_model_classes"].default


def load_lazily(folder: Path, precision: str) -> nn.Module:
    """The model with its parameters as unread arrays of `precision`.

    Raises BadModel for an architecture that mlx-lm does not have, for missing or left-over tensors, and for weights
    that are quantised (they cannot be trained as they are).
    """
    try:
        classes = _classes_that_tie if _saved_as_head_only(folder) else mlx_lm_classes
        added = older_keys(load_config(folder))
        model, config = load_model(folder, lazy=True, strict=True, model_config=added, get_model_classes=classes)
    except (ValueError, TypeError, KeyError, FileNotFoundError, RuntimeError) as error:
        raise BadModel(
            str(folder),
            expected="a config.json and weights that mlx-lm can load",
            found=str(error).strip().rstrip(".").replace("\n", " "),
            remedy="The folder may be incomplete, or its architecture newer than the installed mlx-lm.",
        ) from error
    quantised = [name for name, module in model.named_modules() if hasattr(module, "scales")]
    if quantised:
        raise BadModel(
            f"{folder}: {quantised[0]}",
            expected="weights in 16 or 32 bits",
            found=f"{len(quantised):,} quantised modules",
            remedy="Name the original model, not a quantised conversion of it.",
        )
    slide(model, config, folder)
    cast(model, PRECISIONS[precision])
    return model


def cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """All floating parameters in one type, but those that the architecture keeps exact (its `cast_predicate`)."""
    keep = getattr(model, "cast_predicate", lambda _: True)

    def convert(name: str, array: mx.array) -> mx.array:
        return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) and keep(name) else array

    model.update(tree_map_with_path(convert, model.parameters()))


def _classes_that_tie(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's classes, able to read a tied model that was saved under its head's name only."""
    model_class, args_class = mlx_lm_classes(config)

    class Model(model_class):  # type: ignore[misc,valid-type]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            named = {name.replace(HEAD, EMBEDDING): array for name, array in weights.items()}
            inherited = getattr(super(), "sanitize", None)
            return inherited(named) if inherited else named

    return Model, args_class


def _saved_as_head_only(folder: Path) -> bool:
    """Whether the folder has a head and no embedding: only headers are read."""
    names = [str(name) for file in folder.glob("model*.safetensors") for name in mx.load(str(file))]
    has_embedding = any("embed" in name or name.endswith("wte.weight") for name in names)
    return not has_embedding and any(name.endswith(HEAD) for name in names)
