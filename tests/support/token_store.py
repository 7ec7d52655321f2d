"""Token stores in a cache of the test's own: asked for, made, and compared byte by byte."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mlxtune.data import files
from mlxtune.data.dataset import Dataset
from mlxtune.data.load import TRAINED
from mlxtune.data.rows import Wanted
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.fill import Filling, Ways
from mlxtune.data.store.find import Asked, Found, find_or_make, in_memory
from mlxtune.data.store.parts import OnDisk
from mlxtune.data.store.store import Store
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.types import TokenRow
from mlxtune.events import ignore
from mlxtune.models import tokenizer as tokenizers

Row = tuple[list[int], list[bool], str]


def asked(settings: DataSettings, tokenizer: Any, *, stops: frozenset[int] = frozenset(), pairs: bool = False) -> Asked:
    sources = files.read(settings.path)
    splits = tuple(split for split in TRAINED if split in sources.splits)
    return Asked(sources, splits, Wanted(settings, stops, pairs), tokenizer)


def kept(settings: DataSettings, tokenizer: Any, **wanted: Any) -> Found:
    """From the cache, or made there by this process."""
    each = asked(settings, tokenizer, **wanted)
    return find_or_make(each, Filling(each, Ways(lambda: tokenizer, ignore, 1)).all_splits, lambda: None)


def held(settings: DataSettings, tokenizer: Any, open_tokenizer: Callable[[], Tokenizer], n_processes: int) -> Store:
    """In memory, made by so many processes."""
    each = asked(settings, tokenizer)
    return in_memory(each, Filling(each, Ways(open_tokenizer, ignore, n_processes)).all_splits).store


def folder_of(store: Store) -> Path:
    rows = store.parts["rows"]
    assert isinstance(rows, OnDisk)
    return rows.path.parent


def contents(store: Store) -> dict[str, bytes]:
    """All bytes of the parts."""
    return {name: part.read(0, part.size) for name, part in store.parts.items()}


def plain(row: TokenRow) -> Row:
    return row.tokens.tolist(), row.supervised.tolist(), row.source


def whole_rows(store: Store) -> Iterator[Row]:
    """Every row of a store, uncut."""
    for number in range(len(store)):
        yield plain(store.row(number, 0, int(store.records(number, 1)[0]["length"])))


def everything(dataset: Dataset) -> tuple[list[Row], list[Row], list[tuple[str, str]], tuple[str, ...]]:
    """All that a data set says."""
    train, valid = ([plain(row) for row in rows] for rows in (dataset.train, dataset.valid))
    return train, valid, [tuple(each) for each in dataset.refused], dataset.notes


def saved(folder: Path, tokenizer: Any) -> Callable[[], Tokenizer]:
    """What makes the tokenizer in another process."""
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text("{}")
    return partial(tokenizers.load, folder)
