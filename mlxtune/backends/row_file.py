"""Hidden states of rows in files under a cache folder: made in stages, gone on with after a kill, used again later.

FOLDER/about.json           {"stage": layers that are done, "rows": rows that are through the next stage}
FOLDER/hidden-000012.bin    the hidden states of all rows before layer 12, row after row

A stage reads one file and writes another, so that a stage that was cut short loses nothing. The folder's name is a hash
of everything that its content depends on: what changes makes another folder.
"""

import hashlib
import json
import mmap
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.storage import write_json

ABOUT = "about.json"
LAYERS_AT_ONCE = 4  # of a stage: how many are in memory
PAYS_FROM = 1.2  # passes over the rows that a run would make, for each that the file takes
KEPT = 2  # folders of one model: two runs that alternate do not drop each other's
Tokens = NDArray[np.int32]
Elements = NDArray[Any]  # float32, float16, or the words of bfloat16


def digest(tokens: Tokens) -> bytes:
    """What names a row in the file: equal tokens have equal hidden states."""
    return hashlib.blake2b(np.ascontiguousarray(tokens, "<i4").tobytes(), digest_size=16).digest()


class RowFile:
    """The hidden states of distinct rows of tokens. dtype: of the elements; width: of a token's hidden state."""

    def __init__(self, folder: Path, rows: Sequence[Tokens], width: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.width, self.dtype = folder, width, dtype
        self.lengths = [len(tokens) for tokens in rows]
        self.ends = np.cumsum(self.lengths).tolist()
        self.n_tokens = self.ends[-1]
        self.places = {
            digest(tokens): slice(end - len(tokens), end) for tokens, end in zip(rows, self.ends, strict=True)
        }
        self._open: dict[int, np.memmap[Any, Any]] = {}

    @staticmethod
    def key(parts: dict[str, Any], rows: Sequence[Tokens]) -> str:
        """The folder's name: of settings and fingerprints, and of the rows in their order."""
        hashed = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
        for tokens in rows:
            hashed.update(digest(tokens))
        return hashed.hexdigest()[:24]

    @property
    def bytes(self) -> int:
        """Of one stage's file."""
        return int(self.n_tokens * self.width * self.dtype.itemsize)

    def done(self) -> tuple[int, int]:
        """Layers that all rows are through, and rows that are through the stage after."""
        try:
            about = json.loads((self.folder / ABOUT).read_text())
            stage, rows = int(about["stage"]), int(about["rows"])
        except (OSError, ValueError, KeyError):
            return 0, 0
        if stage and self._size(stage) != self.bytes:
            return 0, 0
        later = (path for path in self.folder.glob("hidden-*.bin") if path > self._path(stage))
        return stage, rows if any(path.stat().st_size == self.bytes for path in later) else 0

    def _size(self, stage: int) -> int:
        path = self._path(stage)
        return path.stat().st_size if path.exists() else -1

    def _path(self, stage: int) -> Path:
        return self.folder / f"hidden-{stage:06d}.bin"

    def read(self, stage: int, tokens: Tokens) -> Elements:
        """A row's hidden states before layer `stage`, (tokens, width). Raises KeyError for a row that is not here."""
        return self._map(stage)[self.places[digest(tokens)]]

    def read_ahead(self, stage: int, tokens: Tokens) -> None:
        """Let the system bring a row's pages into memory; the waiting is this thread's, without the interpreter."""
        np.bitwise_or.reduce(self.read(stage, tokens).reshape(-1).view(np.uint8)[:: mmap.PAGESIZE])

    def write(self, stage: int, row: int, hidden: Elements) -> None:
        """The hidden states of the row with this number."""
        end = self.ends[row]
        self._map(stage, new=True)[end - self.lengths[row] : end] = hidden

    def note(self, stage: int, rows: int) -> None:
        """Say, once it is on the disk, how far the work is. The file of the stage before is not needed after it."""
        for array in self._open.values():
            array.flush()
        write_json(self.folder / ABOUT, {"stage": stage, "rows": rows})
        if rows == 0:
            for path in self.folder.glob("hidden-*.bin"):
                if path != self._path(stage):
                    path.unlink()
            self._open = {number: array for number, array in self._open.items() if number == stage}

    def _map(self, stage: int, *, new: bool = False) -> Elements:
        if stage not in self._open:
            self.folder.mkdir(parents=True, exist_ok=True)
            fresh = new and self._size(stage) != self.bytes
            mode: Any = "w+" if fresh else "r+" if new else "r"
            self._open[stage] = np.memmap(self._path(stage), self.dtype, mode, shape=(self.n_tokens, self.width))
        return self._open[stage]


def drop_older(folder: Path) -> None:
    """Of the files of one model keep this and the one used last before: what changed is seldom asked for again."""
    others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
    for other in sorted(others, key=lambda each: each.stat().st_mtime)[: -(KEPT - 1)]:
        shutil.rmtree(other, ignore_errors=True)
