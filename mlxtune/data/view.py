"""A store's rows as a run's settings want them: no longer than so many tokens, no shorter, none twice.

Numbers alone are looked at: whatever the settings, no row is read again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data import notes
from mlxtune.data.folders import Split
from mlxtune.data.refused import Left, of_reasons
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.store import Store
from mlxtune.data.token_rows import WHOLE, TokenRows
from mlxtune.data.types import Refused

Places = NDArray[np.intp]


class View(NamedTuple):
    """Rows of one split, and those that are left out. too_long: how many tokens each of these examples needs."""

    rows: TokenRows
    left: Sequence[Left]
    too_long: NDArray[np.int32]


def view(store: Store, split: Split, settings: DataSettings, size: int) -> View:
    """The rows that fit the longest length. size: rows of an example, which stay or go together."""
    columns = {name: store.column(name, split) for name in ("needs", "length", "supervised", "n_lines")}
    is_document = columns["n_lines"] >= 0
    needs = columns["needs"].reshape(-1, size).max(axis=1, initial=0)
    is_too_long = (needs > settings.longest) & ~is_document.reshape(-1, size).any(axis=1)
    stays = np.flatnonzero(np.repeat(~is_too_long, size) & ~is_document)
    first = store.contents.splits[split].first
    lengths = columns["length"][stays]
    is_cut = lengths > settings.longest  # what lies beyond carries no loss
    begins = np.where(is_cut, np.int32(0), np.int32(WHOLE)) if is_cut.any() else None
    kept = np.minimum(lengths, settings.longest)
    rows = TokenRows(store, (first + stays).astype(np.int32), kept, columns["supervised"][stays], begins)
    left = [*of_reasons(lambda: store.refused(split)), _too_long(store, first, size, needs, is_too_long, settings)]
    if is_document.any():
        windows, silent = _windows(store, first + np.flatnonzero(is_document), settings.longest)
        rows, left = _merged(rows, windows), [*left, silent]
    short = _short(rows, settings.min_tokens, size)
    if settings.min_tokens is not None and short.any():
        left.append(_left_short(rows, short, settings.min_tokens, size))
        rows = _examples(rows, np.flatnonzero(~short), size)
    return View(rows, left, needs[is_too_long])


def without_repeated(views: Sequence[View], size: int) -> list[View]:
    """The views without rows that have the tokens and the mask of one before, of an earlier view too."""
    keys = np.concatenate([np.ascontiguousarray(each.rows.keys()).view("S24") for each in views]).reshape(-1, size)
    joined = np.ascontiguousarray(keys).view(f"S{24 * size}").ravel()
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
    settings: DataSettings,
) -> Left:
    def rows() -> Iterator[Refused]:
        for place in np.flatnonzero(is_too_long).tolist():
            reason = f"{needs[place]:,} tokens, longer than {settings.longest:,}"
            yield Refused(store.place(first + place * size).short, reason)

    return Left(f"longer than {settings.longest:,} tokens", int(is_too_long.sum()), rows)


def _short(rows: TokenRows, least: int | None, size: int) -> NDArray[np.bool_]:
    return np.asarray(rows.lengths_B.reshape(-1, size).min(axis=1, initial=2**31 - 1) < (least or 0))


def _left_short(rows: TokenRows, short: NDArray[np.bool_], least: int, size: int) -> Left:
    shortest = rows.lengths_B.reshape(-1, size).min(axis=1)

    def each() -> Iterator[Refused]:
        for place in np.flatnonzero(short).tolist():
            yield Refused(rows[place * size].source, f"{shortest[place]:,} tokens, fewer than {least:,}")

    return Left(f"shorter than {least:,} tokens", int(short.sum()), each)


def _repeated(views: Sequence[View], size: int, begin: int, again: Places, first_of: Places):  # type: ignore[no-untyped-def]
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
