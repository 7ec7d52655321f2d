"""What lies in the cache folder, and how it is deleted: all of it can be made again.

CACHE/tokens/DATA/KEY/          the tokens of a data set's rows
CACHE/prefix/MODEL/KEY/         the frozen layers' output
CACHE/references/MODEL/KEY.bin  log-probabilities of the start's model
CACHE/fingerprints, memory      digests of weights, and measured ratios: small files that make the next start faster
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import filelock

from mlxtune.errors import BadSetting
from mlxtune.format import shown
from mlxtune.storage.files import cache_folder
from mlxtune.storage.one_writer import drop

WORDS = {
    "tokens": "tokens of rows",
    "prefix": "frozen layers' output",
    "references": "log-probabilities",
    "fingerprints": "digests of weights",
    "memory": "measured memory",
}
SECONDS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGE = re.compile(r"(\d+)([hdw])")


class Kept(NamedTuple):
    """One thing that can be deleted by itself. owner: the data set or model; used: when it was last, seconds since the
    epoch."""

    kind: str
    owner: str
    path: Path
    bytes: int
    used: float


def kept() -> list[Kept]:
    """All of it, by kind and owner, what was used last first. What cannot be looked at is left out."""
    found = [each for kind in WORDS for each in _of_kind(kind, cache_folder() / kind)]
    return sorted(found, key=lambda each: (list(WORDS).index(each.kind), each.owner, -each.used))


def _of_kind(kind: str, folder: Path) -> Iterator[Kept]:
    for entry in _entries(folder):
        inner = _entries(entry) if entry.is_dir() else [entry]
        owner = entry.name.rpartition("-")[0] if entry.is_dir() else ""
        for path in inner:
            if path.suffix != ".lock":
                with suppress(OSError):
                    yield Kept(kind, owner, path, size(path), path.stat().st_mtime)


def _entries(folder: Path) -> Sequence[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def size(path: Path) -> int:
    """The bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def clear(found: Sequence[Kept]) -> tuple[list[Kept], list[Kept]]:
    """Delete them: those that are gone, and those that a process is making or the disk does not let go of."""
    gone, left = list[Kept](), list[Kept]()
    for each in found:
        (gone if _delete(each.path) else left).append(each)
    for owner in {each.path.parent for each in gone}:
        with suppress(OSError, filelock.Timeout, NotImplementedError):
            for lock in owner.glob("*.lock"):
                if not any(path.is_dir() for path in owner.glob(f"{lock.stem}*")):
                    with filelock.FileLock(lock, timeout=0):  # no one begins to make it now
                        lock.unlink()
            owner.rmdir()
    return gone, left


def _delete(path: Path) -> bool:
    if path.is_dir():
        return drop(path)
    with suppress(OSError):
        path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def seconds(age: str) -> int:
    """An age as a user writes it. Raises BadSetting.

    >>> seconds("30d"), seconds("12h"), seconds("2w")
    (2592000, 43200, 1209600)
    """
    found = _AGE.fullmatch(age.strip().lower())
    if found is None:
        raise BadSetting("--older", expected="hours, days or weeks, like 12h, 30d or 2w", found=shown(age, 40))
    return int(found[1]) * SECONDS[found[2]]
