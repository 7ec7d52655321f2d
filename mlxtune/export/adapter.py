"""What a run trained, in the format of mlx-lm's adapters, so that `mlx_lm.generate --adapter-path` loads it.

adapters.safetensors holds the tensors by the model's own names, adapter_config.json says what they are: for LoRA the
rank, scale, dropout and the names of the modules; for whole parameters fine_tune_type "full". One thing mlx-lm does not
know: a head that was untied, which it refuses by its name.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.backends import adapter_fit
from mlxtune.backends.base import Adapter
from mlxtune.documents import user_path
from mlxtune.errors import BadModel
from mlxtune.storage import Tensor, fill_folder, place_folder, write_json, write_tensors
from mlxtune.strategies.selection import Anatomy, Selection

WEIGHTS, CONFIG = "adapters.safetensors", "adapter_config.json"


def write(
    folder: Path, weights: Iterable[Tensor], anatomy: Anatomy, selection: Selection, about: dict[str, Any]
) -> None:
    """Write the adapter beside the folder, whose place it takes with `settle`. about: the model's name, the losses."""

    def files(partial: Path) -> None:
        write_tensors(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, config(anatomy, selection, about))

    fill_folder(folder, files)


def settle(folder: Path) -> None:
    """Wait for the disk and put what `write` wrote in the folder's place. A thread may do it."""
    place_folder(folder)


def config(anatomy: Anatomy, selection: Selection, about: dict[str, Any]) -> dict[str, Any]:
    """adapter_config.json. num_layers counts from the end, as in mlx-lm."""
    layers = len(anatomy.layers) - selection.first_layer
    common = {"num_layers": layers, "mlxtune": {**about, "untied_head": selection.untie_head}}
    if not selection.adapters:
        return {"fine_tune_type": "full", **common}
    first = selection.adapters[0]
    keys = sorted({_inside_layer(adapter.module, anatomy.layers) for adapter in selection.adapters})
    parameters = {"rank": first.rank, "scale": first.scale, "dropout": first.dropout, "keys": keys}
    return {"fine_tune_type": "lora", "lora_parameters": parameters, **common}


def find(folder: Path) -> Adapter:
    """An adapter of ours or of mlx-lm's. Raises BadModel where the folder holds none."""
    remedy, folder = "Name the folder RUN/adapter.", user_path(folder, BadModel, "adapter")
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise BadModel(str(folder), expected=f"{CONFIG} and {WEIGHTS}", found=f"no {missing[0]}", remedy=remedy)
    return Adapter(folder, adapter_fit.read(folder).untied_head)


def _inside_layer(module: str, layers: tuple[str, ...]) -> str:
    return next(module.removeprefix(layer) for layer in layers if module.startswith(layer))
