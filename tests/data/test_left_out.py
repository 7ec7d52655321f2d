"""Rows that the settings leave out are the ones that were asked for, and are counted."""

from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.dataset import Dataset
from mlxtune.data.load import Reader, load, load_for_eval
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadData, BadSetting, MlxtuneError
from mlxtune.recipe.recipe import build
from tests.support.data import chat, loaded, write
from tests.support.tokenizers import CHATML, tokenizer

TEXTS = [{"text": letter * 5} for letter in "abcdefghij"]
PAIR = {"prompt": "q", "chosen": "aa", "rejected": "bb"}


def sources(dataset: Dataset) -> list[str]:
    return sorted(row.source.rpartition(":")[2] for row in (*dataset.train, *dataset.valid))


def pairs(folder: Path, rows: list[Any], **settings: Any) -> Dataset:
    path = str(write(folder / "pairs.jsonl", rows))
    return load(DataSettings(path=path, valid_share=0.0, **settings), tokenizer(), seed=0, pairs=True)


def test_the_first_examples_are_taken_before_validation_rows_are_held_out(tmp_path: Path) -> None:
    made = loaded(write(tmp_path / "a.jsonl", TEXTS), tokenizer(), max_rows=4, valid_share=0.25)
    assert (sources(made), len(made.train), len(made.valid)) == (["1", "2", "3", "4"], 3, 1)
    assert "The first 4 rows are taken; those behind them are not read." in made.notes


@pytest.mark.parametrize("count", [10, 11])
def test_as_many_examples_as_there_are_leave_nothing_out(count: int, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", TEXTS)
    limited, whole = loaded(path, tokenizer(), max_rows=count), loaded(path, tokenizer())
    assert (sources(limited), limited.notes) == (sources(whole), whole.notes)


def test_validation_rows_of_their_own_are_all_taken(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", TEXTS)
    write(tmp_path / "valid.jsonl", TEXTS)
    made = loaded(tmp_path, tokenizer(), max_rows=3)
    assert (len(made.train), len(made.valid)) == (3, 10)


def test_the_first_rows_to_measure_are_taken(tmp_path: Path) -> None:
    settings = DataSettings(path=str(write(tmp_path / "a.jsonl", TEXTS)), max_rows=3)
    made = load_for_eval(settings, Reader(tokenizer()))
    assert sources(made) == ["1", "2", "3"]
    assert "The first 3 rows are taken; those behind them are not read." in made.notes


def test_examples_are_pairs_where_rows_are(tmp_path: Path) -> None:
    made = pairs(tmp_path, [PAIR, {**PAIR, "chosen": "cc"}, PAIR], max_rows=2)
    assert [row.source[-1] for row in made.train] == ["1", "1", "2", "2"]


def test_of_the_text_of_a_file_there_are_no_first_rows(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Only text.")
    with pytest.raises(BadSetting, match=r"expected a file of rows, found 3, and .* is plain text"):
        loaded(tmp_path / "a.txt", tokenizer(), max_rows=3)


def test_rows_of_fewer_tokens_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"text": "x" * size} for size in (1, 2, 3, 4, 5)]  # and <s> and </s>
    path = write(tmp_path / "a.jsonl", rows)
    made = loaded(path, tokenizer(), min_tokens=5, valid_share=0.0)
    assert [len(row.tokens) for row in made.train] == [5, 6, 7]
    assert [tuple(each) for each in made.refused] == [
        ("a.jsonl:1", "3 tokens, fewer than 5"),
        ("a.jsonl:2", "4 tokens, fewer than 5"),
    ]
    assert "2 rows skipped: 2 shorter than 5 tokens." in made.notes
    assert sources(load_for_eval(DataSettings(path=str(path), min_tokens=7), Reader(tokenizer()))) == ["5"]


def test_where_all_rows_are_short_that_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"none of 10, the first because: a.jsonl:1: 7 tokens, fewer than 90"):
        loaded(write(tmp_path / "a.jsonl", TEXTS), tokenizer(), min_tokens=90)


def test_a_pair_with_a_short_answer_is_left_out_whole(tmp_path: Path) -> None:
    made = pairs(tmp_path, [PAIR, {**PAIR, "rejected": "b"}], min_tokens=5)
    assert [row.source[-1] for row in made.train] == ["1", "1"]
    assert [tuple(each) for each in made.refused] == [("pairs.jsonl:2", "4 tokens, fewer than 5")]


def test_equal_rows_after_the_first_are_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[0]])
    made = loaded(path, tokenizer(), dedup="exact", valid_share=0.0)
    assert sources(made) == ["1", "2"]
    assert [tuple(each) for each in made.refused] == [
        ("a.jsonl:3", "the same tokens as a.jsonl:1"),
        ("a.jsonl:4", "the same tokens as a.jsonl:1"),
    ]
    assert "2 rows skipped: 2 with the tokens of another before." in made.notes
    assert len(loaded(path, tokenizer(), valid_share=0.0).train) == 4


def test_rows_of_the_same_tokens_whose_loss_is_elsewhere_are_not_equal(tmp_path: Path) -> None:
    other = chat("q", "a", "r", "b")
    other["messages"][1]["weight"] = 0
    made = loaded(write(tmp_path / "a.jsonl", [chat("q", "a", "r", "b"), other]), tokenizer(CHATML), dedup="exact")
    assert sources(made) == ["1", "2"]


def test_a_validation_row_that_is_trained_is_left_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", TEXTS[:3])
    write(tmp_path / "valid.jsonl", TEXTS[2:5])
    made = loaded(tmp_path, tokenizer(), dedup="exact")
    assert [row.source for row in made.valid] == ["valid.jsonl:2", "valid.jsonl:3"]


def test_a_pair_is_equal_where_both_answers_are(tmp_path: Path) -> None:
    made = pairs(tmp_path, [PAIR, {**PAIR, "rejected": "cc"}, PAIR], dedup="exact")
    assert [row.source[-1] for row in made.train] == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_rows", 0, "expected 1 or more, found 0"),
        ("min_tokens", 0, "expected 1 or more, found 0"),
        ("max_rows", "many", "expected a whole number, found 'many'"),
        ("dedup", "near", "expected exact or off, found 'near'"),
    ],
)
def test_values_without_a_meaning_are_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(MlxtuneError) as caught:
        build({}, {f"data.{key}": value})
    assert f"data.{key}: {said}" in str(caught.value)
