"""An adapter of ours or of mlx-lm's, from its folder into a model that is read and not changed.

Whole parameters take the places of the model's own. A LoRA is added to the weight it stands beside: W' + scale * a b.
"""

from pathlib import Path

import numpy as np

from mlxtune.backends import adapter_fit
from mlxtune.backends.adapter_fit import CONFIG, WEIGHTS
from mlxtune.backends.base import Adapter
from mlxtune.backends.numpy.arrays import Array, Flat
from mlxtune.backends.numpy.weights import READABLE, fill
from mlxtune.errors import BadModel
from mlxtune.models.weights import TensorInfo, header


def apply(adapter: Adapter, weights: Flat) -> None:
    """Put an adapter that fits (`adapter_fit`) into the weights. Raises BadModel for what is only read on MLX."""
    tensors = header(adapter.folder / WEIGHTS)
    if _kind(adapter.folder) == "lora":
        _add_lora(adapter.folder, tensors, weights)
        return
    for name, info in tensors.items():
        _check(adapter.folder, name, info, weights[name].shape)
        fill(weights[name], info)


def _add_lora(folder: Path, tensors: dict[str, TensorInfo], weights: Flat) -> None:
    scale = adapter_fit.lora(folder, adapter_fit.read(folder)).scale
    for module in sorted({name.rpartition(".")[0] for name in tensors}):
        weight = weights[f"{module}.weight"]
        a, b = (tensors[f"{module}.lora_{end}"] for end in "ab")
        _check(folder, f"{module}.lora_a", a, (weight.shape[1], a.shape[-1]))
        _check(folder, f"{module}.lora_b", b, (a.shape[-1], weight.shape[0]))
        weight += (_read(a) @ _read(b)).T * scale


def _read(info: TensorInfo) -> Array:
    array = np.empty(info.shape, np.float32)
    fill(array, info)
    return array


def _kind(folder: Path) -> str:
    kind = adapter_fit.read(folder).fine_tune_type
    if kind not in ("lora", "full"):
        raise _other(folder, CONFIG, "fine_tune_type lora or full", kind)
    return kind


def _check(folder: Path, name: str, info: TensorInfo, shape: tuple[int, ...]) -> None:
    if info.shape != shape or info.dtype not in READABLE:
        raise _other(folder, name, f"shape {list(shape)}", f"{info.dtype} of shape {list(info.shape)}")


def _other(folder: Path, name: str, expected: str, found: str) -> BadModel:
    return BadModel(
        f"{folder}: {name}",
        expected=expected,
        found=found,
        remedy="Name with --model the model that the adapter was trained on.",
    )
