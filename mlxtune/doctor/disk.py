"""Room on the disks that models, kept hidden states and runs go to."""

import os
import shutil
from pathlib import Path

from mlxtune.checks import Check
from mlxtune.format import size

SMALL_BYTES = 20e9  # a model of 8 billion parameters and little more
SPENT_BYTES = 1e9


def checks() -> list[Check]:
    """A line for each of the three."""
    from huggingface_hub import constants  # half a second, and what it says may be why it cannot be imported

    from mlxtune.storage.files import cache_folder

    return [
        room(
            "disk for models",
            Path(constants.HF_HUB_CACHE),
            "A model of 8 billion parameters in 16 bits takes 16 GB.",
            "Free some space, or set HF_HOME to a folder on a larger disk.",
        ),
        with_what_is_kept(
            room(
                "disk for kept states",
                cache_folder(),
                "A million tokens of a width of 4,096 take 8.2 GB, twice that while they are made.",
                "Free some space, set MLXTUNE_CACHE to a folder on a larger disk, or keep none: --prefix-cache off.",
            ),
            cache_folder(),
        ),
        room(
            "disk for runs",
            Path.cwd(),
            "A checkpoint is what trains, and AdamW's two float32 moments of it: 10 bytes a parameter in 16 bits.",
            "Free some space, or put the run on a larger disk with --out.",
        ),
    ]


def room(name: str, folder: Path, meaning: str, remedy: str) -> Check:
    """What is free where the folder is or would be made, and whether it may be written to."""
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    found = f"{size(free)} free in {folder}"
    if not os.access(there, os.W_OK):
        return Check(name, "bad", f"{found}, which may not be written to", meaning, remedy)
    if free < SMALL_BYTES:
        return Check(name, "bad" if free < SPENT_BYTES else "warn", found, meaning, remedy)
    return Check(name, "ok", found)


def with_what_is_kept(check: Check, folder: Path) -> Check:
    """The check with the bytes that kept states take: two of each model stay, until somebody deletes them."""
    n_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if n_bytes == 0:
        return check
    return check._replace(found=f"{check.found}; {size(n_bytes)} are kept, which may be deleted at any time")
