"""Folders: which of their files hold the rows of which split, by the names of the files."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from mlxtune.data.paths import first_names, kind
from mlxtune.data.readers import compression, formats
from mlxtune.data.remote.file import File
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


class Listing(NamedTuple):
    """What a folder holds, wherever it is. inner: a folder in it by its name, None where there is none."""

    place: str
    names: Sequence[str]
    files: Mapping[str, File]
    inner: Callable[[str], "Listing | None"]


class Found(NamedTuple):
    """The files of each split, in the order of their rows, and the names of data files that belong to none."""

    splits: Mapping[Split, list[File]]
    unread: tuple[str, ...]


def find(folder: Listing) -> Found:
    """A folder with one data file is that file's. Hub folders keep theirs in a folder `data`."""
    files = [folder.files[name] for name in sorted(folder.files) if _may_hold_rows(name)]
    if not files and (inner := folder.inner("data")):
        return find(inner)
    splits = _by_split(files)
    if not splits:
        expected = f"one data file or a train file ({', '.join(f'train{suffix}' for suffix in formats.READERS)})"
        found = f"a folder that holds {first_names(sorted(folder.names))}"
        raise BadData(folder.place, expected=expected, found=found)
    used = {file.name for files in splits.values() for file in files}
    unread = tuple(file.name for file in files if file.name not in used)
    return Found({split: one_source(folder.place, split, files) for split, files in splits.items()}, unread)


def local(folder: Path) -> Listing:
    """What lies in a folder of this machine."""
    try:
        names = [each.name for each in folder.iterdir()]
    except OSError as error:
        found = str(error.strerror or error)
        raise BadData(str(folder), expected="a folder that can be read", found=found) from None

    def inner(name: str) -> Listing | None:
        return local(folder / name) if kind(folder / name) == "a folder" else None

    return Listing(str(folder), names, {name: folder / name for name in names}, inner)


def of_paths(place: str, files: Mapping[str, File]) -> Listing:
    """A folder of files that are all known by their paths in it."""
    inside = {path: file for path, file in files.items() if "/" not in path}

    def inner(name: str) -> Listing | None:
        beneath = {path[len(name) + 1 :]: file for path, file in files.items() if path.startswith(f"{name}/")}
        return of_paths(f"{place}/{name}", beneath) if beneath else None

    return Listing(place, sorted({path.partition("/")[0] for path in files}), inside, inner)


def _may_hold_rows(name: str) -> bool:
    return formats.is_named_as_data(Path(name)) and not name.startswith(".")


def _by_split(files: list[File]) -> dict[Split, list[File]]:
    splits: dict[Split, list[File]] = {}
    for file in files:
        if split := STEMS.get(named(file).stem):
            splits.setdefault(split, []).append(file)
    tables = [file for file in files if compression.bare(file).suffix.lower() != ".txt"]  # a text may be its licence
    return splits or ({"train": alone} if len(alone := tables or files) == 1 else {})
