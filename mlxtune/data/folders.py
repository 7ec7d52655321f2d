"""Folders: which of their files hold the rows of which split, by the names of the files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from mlxtune.data.paths import first_names, kind
from mlxtune.data.readers import compression, formats
from mlxtune.data.shards import named, one_source
from mlxtune.errors import BadData

Split = Literal["train", "valid", "test"]
STEMS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "evaluation": "valid",
    "test": "test",
    "testing": "test",
}


class Found(NamedTuple):
    """The files of each split, in the order of their rows, and the names of data files that belong to none."""

    splits: Mapping[Split, list[Path]]
    unread: tuple[str, ...]


def find(folder: Path) -> Found:
    """A folder with one data file is that file's. Hub folders keep theirs in a folder `data`."""
    names = _names(folder)
    files = [folder / name for name in names if formats.is_named_as_data(Path(name)) and not name.startswith(".")]
    if not files and kind(folder / "data") == "a folder":
        return find(folder / "data")
    splits = _by_split(files)
    if not splits:
        expected = f"one data file or a train file ({', '.join(f'train{suffix}' for suffix in formats.READERS)})"
        raise BadData(str(folder), expected=expected, found=f"a folder that holds {first_names(names)}")
    used = {file.name for files in splits.values() for file in files}
    unread = tuple(file.name for file in files if file.name not in used)
    return Found({split: one_source(folder, split, files) for split, files in splits.items()}, unread)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError as error:
        found = str(error.strerror or error)
        raise BadData(str(folder), expected="a folder that can be read", found=found) from None


def _by_split(files: list[Path]) -> dict[Split, list[Path]]:
    splits: dict[Split, list[Path]] = {}
    for file in files:
        if split := STEMS.get(named(file).stem):
            splits.setdefault(split, []).append(file)
    tables = [file for file in files if compression.bare(file).suffix.lower() != ".txt"]  # a text may be its licence
    return splits or ({"train": alone} if len(alone := tables or files) == 1 else {})
