"""A store's rows as a run's settings want them: no longer than so many tokens, no shorter, none twice.

Numbers alone are looked at: whatever the settings, no row is read again.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data import notes
from mlxtune.data.folders import Split
from mlxtune.data.refused import Left, of_reasons
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.store import Store
from mlxtune.data.token_rows import WHOLE, TokenRows, sortable
from mlxtune.data.types import Refused

Places = NDArray[np.intp]


class View(NamedTuple):
    """Rows of one split, and those that are left out. too_long: how many tokens each of these examples needs.

    cut: how many rows were cut at the longest length, and how many of their tokens that carry loss are left out.
    """

    rows: TokenRows
    left: Sequence[Left]
    too_long: NDArray[np.int32]
    cut: tuple[int, int] = (0, 0)


class _Columns(NamedTuple):
    """What is known of each row of a split. first: the number of the first."""

    first: int
    lengths: NDArray[np.int32]
    needs: NDArray[np.int32]  # tokens up to the last that carries loss
    supervised: NDArray[np.int32]
    is_document: NDArray[np.bool_]

    @classmethod
    def of(cls, store: Store, split: Split) -> "_Columns":
        names = ("length", "needs", "supervised", "n_lines")
        lengths, needs, supervised, n_lines = (store.column(name, split) for name in names)
        return cls(store.contents.splits[split].first, lengths, needs, supervised, n_lines >= 0)


def view(store: Store, split: Split, settings: DataSettings, size: int) -> View:
    """The rows that fit the longest length. size: rows of an example, which stay or go together."""
    known, longest = _Columns.of(store, split), settings.longest
    is_over = (known.needs > longest) & ~known.is_document
    is_long = _of_examples(is_over, size)
    is_cut, lost = np.zeros_like(is_long), 0
    if settings.overlong == "truncate":
        known, is_cut, lost = _truncated(store, known, is_long, longest, size)
    is_split = known.is_document | (is_long if settings.overlong == "split" else False)
    is_refused = is_long & ~is_cut & ~is_split
    rows = _whole(store, known, np.flatnonzero(~is_split & ~is_refused), longest)
    refused = is_refused[::size]
    needs = known.needs.reshape(-1, size).max(axis=1, initial=0)
    left = [*of_reasons(lambda: store.refused(split)), _too_long(store, known.first, size, needs, refused, longest)]
    if is_split.any():
        windows, silent = _windows(store, known.first + np.flatnonzero(is_split), longest)
        rows, left = _merged(rows, windows), [*left, silent]
    short = _short(rows, settings.min_tokens, size)
    if settings.min_tokens is not None and short.any():
        left.append(_left_short(rows, short, settings.min_tokens, size))
        rows = _examples(rows, np.flatnonzero(~short), size)
    return View(rows, left, needs[refused], (int((is_cut & is_over).sum()), lost))


def _of_examples(of_rows: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Of each row, whether it is so of any row of its example."""
    return np.asarray(of_rows.reshape(-1, size).any(axis=1).repeat(size))


def _whole(store: Store, known: _Columns, chosen: Places, longest: int) -> TokenRows:
    """Rows as they are, but for what lies beyond the longest length."""
    lengths = known.lengths[chosen]
    is_cut = lengths > longest
    begins = np.where(is_cut, np.int32(0), np.int32(WHOLE)) if is_cut.any() else None
    numbers = (known.first + chosen).astype(np.int32)
    return TokenRows(store, numbers, np.minimum(lengths, longest), known.supervised[chosen], begins)


def _truncated(
    store: Store, known: _Columns, is_long: NDArray[np.bool_], longest: int, size: int
) -> tuple[_Columns, NDArray[np.bool_], int]:
    """What is known where long rows are cut, which rows are, and how many tokens that carry loss go by it.

    An example whose loss begins beyond it in one of its rows stays as it is.
    """
    needs, supervised = known.needs.copy(), known.supervised.copy()
    for place in np.flatnonzero(is_long).tolist():
        supervised[place] = store.supervised_between(known.first + place, 0, min(longest, int(known.lengths[place])))
    stays = _of_examples(is_long & (supervised == 0), size)
    supervised[stays] = known.supervised[stays]
    is_cut = is_long & ~stays
    needs[is_cut] = np.minimum(needs[is_cut], longest)
    lost = int((known.supervised - supervised).sum(dtype=np.int64))
    return known._replace(needs=needs, supervised=supervised), is_cut, lost


def without_repeated(views: Sequence[View], size: int) -> list[View]:
    """The views without rows that have the tokens and the mask of one before, of an earlier view too."""
    keys = sortable(np.concatenate([each.rows.keys() for each in views]))
    joined = keys.view(f"S{size * keys.itemsize}")
    _, firsts, inverse = np.unique(joined, return_index=True, return_inverse=True)
    first_of = firsts[inverse]
    made, begin = [], 0
    for each in views:
        count = len(each.rows) // size
        here = np.arange(begin, begin + count)
        again = np.flatnonzero(first_of[here] != here)
        left = Left("with the tokens of another before", len(again), _repeated(views, size, begin, again, first_of))
        alone = np.flatnonzero(first_of[here] == here)
        made.append(each._replace(rows=_examples(each.rows, alone, size), left=[*each.left, left]))
        begin += count
    return made


def _examples(rows: TokenRows, chosen: Places, size: int) -> TokenRows:
    return rows.take((size * chosen[:, None] + np.arange(size)).ravel())


def _too_long(
    store: Store,
    first: int,
    size: int,
    needs: NDArray[np.int32],
    is_too_long: NDArray[np.bool_],
    longest: int,
) -> Left:
    def rows() -> Iterator[Refused]:
        for place in np.flatnonzero(is_too_long).tolist():
            reason = f"{needs[place]:,} tokens, longer than {longest:,}"
            yield Refused(store.place(first + place * size).short, reason)

    return Left(f"longer than {longest:,} tokens", int(is_too_long.sum()), rows)


def _short(rows: TokenRows, least: int | None, size: int) -> NDArray[np.bool_]:
    return np.asarray(rows.lengths_B.reshape(-1, size).min(axis=1, initial=2**31 - 1) < (least or 0))


def _left_short(rows: TokenRows, short: NDArray[np.bool_], least: int, size: int) -> Left:
    shortest = rows.lengths_B.reshape(-1, size).min(axis=1)

    def each() -> Iterator[Refused]:
        for place in np.flatnonzero(short).tolist():
            yield Refused(rows[place * size].source, f"{shortest[place]:,} tokens, fewer than {least:,}")

    return Left(f"shorter than {least:,} tokens", int(short.sum()), each)


def _repeated(
    views: Sequence[View], size: int, begin: int, again: Places, first_of: Places
) -> Callable[[], Iterator[Refused]]:
    def source(number: int) -> str:
        for each in views:
            if number < len(each.rows) // size:
                return each.rows[number * size].source
            number -= len(each.rows) // size
        raise IndexError

    def rows() -> Iterator[Refused]:
        for place in (begin + again).tolist():
            yield Refused(source(place), f"the same tokens as {source(int(first_of[place]))}")

    return rows


# documents


def _windows(store: Store, numbers: Places, length: int) -> tuple[TokenRows, Left]:
    """Documents as windows of `length` tokens.

    A window begins with the last token of the one before: what a first token is for is to predict the second from, so
    every token of the document but the first is predicted once.
    """
    made: list[tuple[int, int, int, int]] = []
    silent: list[Refused] = []
    for number in numbers.tolist():
        n_tokens = int(store.records(number, 1)[0]["length"])
        for begin in range(0, max(n_tokens - 1, 1), length - 1):
            end = min(begin + length, n_tokens)
            supervised = store.supervised_between(number, begin + 1, end)
            if supervised:
                made.append((number, end - begin, supervised, begin))
            else:
                silent.append(Refused(store.place(number, begin).short, notes.SILENT))
    columns = np.array(made, np.int32).reshape(-1, 4).T
    rows = TokenRows(store, *(np.ascontiguousarray(column) for column in columns))
    return rows, Left(notes.kind(Refused("", notes.SILENT)), len(silent), lambda: iter(silent))


def _merged(rows: TokenRows, windows: TokenRows) -> TokenRows:
    """Rows of both kinds in the order of the files."""
    both = rows.then(windows)
    return both.take(np.argsort(both.numbers_B, kind="stable"))
