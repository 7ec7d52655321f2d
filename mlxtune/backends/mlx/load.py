"""A checked model folder becomes an mlx-lm model in one precision, read lazily: no weight is touched here.

Any architecture of mlx-lm loads. Nothing is unpickled and no code from the folder runs.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.utils import load_config, load_model

from mlxtune.backends.mlx.rope import older_keys
from mlxtune.backends.mlx.windows import slide
from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import fit

PRECISIONS = {"bf16": mx.bfloat16, "fp16": mx.float16, "fp32": mx.float32}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
ModelClasses = Callable[[dict[str, Any]], tuple[type[nn.Module], type]]
# mlx-lm's own table from a config to its classes, which is the default of this parameter.
mlx_lm_classes: ModelClasses = inspect.signature(load_model).parameters["get_model_classes"].default


def load_lazily(folder: Path, precision: str) -> nn.Module:
    """The model with its parameters as unread arrays of `precision`.

    Raises BadModel for an architecture that mlx-lm does not have, for tensors that are not those of the config, and for
    weights that are quantised (they cannot be trained as they are).
    """
    try:
        added = older_keys(load_config(folder))
        classes = _checking_classes(folder)
        model, config = load_model(folder, lazy=True, strict=True, model_config=added, get_model_classes=classes)
    except (ValueError, TypeError, KeyError, FileNotFoundError, RuntimeError) as error:
        raise BadModel(
            str(folder),
            expected="a config.json and weights that mlx-lm can load",
            found=str(error).strip().rstrip(".").replace("\n", " "),
            remedy="The folder may be incomplete, or its architecture newer than the installed mlx-lm.",
        ) from error
    slide(model, config, folder)
    cast(model, PRECISIONS[precision])
    return model


def cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """All floating parameters in one type, but those that the architecture keeps exact (its `cast_predicate`)."""
    keep = getattr(model, "cast_predicate", lambda _: True)

    def convert(name: str, array: mx.array) -> mx.array:
        return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) and keep(name) else array

    model.update(tree_map_with_path(convert, model.parameters()))


def _checking_classes(folder: Path) -> ModelClasses:
    """mlx-lm's classes, that check weights before they take them.

    They also read a tied model that was saved under its head's name only.
    """
    head_only = _saved_as_head_only(folder)

    def classes(config: dict[str, Any]) -> tuple[type[nn.Module], type]:
        model_class, args_class = mlx_lm_classes(config)

        class Model(model_class):  # type: ignore[misc,valid-type]
            __module__ = model_class.__module__  # which messages name

            def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
                if head_only:
                    weights = {name.replace(HEAD, EMBEDDING): array for name, array in weights.items()}
                inherited = getattr(super(), "sanitize", None)
                return inherited(weights) if inherited else weights

            def load_weights(self, weights: list[tuple[str, mx.array]], strict: bool = True) -> nn.Module:
                if strict:  # an adapter comes this way too, and is not strict
                    _check(folder, self, dict(weights))
                return super().load_weights(weights, strict=strict)

        return Model, args_class

    return classes


def _check(folder: Path, model: nn.Module, weights: dict[str, mx.array]) -> None:
    if any(hasattr(module, "scales") for _, module in model.named_modules()):
        raise fit.quantised(folder, model_config.read(folder).quantized)
    needed = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    stored = {name: fit.Stored(_dtype(array), tuple(array.shape)) for name, array in weights.items()}
    fit.check(folder, needed, stored)


def _dtype(array: mx.array) -> str:
    """The type as safetensors names it: "BF16" of mlx.core.bfloat16."""
    kind, bits = re.fullmatch(r"mlx\.core\.([a-z]+)(\d*)_?", str(array.dtype)).groups()  # type: ignore[union-attr]
    return {"float": "F", "bfloat": "BF", "int": "I", "uint": "U", "complex": "C"}.get(kind, kind.upper()) + bits


def _saved_as_head_only(folder: Path) -> bool:
    """Whether the folder has a head and no embedding: only headers are read."""
    names = [str(name) for file in folder.glob("model*.safetensors") for name in mx.load(str(file))]
    has_embedding = any("embed" in name or name.endswith("wte.weight") for name in names)
    return not has_embedding and any(name.endswith(HEAD) for name in names)
