"""What there is to say of a dataset: counts, lengths, waste, and its first rows in pieces. Drawing is elsewhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.data.batches import epoch_of, padded, padding_waste
from mlxtune.data.dataset import Dataset
from mlxtune.data.refused import RefusedRows
from mlxtune.data.stats import Stats, stats
from mlxtune.data.token_rows import TokenRows
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.types import TokenRow

BARS = 10  # of the histogram, at most


class Piece(NamedTuple):
    """A run of tokens that all carry loss, or all do not, as text."""

    text: str
    supervised: bool


class Shown(NamedTuple):
    """One row as the trainer sees it."""

    source: str
    tokens: int
    supervised: int
    pieces: tuple[Piece, ...]


class Bar(NamedTuple):
    """Rows of first..last tokens."""

    first: int
    last: int
    rows: int


class Count(NamedTuple):
    """The size of one split."""

    rows: int
    tokens: int
    supervised: int


@dataclass(frozen=True)
class Summary:
    """Everything that `mlxtune data` says."""

    train: Count
    valid: Count
    shown: tuple[Shown, ...]  # the first training rows
    lengths: tuple[Bar, ...]  # of the training rows, in tokens
    longest: int
    batch_size: int
    padding_waste: float  # share of the positions of the first epoch's batches, where rows are not packed
    refused: RefusedRows
    stats: Stats
    notes: tuple[str, ...]


def summary(dataset: Dataset, tokenizer: Tokenizer, *, rows: int, batch_size: int, seed: int) -> Summary:
    lengths = dataset.train.lengths_B
    steps = epoch_of(lengths, batch_size=batch_size, grad_accum=1, seed=seed, epoch=1, by_length=True)
    return Summary(
        train=_count(dataset.train),
        valid=_count(dataset.valid),
        shown=tuple(_shown(row, tokenizer) for row in dataset.train[:rows]),
        lengths=histogram(lengths),
        longest=int(lengths.max(initial=0)),
        batch_size=batch_size,
        padding_waste=padding_waste(lengths, steps.batches),
        refused=dataset.refused,
        stats=stats(dataset.train, dataset.valid),
        notes=dataset.notes,
    )


def as_json(summary: Summary) -> dict[str, Any]:
    """One JSON document, with the names of `Summary`."""
    named = {name: getattr(summary, name) for name in ("train", "valid")}
    lists = {name: [each._asdict() for each in getattr(summary, name)] for name in ("lengths", "refused")}
    shown = [{**row._asdict(), "pieces": [piece._asdict() for piece in row.pieces]} for row in summary.shown]
    spreads = {name: getattr(summary.stats, name)._asdict() for name in ("lengths", "supervised")}
    figures = {**summary.stats._asdict(), **spreads}
    rest = {field.name: getattr(summary, field.name) for field in fields(summary)}
    return {**rest, **{name: each._asdict() for name, each in named.items()}, **lists, "shown": shown, "stats": figures}


def histogram(lengths: Sequence[int] | NDArray[np.integer]) -> tuple[Bar, ...]:
    """Counts of lengths in up to ten equal classes, each a multiple of the padding wide.

    >>> [tuple(bar) for bar in histogram([3, 9, 10, 30])]
    [(1, 8, 1), (9, 16, 2), (17, 24, 0), (25, 32, 1)]
    """
    if not len(lengths):
        return ()
    width = padded(-(-int(np.max(lengths)) // BARS))
    rows = np.bincount((np.asarray(lengths) - 1) // width).tolist()
    return tuple(Bar(place * width + 1, (place + 1) * width, count) for place, count in enumerate(rows))


def _count(rows: TokenRows) -> Count:
    return Count(len(rows), int(rows.lengths_B.sum()), int(rows.supervised_B.sum()))


def _shown(row: TokenRow, tokenizer: Tokenizer) -> Shown:
    return Shown(row.source, len(row.tokens), int(row.supervised.sum()), tuple(_pieces(row, tokenizer)))


def _pieces(row: TokenRow, tokenizer: Tokenizer) -> Iterator[Piece]:
    for run in np.split(np.arange(len(row.tokens)), np.flatnonzero(np.diff(row.supervised)) + 1):
        text = str(tokenizer.decode(row.tokens[run].tolist(), clean_up_tokenization_spaces=False))
        yield Piece(text, bool(row.supervised[run[0]]))
