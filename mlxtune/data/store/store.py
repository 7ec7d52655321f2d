"""Rows of tokens that were made, in flat files or in memory: what a data set is a view of."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.counts import Counts
from mlxtune.data.digest import digest, mask_digest
from mlxtune.data.faults import Place
from mlxtune.data.folders import Split
from mlxtune.data.rows import Lines
from mlxtune.data.store.columns import ALIGNED, RECORD, Records
from mlxtune.data.store.parts import OnDisk, Part, gone
from mlxtune.data.token_rows import KEYS, Numbers
from mlxtune.data.types import Refused, TokenRow

ABOUT = "about.json"
AT_ONCE = 1 << 16  # records that are read together


class SplitRows(NamedTuple):
    """What a store says of the rows of one split. first: their first number."""

    first: int
    rows: int
    refused: int
    counts: Counts


class Contents(NamedTuple):
    """What a store holds. dtype: of its tokens; unread: names of files and splits that lie beside the rows."""

    dtype: np.dtype[Any]
    splits: Mapping[Split, SplitRows]
    files: Sequence[str]
    unread: tuple[str, ...] = ()


class Store:
    """Rows by their numbers."""

    def __init__(self, parts: Mapping[str, Part], contents: Contents) -> None:
        self.parts, self.contents = parts, contents
        self._line_ends: NDArray[np.int64] | None = None
        self._checked: set[int] = set()  # documents whose tokens are as they were written: each has many windows

    def __len__(self) -> int:
        return self.parts["rows"].size // RECORD.itemsize

    def records(self, first: int, count: int) -> Records:
        """Of rows side by side."""
        size = RECORD.itemsize
        return np.frombuffer(self.parts["rows"].read(size * first, size * count), RECORD)

    def column(self, name: str, split: Split) -> Numbers:
        """One value of each row of a split."""
        held = self.contents.splits[split]
        starts = range(held.first, held.first + held.rows, AT_ONCE)
        blocks = [self.records(at, min(AT_ONCE, held.first + held.rows - at))[name] for at in starts]
        return np.concatenate(blocks).astype(np.int32) if blocks else np.empty(0, np.int32)

    def beyond(self, token: int) -> NDArray[np.intp]:
        """The numbers of the rows that have this token or a larger one."""
        starts = range(0, len(self), AT_ONCE)
        blocks = [self.records(at, min(AT_ONCE, len(self) - at))["most"] for at in starts]
        return np.flatnonzero(np.concatenate(blocks) >= token) if blocks else np.empty(0, np.intp)

    def row(self, number: int, begin: int, end: int) -> TokenRow:
        """The tokens begin..end - 1 of a row, of which the first carries no loss. Raises RunStopped for damage."""
        record = self.records(number, 1)[0]
        at, is_document = int(record["begin"]) * ALIGNED, int(record["n_lines"]) >= 0
        if is_document and number in self._checked:
            tokens, supervised = self._tokens(at + begin, at + end), self._mask(at + begin, at + end)
        else:
            tokens, supervised = self._whole(record)
            tokens, supervised = tokens[begin:end], supervised[begin:end].copy()
            if is_document:
                self._checked.add(number)
        supervised[:1] = False
        line = int(record["line"]) + (self._lines_before(number, begin) if begin else 0)
        return TokenRow(tokens, supervised, self._place(record, line).short)

    def _whole(self, record: np.void) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """All tokens and the mask of a row. Raises RunStopped where they are not those that were written."""
        at, length = int(record["begin"]) * ALIGNED, int(record["length"])
        tokens, supervised = self._tokens(at, at + length), self._mask(at, at + length)
        if record["key"].tobytes() != digest(tokens) + mask_digest(supervised):
            raise self._damaged()
        return tokens, supervised

    def keys(self, numbers: Numbers) -> NDArray[np.void]:
        """Of whole rows, in the type KEYS."""
        found = np.empty(len(numbers), KEYS)
        for first in range(0, len(self), AT_ONCE):
            here = np.flatnonzero((numbers >= first) & (numbers < first + AT_ONCE))
            if len(here):
                keys = self.records(first, min(AT_ONCE, len(self) - first))["key"]
                found[here] = keys[numbers[here] - first]
        return found

    def place(self, number: int, begin: int = 0) -> Place:
        """Where a row, or the part of it from a token on, is."""
        record = self.records(number, 1)[0]
        return self._place(record, int(record["line"]) + (self._lines_before(number, begin) if begin else 0))

    def supervised_between(self, number: int, begin: int, end: int) -> int:
        """How many of the tokens begin..end - 1 of a row carry loss."""
        at = int(self.records(number, 1)[0]["begin"]) * ALIGNED
        return int(self._mask(at + begin, at + end).sum())

    def refused(self, split: Split) -> Iterator[Refused]:
        """The rows of a split that were refused when it was made."""
        splits, order = self.contents.splits, list(self.contents.splits)
        skipped = sum(splits[name].refused for name in order[: order.index(split)])
        for line in islice(_lines_of(self.parts["refused"]), skipped, skipped + splits[split].refused):
            yield Refused(*json.loads(line))

    def _tokens(self, begin: int, end: int) -> NDArray[np.int32]:
        size = self.contents.dtype.itemsize
        content = self.parts["tokens"].read(size * begin, size * (end - begin))
        return np.frombuffer(content, self.contents.dtype).astype(np.int32)

    def _mask(self, begin: int, end: int) -> NDArray[np.bool_]:
        first, last = begin // 8, -(-end // 8)
        bits = np.frombuffer(self.parts["masks"].read(first, last - first), np.uint8)
        return np.unpackbits(bits)[begin - 8 * first : end - 8 * first].astype(np.bool_)

    def _place(self, record: np.void, line: int) -> Place:
        return Place(Path(self.contents.files[int(record["file"])]), line, int(record["row"]))

    def _lines_before(self, number: int, begin: int) -> int:
        return int(np.searchsorted(self._lines(number), begin, side="right"))

    def _lines(self, number: int) -> Lines:
        """The first token of each line of a document, but of its first."""
        if self._line_ends is None:
            counts = [np.maximum(0, self.column("n_lines", split)) for split in self.contents.splits]
            self._line_ends = np.cumsum(np.concatenate(counts), dtype=np.int64)
        count = max(0, int(self.records(number, 1)[0]["n_lines"]))
        end = int(self._line_ends[number])
        return np.frombuffer(self.parts["lines"].read(4 * (end - count), 4 * count), np.uint32)

    def _damaged(self) -> Exception:
        part = self.parts["tokens"]
        if not isinstance(part, OnDisk):
            return AssertionError("memory holds what was put into it")
        with suppress(OSError):
            (part.path.parent / ABOUT).unlink()  # so that they are made anew
        return gone(part.path, "others")


def _lines_of(part: Part) -> Iterator[bytes]:
    """The lines of a part, a megabyte at a time."""
    rest, at = b"", 0
    while at < part.size:
        block = part.read(at, min(1 << 20, part.size - at))
        at += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
