"""Data files and folders of every kind, read as `data` reads them."""

import bz2
import gzip
import json
import lzma
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from fuzzing import mutate

from mlxtune.data import load, summary
from mlxtune.data.settings import DataSettings
from mlxtune.models import tokenizer
from mlxtune.models.hub import BUILT_IN

ROWS: tuple[Any, ...] = (
    {"text": "Once upon a time there was a mouse."},
    {"prompt": "Tell me a rhyme.", "completion": "The mouse has a house."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.", "weight": 1}]},
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": "No"},
        ]
    },
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}], "system": "Be kind."},
    {"instruction": "Add.", "input": "1 2", "output": "3", "history": [["a", "b"]]},
    {"prompt": "a", "chosen": "b", "rejected": "c"},
    {
        "messages": [
            {"role": "user", "content": "Sun?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}],
            },
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    },
)

PACK = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


def _row_bytes(random: Random) -> tuple[str, bytes]:
    rows = [mutate.document(random, row) if random.random() < 0.5 else row for row in random.choices(ROWS, k=3)]
    layout = random.randrange(5)
    if layout == 0:
        return random.choice((".json", ".jsonl")), json.dumps(rows, indent=random.choice((None, 1))).encode()
    if layout == 1:
        head = random.choice((b"text", b"prompt,completion", b"prompt,text,text", b'"messages"', b"prompt\tcompletion"))
        return random.choice((".csv", ".tsv")), head + b"\n" + b"\n".join(b'a,"b ""c"""' for _ in range(3)) + b"\n"
    if layout == 2:
        return ".txt", b"Once upon a time.\nThere was a mouse.\n"
    return ".jsonl", b"\n".join(map(mutate.as_json, rows)) + b"\n"


def _packed(random: Random, suffix: str, text: bytes) -> tuple[str, bytes]:
    """Compressed, and at times damaged or under the ending of another."""
    ending, pack = random.choice(tuple(PACK.items()))
    packed = mutate.data(random, pack(text)) if random.random() < 0.5 else pack(text)
    return suffix + (ending if random.random() < 0.9 else random.choice((*PACK, ".zst"))), packed


def write_rows(random: Random, folder: Path) -> None:
    suffix, text = _row_bytes(random)
    text = mutate.data(random, text) if random.random() < 0.7 else text
    if random.random() < 0.1:
        text = text.decode("utf-8", "replace").encode(
            random.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1", "utf-7")), "replace"
        )
    suffix = suffix if random.random() < 0.9 else random.choice((".csv", ".json", ".jsonl", ".txt", ".tsv", ".parquet"))
    if random.random() < 0.2:
        suffix, text = _packed(random, suffix, text)
    others = ("valid", "test", "rows", "val", "a\x1b[2J", "train-00000-of-00002", "train-1", "valid-10")
    names = ["train"] * (random.random() < 0.9) + random.sample(others, random.choice((0, 0, 0, 1, 2)))
    for name in names:
        (folder / f"{name}{suffix}").write_bytes(text)


@cache
def built_in_tokenizer() -> Any:
    return tokenizer.load(BUILT_IN)


def read_rows(folder: Path, tokens: Any = None) -> None:
    settings, tokens = DataSettings(path=str(folder), max_seq_length=64), tokens or built_in_tokenizer()
    dataset = load.load(settings, tokens, seed=0)
    json.dumps(summary.as_json(summary.summary(dataset, tokens, rows=2, batch_size=2, seed=0)), ensure_ascii=False)


@cache
def _tables() -> dict[str, list[bytes]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(rows: list[Any]) -> bytes:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows), sink)
        return bytes(sink.getvalue())

    def ipc(rows: list[Any], new: Any) -> bytes:
        sink, made = pa.BufferOutputStream(), pa.Table.from_pylist(rows)
        with new(sink, made.schema) as writer:
            writer.write_table(made)
        return bytes(sink.getvalue())

    plain = [row for place, row in enumerate(ROWS) if place != 3]  # Arrow has no lists of texts and objects
    odd = [{"a\x1b": 1, "": None, "text": b"\xff", "\0": "x"}]
    tables = [*([row] * 3 for row in plain), odd]
    arrow = [ipc(rows, new) for rows in tables for new in (pa.ipc.new_file, pa.ipc.new_stream)]
    return {".parquet": list(map(table, tables)), ".arrow": arrow}


def write_table(random: Random, folder: Path) -> None:
    suffix = random.choice((".parquet", ".arrow"))
    text = random.choice(_tables()[suffix])
    (folder / f"train{suffix}").write_bytes(mutate.data(random, text) if random.random() < 0.9 else text)
