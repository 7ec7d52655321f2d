"""Files, folders, patterns and hub data sets -> raw rows, each with its file and line. Nothing here knows the forms of
rows."""

import re
from collections.abc import Iterable, Mapping
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mlxtune.data import folders, paths
from mlxtune.data.folders import STEMS, Split
from mlxtune.data.readers import formats, hub
from mlxtune.data.readers.raw import Rows
from mlxtune.errors import BadData
from mlxtune.format import shown

_WHERE = "a file, a folder or a hub data set"


class Sources(NamedTuple):
    """The rows of each split, read as they are asked for, and the names of what lies beside them and is not read."""

    splits: Mapping[Split, Rows]
    unread: tuple[str, ...] = ()


def read(path: str | None) -> Sources:
    """A single file is all "train", and so are all files that match a pattern. path: None is the built-in data."""
    where = _builtin() if path is None else paths.expanded(path)
    kind = paths.kind(where)
    if kind == "a folder":
        found = folders.find(where)
        return Sources({split: _rows(files) for split, files in found.splits.items()}, found.unread)
    if kind == "a file":
        return Sources({"train": _rows([where])})
    if kind:
        raise _no_file(where, kind)
    if path is not None and paths.is_pattern(path):
        return Sources({"train": _rows(paths.matching(where))})
    if path is not None and _may_be_hub_name(path):
        return _hub(path)
    raise BadData(shown(str(where), 300)[1:-1], expected=_WHERE, found="nothing of that name")


def _builtin() -> Path:
    return Path(str(package_files("mlxtune").joinpath("assets", "data")))


def _no_file(path: Path, kind: str) -> BadData:
    """A pipe is refused and never waited for: it can be read once, and a run that is resumed reads its rows again."""
    remedy = "Write the rows to a file: they are read again when a run is resumed." if kind == "a pipe" else ""
    return BadData(str(path), expected=_WHERE, found=kind, remedy=remedy)


# files


def _rows(files: Iterable[Path]) -> Rows:
    return chain.from_iterable(_file_rows(file) for file in files)


def _file_rows(file: Path) -> Rows:
    if (kind := paths.kind(file)) != "a file":
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
        raise BadData(
            name, expected=f"one split of each kind, named {', '.join(STEMS)}", found=paths.first_names(found)
        )
    return Sources(splits, unread)
