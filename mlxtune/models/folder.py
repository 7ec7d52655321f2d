"""What lies in a model folder, and in words: the part that every check of a folder shares."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")  # a model has at least one of them


def contents(folder: Path) -> str:
    """The files of a folder in words, the first few by name.

    >>> import tempfile
    >>> contents(Path(tempfile.mkdtemp()))
    'an empty folder'
    """
    if not folder.is_dir():
        return "a file" if folder.exists() else "nothing there"
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    return f"a folder with {some(names)}" if names else "an empty folder"


def some(names: Iterable[str], limit: int = 6) -> str:
    """The first few of the names, and how many more there are.

    >>> some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    names = list(names)
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


def json_object(path: Path) -> dict[str, Any]:
    """The one JSON object that a file holds, or BadModel."""
    try:
        return parse_object(path.read_bytes())
    except json.JSONDecodeError as error:
        raise BadModel(
            f"{path}:{error.lineno}",
            expected="JSON",
            found=f"a fault at column {error.colno}: {error.msg}",
            remedy="Mend the file, or fetch it again.",
        ) from error
    except ValueError as error:
        raise BadModel(str(path), expected="a JSON object", found=str(error), remedy="Fetch the file again.") from error
    except OSError as error:
        raise BadModel(str(path), expected="a readable file", found=error.strerror or str(error)) from error


def parse_object(text: bytes) -> dict[str, Any]:
    """The one JSON object of a text, or ValueError. A name that comes twice is a fault: it would hide the first value.

    >>> parse_object(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the name 'a' twice in one object
    """
    value = json.loads(text, object_pairs_hook=_no_name_twice)
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}")
    return value


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return made
