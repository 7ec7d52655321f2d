"""The card of a hub data set, README.md: which files its configurations are of. Anyone may have written it.

https://huggingface.co/docs/hub/datasets-manual-configuration
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from mlxtune.data.paths import first_names
from mlxtune.data.remote.file import File, Remote
from mlxtune.errors import BadData

Configuration = Mapping[str, list[str]]  # patterns of files, by the name of the split

_LONGEST = 2_000_000  # bytes of a card
_HEADER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)---", re.DOTALL)


class Card(NamedTuple):
    """The configurations by their names, and the name of the one that is meant where none is named."""

    configurations: Mapping[str, Configuration] = {}
    default: str | None = None

    def chosen(self, place: str, name: str) -> Configuration:
        if name in self.configurations:
            return self.configurations[name]
        if self.default is not None:
            return self.configurations[self.default]
        remedy, found = f"Name one: {place}/{next(iter(self.configurations))}", first_names(self.configurations)
        raise BadData(place, expected="one of its configurations", found=found, remedy=remedy)


def read(readme: File | None) -> Card:
    """What a card says of files, which may be nothing."""
    tree = _header(readme) if readme else None
    listed = tree.get("configs") if isinstance(tree, dict) else None
    entries = listed if isinstance(listed, list) else []
    found = {
        str(each.get("config_name", "default")): each
        for each in entries
        if isinstance(each, dict) and each.get("data_files")
    }
    flagged = (name for name, each in found.items() if name == "default" or each.get("default"))
    default = next(flagged, next(iter(found)) if len(found) == 1 else None)
    return Card({name: _patterns(each) for name, each in found.items()}, default)


def _header(readme: File) -> Any:
    with readme.open("rb") as stream:
        text = stream.read(_LONGEST).decode("utf-8", "replace")
    if isinstance(readme, Remote):
        readme.close()
    header = _HEADER.match(text)
    try:
        return yaml.safe_load(header[1]) if header else None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{readme}:{mark.line + 2}" if mark else str(readme)  # after the line of hyphens, counted from 1
        raise BadData(where, expected="a card whose header is YAML", found="a fault in it") from None


def expression(pattern: str) -> re.Pattern[str]:
    """What matches a path in a repository: * and ? in a name, ** over folders, [abc], {csv,json}.

    >>> [path for path in ("a-0.csv", "b/a-1.csv", "a-2.json") if expression("a-*.{csv,json}").fullmatch(path)]
    ['a-0.csv', 'a-2.json']
    >>> [path for path in ("x.csv", "a/b/x.csv", "a/y.csv") if expression("**/[!y].csv").fullmatch(path)]
    ['x.csv', 'a/b/x.csv']
    """
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^]]+\]|\{[^}]*\})", pattern.removeprefix("./"))
    return re.compile("".join(map(_part, parts)))


def _part(part: str) -> str:
    fixed = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in fixed:
        return fixed[part]
    if part.startswith("[") and part.endswith("]"):
        inside = part[1:-1].replace("\\", r"\\").replace("[", r"\[")
        return f"[^{inside[1:]}]" if inside.startswith("!") else f"[{inside}]"
    if part.startswith("{") and part.endswith("}"):
        return f"(?:{'|'.join(map(re.escape, part[1:-1].split(',')))})"
    return re.escape(part)


def _patterns(configuration: Mapping[str, Any]) -> Configuration:
    """`data_files` is a pattern, a list of them, splits with patterns, or a list of such."""
    files, folder = configuration["data_files"], str(configuration.get("data_dir") or "").strip("/")
    entries = [files] if isinstance(files, str) else files.items() if isinstance(files, dict) else files
    made: dict[str, list[str]] = {}
    for each in entries if not isinstance(entries, int | float) else ():
        split, paths = _entry(each)
        made.setdefault(split, []).extend(f"{folder}/{path}" if folder else path for path in paths)
    return made


def _entry(each: Any) -> tuple[str, list[str]]:
    if isinstance(each, dict):
        each = (each.get("split", "train"), each.get("path", []))
    split, paths = each if isinstance(each, tuple) else ("train", each)
    return str(split), [str(path) for path in (paths if isinstance(paths, list) else [paths])]
