"""Whether an adapter is one of a model: both backends ask before they put it in.

What mlx-lm's adapters have besides whole parameters and LoRA of linear modules (DoRA, LoRA of embeddings and experts)
is for the backend to take or to refuse.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel
from mlxtune.models.fit import Shape
from mlxtune.models.folder import some
from mlxtune.models.weights import TensorInfo, header

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"
LORA = ("rank", "scale", "dropout")  # what mlx-lm's format has of a LoRA
PARTNER = {"lora_a": "lora_b", "lora_b": "lora_a"}  # that a tensor is nothing without

Tensors = Mapping[str, TensorInfo]
Shapes = Mapping[str, Shape]


def check(folder: Path, parameters: Shapes, linears: Mapping[str, tuple[int, int]]) -> None:
    """Raises BadModel with the tensors that have no place in the model. linears: module names to (in, out)."""
    document: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())  # `export.adapter.find` has read it before
    tensors = header(folder / WEIGHTS)
    match document.get("fine_tune_type", "lora"):
        case "full":
            faults = _misfits(tensors, parameters)
        case "lora":
            faults = _lora_misfits(tensors, parameters, linears, _rank(folder, document))
        case _:
            return
    if faults:
        raise BadModel(
            str(folder / WEIGHTS),
            expected="an adapter of this model",
            found=f"{len(faults):,} of {len(tensors):,} tensors with no place in it: {some(sorted(faults), limit=3)}",
            remedy="Name with --model the model that the adapter was trained on.",
        )


def _rank(folder: Path, document: Mapping[str, Any]) -> int:
    """The rank of a LoRA's config, which must have the rest too."""
    lora = document.get("lora_parameters")
    lora = lora if isinstance(lora, dict) else {}
    missing = [key for key in LORA if not isinstance(lora.get(key), int | float)]
    missing += [] if isinstance(document.get("num_layers"), int) else ["num_layers"]
    if missing:
        raise BadModel(
            str(folder / CONFIG),
            expected=f"num_layers, and lora_parameters with {', '.join(LORA)}",
            found=f"no number for {', '.join(missing)}",
            remedy="Name the folder RUN/adapter, or an adapter of mlx-lm.",
        )
    return int(lora["rank"])


def _misfits(tensors: Tensors, needed: Shapes) -> list[str]:
    """Tensors that the model has no parameter for, or one of another shape."""
    unlike = [
        f"{name} {[*info.shape]} for {[*needed[name]]}"
        for name, info in tensors.items()
        if name in needed and info.shape != needed[name]
    ]
    return [*(name for name in tensors if name not in needed), *unlike]


def _lora_misfits(tensors: Tensors, parameters: Shapes, linears: Mapping[str, tuple[int, int]], rank: int) -> list[str]:
    """The same for LoRA, and halves of pairs. Only the shapes beside linear modules are known here."""
    matrices = {name.removesuffix(".weight") for name, shape in parameters.items() if len(shape) > 1}
    modules = {name: name.rpartition(".") for name in tensors}
    lora = {name for name, (module, _, end) in modules.items() if end in PARTNER and module in matrices}
    known: dict[str, Shape] = {}
    for module, (n_in, n_out) in linears.items():
        known |= {f"{module}.lora_a": (n_in, rank), f"{module}.lora_b": (rank, n_out)}
    halves = [name for name in lora if f"{modules[name][0]}.{PARTNER[modules[name][2]]}" not in tensors]
    needed = {name: known.get(name, tensors[name].shape) for name in lora}
    return [*_misfits(tensors, needed), *(f"{name} without its other half" for name in halves)]
