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

from mlxtune.backends.mlx.model import corrections, keys, linear
from mlxtune.backends.mlx.model import file_names as names
from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import declared, fit

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
    raw = load_config(folder)
    config = declared.read(raw)
    try:
        classes = _model_classes(folder, raw, config)
        added = keys.completed(raw, config, classes[1]) if config else keys.rope_only(raw)
        model, _ = load_model(folder, lazy=True, model_config=added, get_model_classes=lambda **_: classes)
    except (ValueError, TypeError, KeyError, AttributeError, FileNotFoundError, RuntimeError) as error:
        raise BadModel(
            str(folder),
            expected="a config.json and weights that mlx-lm can load",
            found=str(error).strip().rstrip(".").replace("\n", " "),
            remedy="The folder may be incomplete, or its architecture newer than the installed mlx-lm.",
        ) from error
    cast(model, PRECISIONS[precision])
    corrections.hold_buffers(model)
    corrections.scale_embedding(model, precision)
    return model


def corrected(model: nn.Module) -> tuple[str, ...]:
    """What the model computes otherwise than mlx-lm does of the same folder, as a sentence for the user."""
    if not model.corrected:
        return ()
    here = f"mlx-lm leaves out of this model {', and '.join(model.corrected)}; it is computed here, as in PyTorch."
    return (f"{here} Try the result with mlxtune generate: mlx_lm.generate would compute another model.",)


def cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """All floating parameters in one type, but those that the architecture keeps exact (its `cast_predicate`)."""
    keep = getattr(model, "cast_predicate", lambda _: True)

    def convert(name: str, array: mx.array) -> mx.array:
        return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) and keep(name) else array

    model.update(tree_map_with_path(convert, model.parameters()))


def _classes(folder: Path, config: dict[str, Any]) -> tuple[type[nn.Module], type]:
    """mlx-lm's own. Some of its modules end the program where a package is missing."""
    try:
        return mlx_lm_classes(config)
    except SystemExit as error:
        raise BadModel(
            str(folder),
            expected="an architecture that mlx-lm can build here",
            found=f"{config['model_type']}, whose code in mlx-lm needs a package that is not installed",
            remedy="Install the package that mlx-lm named above.",
        ) from error


def _text_args(raw: dict[str, Any], outer: type) -> type | None:
    """The ModelArgs of the language model; in a multimodal one, where mlx-lm has it by itself."""
    if "text_config" not in raw:
        return outer
    try:
        return mlx_lm_classes({"model_type": raw["text_config"]["model_type"]})[1]
    except (KeyError, TypeError, ValueError):
        return None


def _model_classes(folder: Path, raw: dict[str, Any], config: Any) -> tuple[type[nn.Module], type]:
    """mlx-lm's classes, put right by what config.json says, that check weights before they take them.

    They also read a tied model that was saved under its head's name only. config: transformers', where it has one.
    """
    head_only = _saved_as_head_only(folder)
    model_class, args_class = _classes(folder, raw)
    known = None
    if config is not None:
        known = corrections.Family(folder, config, _text_args(raw, args_class))
        known.check(raw)

    class Model(model_class):  # type: ignore[misc,valid-type]
        __module__ = model_class.__module__  # which messages name
        corrected: tuple[str, ...] = ()

        def __init__(self, args: Any) -> None:
            super().__init__(args)
            self._corrected(known.passes(self) if known else ())

        def _corrected(self, what: tuple[str, ...]) -> None:
            object.__setattr__(self, "corrected", self.corrected + what)

        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            if head_only:
                weights = {name.replace(HEAD, EMBEDDING): array for name, array in weights.items()}
            inherited = getattr(super(), "sanitize", None)
            weights = names.as_mlx_lm(self.args, weights)
            return names.at_the_top(inherited(weights) if inherited else weights)

        def load_weights(self, weights: list[tuple[str, mx.array]], strict: bool = True) -> nn.Module:
            if strict:  # an adapter comes this way too, and is not strict
                stored = dict(weights)
                self._corrected(known.head(self, stored) if known else ())
                _check(folder, self, stored, known.shapes(raw) if known else [])
                weights = [*stored.items()]
            return super().load_weights(weights, strict=strict)

    return Model, args_class


def _check(folder: Path, model: nn.Module, weights: dict[str, mx.array], unread: list[str]) -> None:
    if any(linear.is_quantised(module) for _, module in model.named_modules()):
        raise fit.quantised(folder, model_config.read(folder).quantized)
    needed = {name: tuple(array.shape) for name, array in tree_flatten(model.parameters())}
    stored = {name: fit.Stored(_dtype(array), tuple(array.shape)) for name, array in weights.items()}
    fit.check(
        folder,
        needed,
        stored,
        f"mlx-lm does not read these keys of config.json: {', '.join(unread)}." if unread else "",
    )


def _dtype(array: mx.array) -> str:
    """The type as safetensors names it: "BF16" of mlx.core.bfloat16."""
    kind, bits = re.fullmatch(r"mlx\.core\.([a-z]+)(\d*)_?", str(array.dtype)).groups()  # type: ignore[union-attr]
    return {"float": "F", "bfloat": "BF", "int": "I", "uint": "U", "complex": "C"}.get(kind, kind.upper()) + bits


def _saved_as_head_only(folder: Path) -> bool:
    """Whether the folder has a head and no embedding: only headers are read."""
    names = [str(name) for file in folder.glob("model*.safetensors") for name in mx.load(str(file))]
    has_embedding = any("embed" in name or name.endswith("wte.weight") for name in names)
    return not has_embedding and any(name.endswith(HEAD) for name in names)
