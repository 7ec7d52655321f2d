"""Data files for tests, and what became of their rows."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mlxtune.data.load import load
from mlxtune.data.settings import DataSettings
from mlxtune.data.types import Dataset, TokenRow


def write(path: Path, rows: Iterable[Any]) -> Path:
    """A .jsonl file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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
