"""Any bytes in a file of any name give rows, or one error of ours: short, and never a traceback."""

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlxtune.data.load import load
from mlxtune.data.settings import DataSettings
from mlxtune.errors import MlxtuneError
from tests.support.data import read
from tests.support.slow import all_but
from tests.support.tokenizers import CHATML, tokenizer

NAMES = ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt", "a.parquet", "a.ndjson")
OFTEN = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOKENIZER = tokenizer(CHATML)

KEYS = st.sampled_from(
    [
        *("messages", "conversations", "prompt", "completion", "text", "instruction", "input", "output", "context"),
        *("history", "system", "chosen", "rejected", "tools", "functions", "role", "from", "content", "value"),
        *("tool_calls", "function_call", "function", "name", "arguments", "type", "weight", "train", "loss", "label"),
        *("images", "reasoning_content", "question", "answer", "id"),
    ]
)
WORDS = ["user", "assistant", "system", "gpt", "text", "\ud800", "\x1b[2J", "", " ", "{}", "[]", "x" * 5000]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(WORDS)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5), max_leaves=12
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "tool"]) | LEAVES, "content": VALUES},
        optional={"weight": LEAVES, "train": LEAVES, "tool_calls": VALUES, "reasoning": VALUES, "name": LEAVES},
    ),
    max_size=4,
)
EXTRA: dict[str, Any] = {
    "system": VALUES,
    "tools": VALUES,
    "history": VALUES,
    "label": LEAVES,
    "weight": LEAVES,
    "id": LEAVES,
}
ROWS = (
    st.fixed_dictionaries({"messages": TURNS}, optional=EXTRA)
    | st.fixed_dictionaries({"prompt": TURNS | VALUES, "completion": TURNS | VALUES}, optional=EXTRA)
    | st.fixed_dictionaries(
        {"instruction": VALUES, "output": VALUES}, optional={**EXTRA, "input": VALUES, "context": VALUES}
    )
    | VALUES
)


def check(folder: Path, name: str, data: bytes) -> None:
    """Whether bad rows stop the reading or are skipped, and down to the tokens."""
    path = folder / name
    path.write_bytes(data)
    for skip in (False, True):
        asked = DataSettings(path=str(path), skip_bad_rows=skip)
        try:
            read(asked)
            made = load(asked, TOKENIZER, seed=0)
        except MlxtuneError as error:
            told = str(error)
        else:
            assert all(row.supervised.any() for row in made.train)
            told = "\n".join(made.notes)
        assert len(told) < 4000


@pytest.mark.parametrize("name", all_but(set(NAMES) - {"a.txt"}, NAMES))
@OFTEN
@given(data=st.binary(max_size=300))
@example(data=b"\0" * 300)
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b'{"text": ' + b"9" * 5000 + b"}")
@example(data=b'[{"text": ' + b"9" * 5000 + b"}]")
@example(data=b'{"messages": "' + b"[" * 100_000 + b'"}')
@example(data=b'{"messages": [{"role": "user", "content": "q"}], "tools": "' + b"[" * 100_000 + b'"}')
@example(data=b'{"text": ' + b"9" * 4000 + b"}")
@example(data=b"PAR1" + b"\xff" * 100 + b"PAR1")
@example(data=gzip.compress(b"x" * 1000)[:-4])
@example(data=b"," * 10_000 + b"\n" + b"x," * 10_000)
@example(data=(b"k" * 400 + b",") * 500)
@pytest.mark.few(2)
def test_any_bytes_are_rows_or_one_error(name: str, data: bytes, tmp_path: Path) -> None:
    check(tmp_path, name, data)


@pytest.mark.parametrize("name", all_but(["a.jsonl"], ["a.jsonl", "a.json", "a.csv"]))
@OFTEN
@given(
    rows=st.lists(ROWS, min_size=1, max_size=4),
    indent=st.sampled_from([None, 1]),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]),
    change=st.none() | st.tuples(st.integers(0, 400), st.binary(max_size=2)),
)
@pytest.mark.slow
def test_rows_of_any_content_are_rows_or_one_error(
    name: str, rows: list[Any], indent: int | None, encoding: str, change: tuple[int, bytes] | None, tmp_path: Path
) -> None:
    data = "\n".join(json.dumps(row, indent=indent) for row in rows).encode(encoding)
    if change is not None:
        place, new = change
        data = data[:place] + new + data[place + 1 :]
    check(tmp_path, name, data)


@OFTEN
@given(
    rows=st.lists(st.lists(LEAVES, max_size=3), max_size=4),
    mark=st.sampled_from(",;\t"),
    header=st.lists(KEYS, max_size=3),
)
def test_tables_of_any_content_are_rows_or_one_error(
    rows: list[list[Any]], mark: str, header: list[str], tmp_path: Path
) -> None:
    lines = [header, *rows]
    data = "\n".join(mark.join(str(cell) for cell in line) for line in lines).encode("utf-8", "surrogatepass")
    check(tmp_path, "a.csv", data)


UNICODE = st.text(st.characters(codec="utf-8"), max_size=4)
CELLS = (
    st.binary(max_size=4),
    st.floats(),
    UNICODE,
    st.dates(),
    st.lists(st.fixed_dictionaries({"role": UNICODE}), max_size=2),
)


@OFTEN
@given(
    column=st.sampled_from(["text", "prompt", "messages", "completion"]),
    values=st.one_of([st.lists(st.none() | cell, max_size=3) for cell in CELLS]),
    change=st.none() | st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=2)),
)
@pytest.mark.slow
def test_parquet_of_any_content_is_rows_or_one_error(
    column: str, values: list[Any], change: tuple[int, bytes] | None, tmp_path: Path
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({column: values}), buffer)
    data = buffer.getvalue()
    if change is not None:
        place, new = change
        place %= len(data)
        data = data[:place] + new + data[place + len(new) :]
    check(tmp_path, "a.parquet", data)
