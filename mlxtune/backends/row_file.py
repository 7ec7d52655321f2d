"""Hidden states of rows in files under a cache folder: made once, whole or absent, checked when they are read.

KEY/                        whole: made, flushed, and put in its place by a rename
KEY.work/                   in the making, by the one process that has the lock; a kill loses little of it
KEY.lock                    the writer's lock, which goes with its process
  about.json                {"stage": layers that are done, "rows": through the next stage, "sums": by stage, "digest"}
  hidden-000012.bin         the hidden states of all rows before layer 12, row after row

A stage reads one file and writes another, so that a stage that was cut short loses nothing. KEY is a hash of everything
that the content depends on: what changes makes another folder. A row's sum is its CRC-32, which a thread takes
while it reads ahead: a row of 2,048 tokens of a width of 4,096 in 16 bits then costs a step 1.7 ms, where one that was
not read ahead costs 10 (a busy core of an AMD EPYC; a copy alone is 0.8). Any number of processes read a whole folder.
It is read with `pread`, not mapped: a process dies of a mapped file that is cut short or that its disk cannot read, and
of one that a full disk has no room for.
"""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.distinct import Index
from mlxtune.storage import sealed
from mlxtune.storage.one_writer import Beat, beside, one_writer, set_aside

ABOUT = "about.json"
LAYERS_AT_ONCE = 4  # of a stage: how many are in memory
KEPT = 2  # folders of one model: two runs that alternate do not drop each other's
PART_BYTES = 1 << 20  # that are read at once
Tokens = NDArray[np.int32]
Buffer = bytes
Elements = NDArray[Any]  # float32, float16, or the words of bfloat16


class Damaged(Exception):
    """What is on the disk is not what was written."""


class Handle:
    """A file that is open for as long as anything refers to it: a thread may read it while another lets go of it."""

    def __init__(self, path: Path, flags: int) -> None:
        self.number = os.open(path, flags, 0o666)
        self.writes = flags != os.O_RDONLY

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            os.close(self.number)

    @property
    def state(self) -> os.stat_result:
        return os.fstat(self.number)


class RowFile:
    """The hidden states of what is read of distinct rows: all tokens but the last.

    dtype: of the elements; width: of a token's hidden state.
    """

    def __init__(self, folder: Path, index: Index, width: int, dtype: np.dtype[Any]) -> None:
        self.folder, self.index, self.width, self.dtype = folder, index, width, dtype
        self.work = beside(folder, ".work")
        self.lengths = index.rows.lengths_B - 1
        self.ends = np.cumsum(self.lengths, dtype=np.int64)
        self._files: dict[int, Handle] = {}  # by stage
        self._sums: dict[int, NDArray[np.uint32]] = {}
        self._checked: set[tuple[Handle, int]] = set()  # files and rows that were read ahead and found whole
        self._beat = Beat()

    @staticmethod
    def key(parts: dict[str, Any]) -> str:
        """The folder's name: of settings and fingerprints."""
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]

    @property
    def bytes(self) -> int:
        """Of one stage's file."""
        return int(self.ends[-1] * self.width * self.dtype.itemsize)

    def is_whole(self, stage: int) -> bool:
        """Whether the states before this layer are there; they are then open, and stay so whoever deletes them."""
        found, rows, sums = self._about(self.folder)
        if (found, rows) != (stage, 0) or not self._open(self.folder, stage):
            return False
        self._sums, self._checked = sums, set()
        return True

    def is_renewed(self, stage: int) -> bool:
        """Whether another process has made the file since it was looked for, or since it was found to be damaged.

        Where it is still the damaged one, that is let go of.
        """
        held, path = self._files.get(stage), _path(self.folder, stage)
        if held is not None and path.exists() and os.path.samestat(held.state, path.stat()):
            set_aside(self.folder)
            return False
        return self.is_whole(stage)

    def read_into(self, stage: int, tokens: Tokens, out: Elements) -> None:
        """The hidden states, before layer `stage`, of all tokens of a row but its last. out: (tokens - 1, width).

        Raises Damaged, KeyError.
        """
        number, file, flat = self.index.number(tokens), self._files[stage], out.reshape(-1).view(np.uint8)
        is_checked, done, found = (file, number) in self._checked, 0, 0
        for part in self._parts(file, number):
            flat[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done, found = done + len(part), 0 if is_checked else zlib.crc32(part, found)
        if not is_checked and found != self._sums[stage][number]:
            raise Damaged
        self._checked.discard((file, number))

    def read_ahead(self, stage: int, tokens: Tokens) -> None:
        """Let the system bring a row into memory, and check it: this thread waits, without the interpreter."""
        with suppress(Damaged, KeyError):  # whoever reads it will see; it may be in the making
            number, file, found = self.index.number(tokens), self._files[stage], 0
            for part in self._parts(file, number):
                found = zlib.crc32(part, found)
            if found == self._sums[stage][number]:
                self._checked.add((file, number))

    def _offset(self, number: int) -> int:
        return (int(self.ends[number]) - int(self.lengths[number])) * self.width * self.dtype.itemsize

    def _parts(self, file: Handle, number: int) -> Iterator[Buffer]:
        """The bytes of a row. Raises Damaged for a file that ends before, or that the disk cannot read."""
        place, end = self._offset(number), int(self.ends[number]) * self.width * self.dtype.itemsize
        while place < end:
            try:
                part = os.pread(file.number, min(PART_BYTES, end - place), place)
            except OSError as fault:
                raise Damaged from fault
            if not part:
                raise Damaged
            place += len(part)
            yield part

    @contextmanager
    def writing(self, wait: Callable[[], None]) -> Iterator[None]:
        """Be the one that writes, see `one_writer`."""
        with one_writer(self.folder, wait) as self.work:
            try:
                yield
            finally:
                self._files = {stage: file for stage, file in self._files.items() if not file.writes}

    def begun(self) -> tuple[int, int]:
        """Of what is in the making: layers that all rows are through, and rows that are through the stage after."""
        self._files = {}  # of a damaged file
        stage, rows, self._sums = self._about(self.work)
        if stage and not self._open(self.work, stage):
            return self.begin()
        return stage, rows

    def begin(self) -> tuple[int, int]:
        """As `begun`, of nothing."""
        self._files, self._sums = {}, {}
        return 0, 0

    def write(self, stage: int, number: int, hidden: Elements) -> None:
        """The hidden states of the row with this number."""
        if stage not in self._files:
            self._files[stage] = self._made(stage)
            self._sums.setdefault(stage, np.zeros(len(self.lengths), np.uint32))
        flat = np.ascontiguousarray(hidden).reshape(-1).view(np.uint8)
        done, offset = 0, self._offset(number)
        while done < len(flat):
            done += os.pwrite(self._files[stage].number, flat[done:].data, offset + done)
        self._sums[stage][number] = zlib.crc32(flat.data)
        self._beat(self.work)

    def note(self, stage: int, rows: int) -> None:
        """Say, once it is on the disk, how far the work is. The file of the stage before is not needed after it."""
        for file in self._files.values():
            if file.writes:
                os.fsync(file.number)
        if rows == 0:
            self._sums = {number: sums for number, sums in self._sums.items() if number == stage}
        sums = {str(number): sums.tobytes().hex() for number, sums in self._sums.items()}
        sealed.write(self.work / ABOUT, {"stage": stage, "rows": rows, "sums": sums})
        if rows == 0:
            for path in self.work.glob("hidden-*.bin"):
                if path != _path(self.work, stage):
                    path.unlink()
            self._files = {number: file for number, file in self._files.items() if number == stage}

    def finish(self, stage: int) -> bool:
        """Put what was made in its place, and open it. What was there is damaged, or the same."""
        if self.folder.exists():
            set_aside(self.folder)
        self.work.rename(self.folder)
        return self.is_whole(stage)

    def _made(self, stage: int) -> Handle:
        """The stage's file in the work folder, of its full size, open to be written to."""
        file = Handle(_path(self.work, stage), os.O_RDWR | os.O_CREAT)
        os.ftruncate(file.number, self.bytes)
        return file

    def _open(self, folder: Path, stage: int) -> bool:
        try:
            file = Handle(_path(folder, stage), os.O_RDONLY)
        except OSError:
            return False
        self._files[stage] = file
        return file.state.st_size == self.bytes

    def _about(self, folder: Path) -> tuple[int, int, dict[int, NDArray[np.uint32]]]:
        """What a folder says of itself; nothing where that is damaged."""
        try:
            about = json.loads((folder / ABOUT).read_text())
            stage, rows = int(about["stage"]), int(about["rows"])
            found = {int(key): np.frombuffer(bytes.fromhex(text), np.uint32) for key, text in about["sums"].items()}
            sound = about[sealed.KEY] == sealed.digest(about) and {len(sums) for sums in found.values()} <= {
                len(self.lengths)
            }
            sound = sound and (not stage or stage in found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return 0, 0, {}
        return (stage, rows, {key: sums.copy() for key, sums in found.items()}) if sound else (0, 0, {})


def _path(folder: Path, stage: int) -> Path:
    return folder / f"hidden-{stage:06d}.bin"
