import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mlxtune.data.load import load
from mlxtune.data.settings import DataSettings
from mlxtune.data.summary import Summary, as_json, summary
from mlxtune.report.rows import show
from tests.support.data import chat, write
from tests.support.tokenizers import CHATML, tokenizer

ROWS = [chat("q", "the \x1b[31manswer", system="s"), *[chat("q" * size, "a") for size in (5, 50)], chat("q" * 400, "a")]


@pytest.fixture
def said(tmp_path: Path) -> Summary:
    made = tokenizer(CHATML)
    settings = DataSettings(path=str(write(tmp_path / "a.jsonl", ROWS)), max_seq_length=200, valid_share=0.0)
    return summary(load(settings, made, seed=0), made, rows=2, batch_size=2, seed=0)


def drawn(said: Summary, **options: Any) -> str:
    stream = io.StringIO()
    show(said, Console(file=stream, width=200, highlight=False, markup=False, emoji=False, **options))
    return stream.getvalue()


def test_a_pipe_gets_brackets_and_no_colour_codes(said: Summary) -> None:
    """mlx-lm: piped output carries colour codes."""
    text = drawn(said)
    assert "<|im_start|>assistant\n⟦the \\x1b[31manswer<|im_end|>⟧\n" in text
    assert "\x1b" not in text


def test_a_terminal_gets_supervised_tokens_in_colour_and_no_brackets(said: Summary) -> None:
    text = drawn(said, force_terminal=True, color_system="standard")
    assert "\x1b[1;32mthe \\x1b[31manswer<|im_end|>\x1b[0m" in text
    assert "⟦" not in text


def test_counts_lengths_waste_and_refused_rows_are_told(said: Summary) -> None:
    text = drawn(said)
    assert "train  3 rows" in text
    assert "Refused: 1 row" in text
    assert "a.jsonl:4: 4" in text
    assert f"Where rows cannot be packed, {said.padding_waste:.1%} of batches of 2 are padding" in text
    assert sum(bar.rows for bar in said.lengths) == 3


def test_the_json_document_says_the_same(said: Summary) -> None:
    document = json.loads(json.dumps(as_json(said)))
    assert document["train"] == said.train._asdict()
    assert document["refused"][0]["source"] == "a.jsonl:4"
    [row, _] = document["shown"]
    assert [piece["text"] for piece in row["pieces"] if piece["supervised"]] == ["the \x1b[31manswer<|im_end|>"]
    assert set(document["lengths"][0]) == {"first", "last", "rows"}


def test_a_data_set_of_which_no_row_is_shown_is_still_counted(said: Summary) -> None:
    from dataclasses import replace

    assert "carries loss" not in drawn(replace(said, shown=()))
