"""A path as a user writes it: what is there on the disk, or which files its pattern matches, and in which order."""

import glob
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from mlxtune.errors import BadData
from mlxtune.format import listed, shown

LISTED = 10  # names in one message
_PATTERN = re.compile(r"[*?\[]")
_NUMBER = re.compile(r"([0-9]+)")


def expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~someone, who has no home here
        return Path(path)


def kind(path: Path) -> str:
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


def is_pattern(path: str) -> bool:
    """Whether a path where nothing is stands for those that match it.

    >>> is_pattern("data/part-*.jsonl"), is_pattern("data/part-1.jsonl")
    (True, False)
    """
    return _PATTERN.search(path) is not None


def matching(pattern: Path) -> list[Path]:
    """All files that match, in natural order; `**` matches folders of any depth. Raises BadData for none."""
    try:
        found = {Path(name) for name in glob.glob(str(pattern), recursive=True)}  # noqa: PTH207  # Path.glob has no root
    except (OSError, ValueError, re.error):  # a NUL
        found = set()
    if files := sorted((path for path in found if kind(path) != "a folder"), key=lambda path: natural(str(path))):
        return files
    expected, nothing = "a pattern that matches a file", "folders alone" if found else "no match"
    raise BadData(shown(str(pattern), 300)[1:-1], expected=expected, found=nothing)


def natural(name: str) -> tuple[list[str | int], str]:
    """The key of an order in which numbers count as such.

    >>> sorted(["part-10", "part-9", "part-09"], key=natural)
    ['part-09', 'part-9', 'part-10']
    """
    return [int(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(name))], name


def first_names(names: Iterable[str]) -> str:
    """The first few names, as a message has them."""
    return listed((shown(name, 40)[1:-1] for name in names), LISTED) or "nothing"
