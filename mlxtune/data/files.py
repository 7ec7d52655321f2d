"""Files, folders, patterns and hub data sets, here or elsewhere -> raw rows, each with its file and line. Nothing here
knows the forms of rows."""

import re
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as package_files
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from mlxtune.data import content, folders, paths, urls
from mlxtune.data.folders import Listing, Split
from mlxtune.data.readers import formats
from mlxtune.data.readers.raw import Rows
from mlxtune.data.remote import http, hub, objects
from mlxtune.data.remote.file import File, Remote
from mlxtune.errors import BadData
from mlxtune.format import shown

_WHERE = "a file, a folder or a hub data set"


class Sources(NamedTuple):
    """The rows of each split, read as they are asked for, and the names of what lies beside them and is not read."""

    splits: Mapping[Split, Rows]
    unread: tuple[str, ...] = ()
    files: Mapping[Split, Sequence[File]] = {}
    pinned: str | None = None  # of the hub: the path with its commit, where the same rows are found for ever

    def identity(self) -> str:
        """What the content of all splits is known by, in hex, computed anew. Raises BadData as reading does.

        Of a file on this machine it is a hash of its bytes, of others what their servers say of them.
        """
        return content.identity(self.files)

    def notes(self) -> tuple[str, ...]:
        """What is to be said of servers, of the files that were read or identified so far."""
        every = chain.from_iterable(self.files.values())
        return tuple(file.note for file in every if isinstance(file, Remote) and file.note)

    def validated_by(self, others: "Sources") -> "Sources":
        """With other rows to validate with: their own validation rows if they have any, else all."""
        split: Split = "valid" if "valid" in others.splits else "train"
        if split not in others.splits:
            raise BadData("data.valid", expected="validation rows", found=f"only those of {', '.join(others.splits)}")
        splits: dict[Split, Rows] = {**self.splits, "valid": others.splits[split]}
        files: dict[Split, Sequence[File]] = {**self.files, "valid": others.files[split]}
        left = (file.name for file in self.files.get("valid", ()))
        return self._replace(splits=splits, files=files, unread=(*self.unread, *left, *others.unread))


def read(path: str | None) -> Sources:
    """A single file is all "train", and so are all files that match a pattern. path: None is the built-in data."""
    urls.check(path)
    if path is not None and urls.is_url(path):
        return _remote(path)
    where = _builtin() if path is None else paths.expanded(path)
    kind = paths.kind(where)
    if kind == "a folder":
        return _folder(folders.local(where))
    if kind == "a file":
        return _training([where])
    if kind:
        raise _no_file(where, kind)
    if path is not None and paths.is_pattern(path):
        return _training(paths.matching(where))
    if path is not None and _may_be_hub_name(path):
        return _hub(path)
    raise BadData(shown(str(where), 300)[1:-1], expected=_WHERE, found="nothing of that name")


def _builtin() -> Path:
    return Path(str(package_files("mlxtune").joinpath("assets", "data")))


def _no_file(path: Path, kind: str) -> BadData:
    """A pipe is refused and never waited for: it can be read once, and a run that is resumed reads its rows again."""
    remedy = "Write the rows to a file: they are read again when a run is resumed." if kind == "a pipe" else ""
    return BadData(str(path), expected=_WHERE, found=kind, remedy=remedy)


# elsewhere


def _remote(url: str) -> Sources:
    scheme = urls.scheme(url)
    if scheme == "hf":
        return _hub(url)
    if scheme in ("http", "https"):
        return _training([http.file(url)])
    place = objects.Address(url)
    if file := place.file():
        return _training([file])
    if folder := place.folder():
        return _folder(folder)
    if place.is_pattern:
        return _training(place.matching())
    raise place.nothing()


def _may_be_hub_name(path: str) -> bool:
    """owner/name: one slash, nothing that only a path has.

    >>> _may_be_hub_name("tatsu-lab/alpaca"), _may_be_hub_name("./data/x"), _may_be_hub_name("data/x.jsonl")
    (True, False, False)
    """
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", path, re.ASCII) is not None and not formats.is_named_as_data(
        Path(path)
    )


def _hub(name: str) -> Sources:
    found = hub.find(name)
    return _sources(found.splits, found.unread, found.pinned)


# files


def _folder(folder: Listing) -> Sources:
    found = folders.find(folder)
    return _sources(found.splits, found.unread)


def _training(files: Sequence[File]) -> Sources:
    return _sources({"train": files})


def _sources(files: Mapping[Split, Sequence[File]], unread: tuple[str, ...] = (), pinned: str | None = None) -> Sources:
    return Sources({split: _rows(each) for split, each in files.items()}, unread, files, pinned)


def _rows(files: Iterable[File]) -> Rows:
    return chain.from_iterable(_file_rows(file) for file in files)


def _file_rows(file: File) -> Rows:
    if isinstance(file, Path) and (kind := paths.kind(file)) != "a file":
        raise _no_file(file, kind or "nothing")
    try:
        rows = formats.rows(file)
        first = next(rows, None)
        if first is None:
            raise BadData(str(file), expected="at least one row", found=_emptiness(file))
        yield from chain([first], rows)
    except OSError as error:
        raise content.unreadable(file, error) from None
    finally:
        if isinstance(file, Remote):
            file.close()


def _emptiness(file: File) -> str:
    size = file.stat().st_size if isinstance(file, Path) else file.size
    return "an empty file" if size == 0 else "a file without any"
