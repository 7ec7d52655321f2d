"""What the tests of the program share: rows for it to read, a model to damage, what it said."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.backends.choose import has_mlx
from mlxtune.models.hub import BUILT_IN

BACKENDS = ("mlx", "numpy") if has_mlx() else ("numpy",)
TEXT_ROWS = [
    {"text": f"The {animal} sat on the mat and looked at the {thing}."} for animal in "abcd" for thing in "xyz"
]


class Found(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def write(path: Path, rows: list[Any]) -> Path:
    """Rows as JSON lines; a string is a line as it is."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def model(tmp_path: Path) -> Path:
    """A copy of the built-in model."""
    return Path(shutil.copytree(BUILT_IN, tmp_path / "model"))
