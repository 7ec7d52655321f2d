"""What a run trained, as an adapter. Adapters are published: no path of this machine is in them."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.adapters import folder as folders
from mlxtune.adapters.folder import Written
from mlxtune.models.aliases import ALIASES, TINY
from mlxtune.storage.files import Tensor
from mlxtune.strategies.selection import Anatomy, Selection

BEST, LAST = "adapter", "adapter-last"  # folders of a run


def write(
    folder: Path, weights: Iterable[Tensor], anatomy: Anatomy, selection: Selection, about: dict[str, Any]
) -> None:
    """Write the adapter beside the folder, until it is settled. about: the model's name, the losses."""
    written = Written(selection.adapters, anatomy.layers, selection.first_layer)
    about = {**about, "base_model": _published(about.get("base_model")), "untied_head": selection.untie_head}
    folders.write(folder, weights, written.document(about))


def _published(model: str | None) -> str | None:
    """A model's id on the hub; of a folder the last name, of one in the hub's cache the id."""
    if model is None or model == TINY or model in ALIASES:
        return ALIASES.get(model or "", model)
    folder = Path(model).expanduser()
    if model.count("/") == 1 and model[0] not in "~./" and "\\" not in model and not folder.exists():
        return model
    cached = re.search(r"models--([^/]+)--([^/]+)/snapshots/", folder.absolute().as_posix())
    return "/".join(cached.groups()) if cached else re.split(r"[/\\]", os.path.normpath(folder.absolute()))[-1]
