"""A store in the making: chunks of rows are appended in their order, and from time to time it says how far it is."""

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mlxtune.data.counts import Counts
from mlxtune.data.folders import Split
from mlxtune.data.store.columns import Packed, moved
from mlxtune.data.store.parts import NAMES, InMemory, OnDisk, Part
from mlxtune.data.store.store import ABOUT, Contents, SplitRows, Store
from mlxtune.data.types import Refused
from mlxtune.errors import BadSetting
from mlxtune.format import size as in_bytes
from mlxtune.storage import sealed
from mlxtune.storage.documents import Unreadable, parse_object
from mlxtune.storage.one_writer import Beat, set_aside

NOTE_SECONDS = 5.0  # how much of the work a kill undoes
MOST_IN_MEMORY = 4 << 30  # bytes of tokens that are held where no disk takes them
SEALED = ("rows", "lines", "refused")  # the parts that no row's own digest vouches for


@dataclass
class Filled:
    """What is there of one split. taken: raw rows that were read for it."""

    rows: int = 0
    refused: int = 0
    taken: int = 0
    counts: Counts = field(default_factory=Counts)


class Chunk(NamedTuple):
    """Rows that were made together, of `taken` raw ones."""

    packed: Packed
    refused: list[Refused]
    counts: Counts
    taken: int


@dataclass
class About:
    """What a store says of itself, in about.json. sizes: bytes of its parts; whole: whether all rows are in it.

    seal: a digest of the parts SEALED, of a whole store.
    """

    dtype: str
    splits: dict[Split, Filled] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    unread: tuple[str, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    whole: bool = False
    seal: str = ""


SCHEMA = TypeAdapter(About)


class Making:
    """work: the folder; None makes it in memory. What was begun there goes on, where it is of the same rows."""

    def __init__(self, dtype: np.dtype[Any], work: Path | None = None) -> None:
        found = read(work) if work else None
        self.about = found or About(dtype.str)
        self.work, self.noted, self._beat = work, time.monotonic(), Beat()
        self.is_sound = True  # no row was found that has to be mended: the next start would not look at it again
        self.notes: list[str] = []
        sizes = self.about.sizes
        self.parts: Mapping[str, Part] = {name: self._part(name, sizes.get(name, 0)) for name in NAMES}

    def _part(self, name: str, size: int) -> Part:
        return OnDisk(_path(self.work, name), grows_from=size) if self.work else InMemory()

    def taken(self, split: Split) -> int:
        """Raw rows of a split that are in it already."""
        return self.about.splits.setdefault(split, Filled()).taken

    def add(self, split: Split, chunk: Chunk) -> None:
        """Append rows of a split. A disk that takes no more is given up for memory."""
        made, packed = self.about.splits[split], chunk.packed
        places = {name: place for place, name in enumerate(self.about.files)}
        for name in packed.files:
            places.setdefault(name, len(places))
        self.about.files = list(places)
        begin = self.parts["tokens"].size // np.dtype(self.about.dtype).itemsize
        refused = "".join(f"{json.dumps(each)}\n" for each in chunk.refused).encode()
        contents = (moved(packed, begin, places).tobytes(), packed.tokens, packed.masks, packed.lines, refused)
        for name, content in zip(NAMES, contents, strict=True):
            self._append(name, content)
        made.rows, made.refused = made.rows + len(packed.records), made.refused + len(chunk.refused)
        made.taken += chunk.taken
        made.counts.plus(chunk.counts)
        self._tell()

    def _tell(self) -> None:
        """Give a sign of life, and from time to time say how far the work is."""
        try:
            if self.work:
                self._beat(self.work)
        except OSError as fault:  # someone deleted the folder
            self._into_memory(fault)
        if time.monotonic() - self.noted > NOTE_SECONDS:
            self.note()

    def _append(self, name: str, content: bytes) -> None:
        try:
            self.parts[name].append(content)
        except OSError as fault:
            self._into_memory(fault)
            self.parts[name].append(content)

    def _into_memory(self, fault: OSError) -> None:
        """Give up the disk. Raises BadSetting for more than memory should hold."""
        assert self.work is not None, "memory raises no OSError"
        total, folder = sum(part.size for part in self.parts.values()), self.work.parent
        if total > MOST_IN_MEMORY:
            expected = f"room for the rows' tokens, of which {in_bytes(total)} are made"
            remedy = "Make room, or name a folder on a larger disk with MLXTUNE_CACHE."
            raise BadSetting(str(folder), expected=expected, found=str(fault.strerror), remedy=remedy) from fault
        self.notes.append(f"The rows' tokens are held in memory: {folder} cannot keep them ({fault.strerror}).")
        self.parts = {name: InMemory(part.read(0, part.size)) for name, part in self.parts.items()}
        shutil.rmtree(self.work, ignore_errors=True)
        self.work = None

    def note(self) -> None:
        """Say, once it is on the disk, how far the work is."""
        if self.work is None or not self.is_sound:
            return
        self.about.sizes = {name: part.size for name, part in self.parts.items()}
        try:
            for part in self.parts.values():
                assert isinstance(part, OnDisk)
                part.flush()
            sealed.write(self.work / ABOUT, _document(self.about))
        except OSError as fault:
            self._into_memory(fault)
        self.noted = time.monotonic()

    def finish(self, folder: Path | None) -> Store:
        """The store, in its folder unless it is in memory."""
        self.about.whole, self.about.seal = True, _seal(self.parts)
        self.note()
        if self.work is None or folder is None:
            return Store(self.parts, contents(self.about))
        self.parts = {}  # some systems rename no folder whose files are open
        try:
            if folder.exists():
                set_aside(folder)
            self.work.rename(folder)
        except OSError as fault:
            self.parts = {name: OnDisk(_path(self.work, name)) for name in NAMES}
            self._into_memory(fault)
            return Store(self.parts, contents(self.about))
        found = opened(folder)
        assert found is not None, "it was just written"
        return found


def opened(folder: Path) -> Store | None:
    """The store in a folder, if all of it is there."""
    about = read(folder)
    if about is None or not about.whole:
        return None
    try:
        parts = {name: OnDisk(_path(folder, name)) for name in NAMES}
    except OSError:
        return None
    if any(part.size != about.sizes.get(name) for name, part in parts.items()) or _seal(parts) != about.seal:
        return None
    return Store(parts, contents(about))


def read(folder: Path) -> About | None:
    """What a folder says of itself; None where that is damaged, or of files that are shorter."""
    try:
        found = parse_object((folder / ABOUT).read_bytes())
        if found.pop(sealed.KEY, None) != sealed.digest(found):
            return None
        about = SCHEMA.validate_python(found)
        is_there = all(_path(folder, name).stat().st_size >= about.sizes[name] for name in NAMES)
    except (OSError, Unreadable, ValidationError, KeyError):
        return None
    return about if is_there else None


def _document(about: About) -> dict[str, Any]:
    """As JSON has it. Names of files that are no Unicode are for messages alone: what is none in them is replaced."""
    text = json.dumps(SCHEMA.dump_python(about, mode="json"), ensure_ascii=False)
    document: dict[str, Any] = json.loads(text.encode("utf-8", "replace"))
    return document


def _seal(parts: Mapping[str, Part]) -> str:
    made = blake2b(digest_size=16)
    for part in (parts[name] for name in SEALED):
        for at in range(0, part.size, 1 << 20):
            made.update(part.read(at, min(1 << 20, part.size - at)))
    return made.hexdigest()


def contents(about: About) -> Contents:
    """What a reader of the store is told."""
    splits: dict[Split, SplitRows] = {}
    first = 0
    for name, part in about.splits.items():
        splits[name] = SplitRows(first, part.rows, part.refused, part.counts)
        first += part.rows
    return Contents(np.dtype(about.dtype), splits, about.files, about.unread)


def _path(folder: Path | None, name: str) -> Path:
    assert folder is not None, "memory has no paths"
    return folder / f"{name}.bin"
