"""What lies in a model folder, and in words: the part that every check of a folder shares."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel
from mlxtune.storage.documents import SMALL, Limits, read_object

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


def json_object(path: Path, limits: Limits = SMALL) -> dict[str, Any]:
    """The one JSON object that a file of a model holds, or BadModel."""
    return read_object(path, BadModel, limits)
