"""Whether an adapter is one of a model: both backends ask before they put it in.

What mlx-lm's adapters have besides whole parameters and LoRA of linear modules (DoRA, LoRA of embeddings and experts)
is for the backend to take or to refuse.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel
from mlxtune.models.fit import Shape
from mlxtune.models.folder import some
from mlxtune.models.weights import TensorInfo, header

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
LORA = ("rank", "scale", "dropout")  # what mlx-lm's format has of a LoRA
PARTNER = {"lora_a": "lora_b", "lora_b": "lora_a", "m": "lora_a"}  # that a tensor is nothing without

Tensors = Mapping[str, TensorInfo]


def check(folder: Path, parameters: Mapping[str, Shape], linears: Mapping[str, tuple[int, int]]) -> None:
    """Raises BadModel with the tensors that have no place in the model. linears: module names to (in, out)."""
    document: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())  # `export.adapter.find` has read it before
    tensors = header(folder / WEIGHTS)
    if document.get("fine_tune_type", "lora") == "full":
        faults = list(_of_parameters(tensors, parameters))
    else:
        _check_lora(folder, document)
        faults = list(_of_lora(tensors, parameters, linears))
    if faults:
        raise BadModel(
            str(folder / WEIGHTS),
            expected="an adapter of this model",
            found=f"{len(faults):,} of {len(tensors):,} tensors with no place in it: {some(sorted(faults), limit=3)}",
            remedy="Name with --model the model that the adapter was trained on.",
        )


def _check_lora(folder: Path, document: Mapping[str, Any]) -> None:
    there = document.get("lora_parameters") or {}
    missing = [key for key in LORA if not isinstance(there.get(key), int | float)]
    missing += [] if isinstance(document.get("num_layers"), int) else ["num_layers"]
    if missing:
        raise BadModel(
            str(folder / CONFIG),
            expected=f"num_layers, and lora_parameters with {', '.join(LORA)}",
            found=f"no number for {', '.join(missing)}",
            remedy="Name the folder RUN/adapter, or an adapter of mlx-lm.",
        )


def _of_parameters(tensors: Tensors, parameters: Mapping[str, Shape]) -> Iterator[str]:
    for name, info in tensors.items():
        if name not in parameters:
            yield name
        elif info.shape != parameters[name]:
            yield f"{name} {[*info.shape]} for {[*parameters[name]]}"


def _of_lora(
    tensors: Tensors, parameters: Mapping[str, Shape], linears: Mapping[str, tuple[int, int]]
) -> Iterator[str]:
    for name, info in tensors.items():
        module, _, end = name.rpartition(".")
        if end not in PARTNER or f"{module}.weight" not in parameters:
            yield name
        elif f"{module}.{PARTNER[end]}" not in tensors:
            yield f"{name} without {PARTNER[end]}"
        elif module in linears and end != "m":
            n_in, n_out = linears[module]
            side, width = (0, n_in) if end == "lora_a" else (-1, n_out)
            if len(info.shape) != 2 or info.shape[side] != width:
                yield f"{name} {[*info.shape]} for {[n_in, 'rank'] if side == 0 else ['rank', n_out]}".replace("'", "")
