"""What a run trained, in the format of mlx-lm's adapters, so that `mlx_lm.generate --adapter-path` loads it.

adapters.safetensors holds the tensors by the model's own names, adapter_config.json says what they are: for LoRA the
rank, scale, dropout and the names of the modules; for whole parameters fine_tune_type "full". One thing mlx-lm does not
know: a head that was untied, which it refuses by its name. Under "mlxtune" are the step, the losses, and the digests
that an adapter is checked against when it is read. Adapters are published: no path of this machine is in them.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.backends import adapter_fit
from mlxtune.backends.adapter_fit import CONFIG as CONFIG
from mlxtune.backends.adapter_fit import WEIGHTS as WEIGHTS
from mlxtune.backends.base import Adapter
from mlxtune.errors import BadModel
from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.storage.documents import read_object, user_path
from mlxtune.storage.files import Tensor, beside, fill_folder, place_folder, sha256, write_json, write_tensors
from mlxtune.storage.sealed import KEY, digest
from mlxtune.strategies.selection import Anatomy, Selection

BEST, LAST = "adapter", "adapter-last"  # folders of a run


def write(
    folder: Path, weights: Iterable[Tensor], anatomy: Anatomy, selection: Selection, about: dict[str, Any]
) -> None:
    """Write the adapter beside the folder, whose place it takes with `settle`. about: the model's name, the losses."""

    def files(partial: Path) -> None:
        write_tensors(partial / WEIGHTS, weights)
        write_json(partial / CONFIG, config(anatomy, selection, about))

    fill_folder(folder, files)


def settle(folder: Path) -> None:
    """Add the digests, wait for the disk and put what `write` wrote in the folder's place. A thread may do it."""
    place_folder(folder, _seal)


def _seal(partial: Path) -> None:
    document = read_object(partial / CONFIG, BadModel)
    document["mlxtune"]["sha256"] = sha256(partial / WEIGHTS)
    document["mlxtune"][KEY] = _digest(document)
    write_json(partial / CONFIG, document)


def _digest(document: dict[str, Any]) -> str:
    return digest({**document, "mlxtune": {name: v for name, v in document["mlxtune"].items() if name != KEY}})


def config(anatomy: Anatomy, selection: Selection, about: dict[str, Any]) -> dict[str, Any]:
    """adapter_config.json. num_layers counts from the end, as in mlx-lm."""
    layers = len(anatomy.layers) - selection.first_layer
    about = {**about, "base_model": _published(about.get("base_model")), "untied_head": selection.untie_head}
    common = {"num_layers": layers, "mlxtune": about}
    if not selection.adapters:
        return {"fine_tune_type": "full", **common}
    first = selection.adapters[0]
    keys = sorted({_inside_layer(adapter.module, anatomy.layers) for adapter in selection.adapters})
    parameters = {"rank": first.rank, "scale": first.scale, "dropout": first.dropout, "keys": keys}
    return {"fine_tune_type": "lora", "lora_parameters": parameters, **common}


def _published(model: str | None) -> str | None:
    """A model's id on the hub; of a folder the last name, of one in the hub's cache the id."""
    if model is None or model == TINY or model in ALIASES:
        return ALIASES.get(model or "", model)
    folder = Path(model).expanduser()
    if model.count("/") == 1 and model[0] not in "~./" and "\\" not in model and not folder.exists():
        return model
    cached = re.search(r"models--([^/]+)--([^/]+)/snapshots/", folder.absolute().as_posix())
    return "/".join(cached.groups()) if cached else re.split(r"[/\\]", os.path.normpath(folder.absolute()))[-1]


def find(folder: Path) -> Adapter:
    """An adapter of ours or of mlx-lm's. Raises BadModel where the folder holds none, or a damaged one of ours."""
    remedy, folder = "Name the folder RUN/adapter.", user_path(folder, BadModel, "adapter")
    if not folder.exists() and beside(folder, "old").is_dir():
        folder = beside(folder, "old")  # a run was killed between the two renames that put another in its place
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise BadModel(str(folder), expected=f"{CONFIG} and {WEIGHTS}", found=f"no {missing[0]}", remedy=remedy)
    read = adapter_fit.read(folder)
    document = read_object(folder / CONFIG, BadModel)
    if isinstance(about := document.get("mlxtune"), dict) and KEY in about:
        _check_sealed(folder, document)
    return Adapter(folder, read.untied_head, read.end_of_turn)


def _check_sealed(folder: Path, document: dict[str, Any]) -> None:
    """Refuse an adapter that is not as the run wrote it."""
    about, remedy = document["mlxtune"], "The adapter is damaged: copy it again from where it came from."
    if about[KEY] != (found := _digest(document)):
        remedy += f"\nIf you changed {CONFIG} on purpose, remove `{KEY}` from its `mlxtune`."
        raise BadModel(str(folder / CONFIG), expected="the file as it was written", found=found, remedy=remedy)
    if about.get("sha256") != (found := sha256(folder / WEIGHTS)):
        raise BadModel(str(folder / WEIGHTS), expected=f"sha256 {about.get('sha256')}", found=found, remedy=remedy)


def _inside_layer(module: str, layers: tuple[str, ...]) -> str:
    return next(module.removeprefix(layer) for layer in layers if module.startswith(layer))
