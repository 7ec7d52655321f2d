"""Files, folders and hub data sets -> raw rows, each with its file and line. Nothing here knows the forms of rows."""

import re
import stat
from collections.abc import Iterable, Mapping
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

from mlxtune.data.readers import compression, formats, hub
from mlxtune.data.readers.formats import READERS
from mlxtune.data.readers.raw import Rows
from mlxtune.errors import BadData
from mlxtune.format import shown

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
LISTED = 10  # names in one message
_SHARD = re.compile(r"(\w+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")  # train-00000-of-00002.parquet, as on the hub
_WHERE = "a file, a folder or a hub data set"


class Sources(NamedTuple):
    """The rows of each split, read as they are asked for, and the names of what lies beside them and is not read."""

    splits: Mapping[Split, Rows]
    unread: tuple[str, ...] = ()


def read(path: str | None) -> Sources:
    """A single file is all "train". path: None is the built-in data."""
    where = _builtin() if path is None else _expanded(path)
    kind = _kind(where)
    if kind == "a folder":
        return _folder(where)
    if kind == "a file":
        return Sources({"train": _rows([where])})
    if kind:
        raise _no_file(where, kind)
    if path is not None and _may_be_hub_name(path):
        return _hub(path)
    raise BadData(shown(str(where), 300)[1:-1], expected=_WHERE, found="nothing of that name")


def _builtin() -> Path:
    return Path(str(package_files("mlxtune").joinpath("assets", "data")))


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~someone, who has no home here
        return Path(path)


def _kind(path: Path) -> str:
    """What is at a path, in words; "" for nothing."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # nothing, a ring of links, a name that is too long or holds a NUL
        return "a link to nothing" if _is_link(path) else ""
    kinds_of = {stat.S_IFREG: "a file", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds_of.get(stat.S_IFMT(mode), "a device")


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def _no_file(path: Path, kind: str) -> BadData:
    """A pipe is refused and never waited for: it can be read once, and a run that is resumed reads its rows again."""
    remedy = "Write the rows to a file: they are read again when a run is resumed." if kind == "a pipe" else ""
    return BadData(str(path), expected=_WHERE, found=kind, remedy=remedy)


# folders


def _folder(folder: Path) -> Sources:
    """The files of each split, by their names; a folder with one data file is that file's. Hub folders keep theirs in
    a folder `data`."""
    names = _names(folder)
    found = [folder / name for name in names if formats.is_named_as_data(Path(name)) and not name.startswith(".")]
    if not found and _kind(folder / "data") == "a folder":
        return _folder(folder / "data")
    splits: dict[Split, list[Path]] = {}
    for file in found:
        if split := STEMS.get(_stem(file)):
            splits.setdefault(split, []).append(file)
    if (
        not splits
        and len(alone := [file for file in found if compression.bare(file).suffix.lower() != ".txt"] or found) == 1
    ):
        splits["train"] = alone  # a text may be its licence
    if not splits:
        expected = f"one data file or a train file ({', '.join(f'train{suffix}' for suffix in READERS)})"
        raise BadData(str(folder), expected=expected, found=f"a folder that holds {_listed(names)}")
    read = {split: _rows(_one_source(folder, split, files)) for split, files in splits.items()}
    used = {file.name for files in splits.values() for file in files}
    return Sources(read, tuple(file.name for file in found if file.name not in used))


def _names(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError as error:
        found = str(error.strerror or error)
        raise BadData(str(folder), expected="a folder that can be read", found=found) from None


def _stem(file: Path) -> str:
    shard = _SHARD.fullmatch(_name(file))
    return shard[1] if shard else _name(file)


def _name(file: Path) -> str:
    """Without its endings."""
    return compression.bare(file).stem.lower()


def _one_source(folder: Path, split: Split, files: list[Path]) -> list[Path]:
    """One file or all shards of one. Two files for one split are an error: which one was meant?"""
    shards = [shard for file in files if (shard := _SHARD.fullmatch(_name(file)))]
    if not shards and len(files) == 1:
        return files
    stems, counts = {shard[1] for shard in shards}, {int(shard[3]) for shard in shards}
    if len(shards) != len(files) or len(stems) > 1 or len(counts) > 1 or len({file.suffix for file in files}) > 1:
        both, more = f"both {files[0].name} and {files[1].name}", f" and {len(files) - 2:,} more" if files[2:] else ""
        remedy = "Remove or rename all but one."
        raise BadData(str(folder), expected=f"one {split} file", found=both + more, remedy=remedy)
    if sorted(int(shard[2]) for shard in shards) != list(range(*counts)):
        found = f"{len(files):,} of {max(counts):,}"
        raise BadData(str(folder), expected=f"every part of the {split} rows once", found=found)
    return files


def _listed(names: Iterable[str]) -> str:
    names = [shown(name, 40)[1:-1] for name in names]
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "") if names else "nothing"


# files


def _rows(files: list[Path]) -> Rows:
    return chain.from_iterable(_file_rows(file) for file in files)


def _file_rows(file: Path) -> Rows:
    if (kind := _kind(file)) != "a file":
        raise _no_file(file, kind or "nothing")
    try:
        rows = formats.rows(file)
        first = next(rows, None)
        if first is None:
            raise BadData(str(file), expected="at least one row", found=_emptiness(file))
        yield from chain([first], rows)
    except OSError as error:
        raise BadData(str(file), expected="a file that can be read", found=str(error.strerror or error)) from None


def _emptiness(file: Path) -> str:
    return "an empty file" if file.stat().st_size == 0 else "a file without any"


# the hub


def _may_be_hub_name(path: str) -> bool:
    """owner/name: one slash, nothing that only a path has.

    >>> _may_be_hub_name("tatsu-lab/alpaca"), _may_be_hub_name("./data/x"), _may_be_hub_name("data/x.jsonl")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path, re.ASCII) is not None and not formats.is_named_as_data(
        Path(path)
    )


def _hub(name: str) -> Sources:
    found = hub.splits(name)
    splits: dict[Split, Rows] = {STEMS[key]: rows for key, rows in found.items() if key in STEMS}
    unread = tuple(key for key in found if key not in STEMS)
    if not splits or len(splits) + len(unread) < len(found):
        raise BadData(name, expected=f"one split of each kind, named {', '.join(STEMS)}", found=_listed(found))
    return Sources(splits, unread)
