"""Data files for tests, and what became of their rows."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlxtune.data import files, rows
from mlxtune.data.counts import Counts
from mlxtune.data.dataset import Dataset
from mlxtune.data.faults import Fault, Kinds
from mlxtune.data.forms import Row
from mlxtune.data.load import load
from mlxtune.data.rows import Wanted
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.fill import check
from mlxtune.data.types import Refused, TokenRow
from mlxtune.data.unread import Unread
from mlxtune.errors import BadData, MlxtuneError


def write(path: Path, rows: Iterable[Any]) -> Path:
    """A .jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Read(NamedTuple):
    """What files hold, without a tokenizer."""

    splits: Mapping[str, tuple[Row, ...]]
    refused: tuple[Refused, ...]
    unread: Unread
    beside: tuple[str, ...]


def read(settings: DataSettings, *, pairs: bool = False) -> Read:
    """The examples of each split. Raises as reading does."""
    sources, wanted = files.read(settings.path), Wanted(settings, frozenset(), pairs)
    counts, wrong, broken, splits = Counts(), Kinds(), list[MlxtuneError](), {}
    refused: list[Refused] = []
    for split, raws in sources.splits.items():
        found: list[Row] = []
        try:
            for raw in raws:
                [each] = rows.read([raw], wanted, counts)
                if isinstance(each, Row):
                    found.append(each)
                elif isinstance(each, Fault) and not settings.skip_bad_rows:
                    wrong.add([each])
                else:
                    refused.append(each.refused if isinstance(each, Fault) else each)
        except BadData as error:
            broken.append(error)
        splits[split] = tuple(found)
    check(wanted, None, counts, wrong, broken)
    return Read(splits, tuple(refused), counts.unread, sources.unread)


def loaded(path: Path, tokenizer: Any, **settings: Any) -> Dataset:
    return load(DataSettings(path=str(path), **settings), tokenizer, seed=0)


def only(folder: Path, row: Any, tokenizer: Any, **settings: Any) -> TokenRow:
    """The tokens of a data set of one row."""
    [made] = loaded(write(folder / "train.jsonl", [row]), tokenizer, **settings).train
    return made


def spans(row: TokenRow, tokenizer: Any) -> list[str]:
    """The text of each run of tokens that carry loss."""
    runs: list[list[int]] = []
    for place, (token, carries) in enumerate(zip(row.tokens.tolist(), row.supervised.tolist(), strict=True)):
        if carries and (place == 0 or not row.supervised[place - 1]):
            runs.append([])
        if carries:
            runs[-1].append(token)
    return [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]


def chat(*turns: str, system: str | None = None) -> dict[str, Any]:
    """A row of `messages`: a user's turn, an assistant's, and so on."""
    said = [{"role": ("user", "assistant")[place % 2], "content": turn} for place, turn in enumerate(turns)]
    return {"messages": [{"role": "system", "content": system}, *said] if system else said}


def told(path: str, most: int = 1500) -> str:
    """The one message of a place whose rows cannot be read, of so many characters at most."""
    with pytest.raises(MlxtuneError) as caught:
        read(DataSettings(path=path))
    assert caught.value.exit_code == 2
    assert str(caught.value).count("expected") == 1
    assert len(str(caught.value)) < most
    return str(caught.value)
