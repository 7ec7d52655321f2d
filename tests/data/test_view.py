"""What a length and its options make of rows that are made once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.data.dataset import Dataset
from mlxtune.data.fingerprint import fingerprint
from mlxtune.data.load import check_rows, load
from mlxtune.data.settings import DataSettings
from mlxtune.data.stats import stats
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadData, BadSetting
from tests.support.data import chat, loaded, write
from tests.support.tokenizers import CHATML, tokenizer

PAIR = {"prompt": "q", "chosen": "a" * 30, "rejected": "b" * 9}


def of_one_text(folder: Path, text: str, **settings: Any) -> Dataset:
    return loaded(
        write(folder / "a.jsonl", [{"text": text}, {"text": "short"}]), tokenizer(), valid_share=0, **settings
    )


def text_of(row: TokenRow) -> str:
    return str(tokenizer().decode(row.tokens, skip_special_tokens=True))


def test_a_row_that_is_too_long_is_skipped_where_nothing_is_said(tmp_path: Path) -> None:
    made = of_one_text(tmp_path, "x" * 50, max_seq_length=20)
    assert [text_of(row) for row in made.train] == ["short"]
    assert made.refused == [("a.jsonl:1", "52 tokens, longer than 20")]


def test_truncated_it_begins_as_it_did_and_says_what_goes(tmp_path: Path) -> None:
    made = of_one_text(tmp_path, "x" * 50, max_seq_length=20, overlong="truncate")
    assert [text_of(row) for row in made.train] == ["x" * 19, "short"]
    assert [int(row.supervised.sum()) for row in made.train] == made.train.supervised_B.tolist()
    assert made.refused == []
    assert "1 row is cut at 20 tokens: 32 tokens that carry loss are left out." in made.notes


def test_truncated_before_its_loss_begins_it_is_skipped(tmp_path: Path) -> None:
    row = {"prompt": "p" * 40, "completion": "answer"}
    made = loaded(
        write(tmp_path / "a.jsonl", [row, {"text": "short"}]),
        tokenizer(),
        valid_share=0,
        max_seq_length=20,
        overlong="truncate",
    )
    assert [text_of(row) for row in made.train] == ["short"]
    assert [reason for _, reason in made.refused] == ["48 tokens, longer than 20"]


@pytest.mark.parametrize("length", [2, 3, 7, 20, 51, 52, 53, 100])
def test_split_every_token_but_the_first_is_predicted_once(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "".join(map(chr, range(65, 115)))}])
    [whole] = loaded(path, tokenizer(), max_seq_length=100).train
    parts = loaded(path, tokenizer(), max_seq_length=length, overlong="split", valid_share=0).train
    predicted = np.concatenate([row.tokens[row.supervised] for row in parts])
    assert predicted.tolist() == whole.tokens[1:].tolist()
    assert all(len(row.tokens) <= length for row in parts)


def test_a_turn_that_is_split_keeps_its_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat("question", "a long answer", "again", "another answer")])
    whole = loaded(path, tokenizer(CHATML), valid_share=0).train[0]
    parts = loaded(path, tokenizer(CHATML), valid_share=0, max_seq_length=30, overlong="split").train
    assert sum(int(row.supervised.sum()) for row in parts) == int(whole.supervised.sum())
    assert {row.source for row in parts} == {"a.jsonl:1"}


def test_both_answers_of_a_pair_are_cut_or_the_pair_is_left_out(tmp_path: Path) -> None:
    def pairs(**settings: Any) -> Dataset:
        path = str(write(tmp_path / "a.jsonl", [PAIR, {**PAIR, "chosen": "aa"}]))
        return load(DataSettings(path=path, valid_share=0, **settings), tokenizer(), seed=0, pairs=True)

    assert pairs(max_seq_length=20).train.lengths_B.tolist() == [5, 12]
    assert pairs(max_seq_length=20, overlong="truncate").train.lengths_B.tolist() == [20, 12, 5, 12]
    with pytest.raises(BadSetting, match=r"data\.overlong: expected skip or truncate"):
        pairs(max_seq_length=20, overlong="split")


def test_rows_that_are_cut_have_keys_of_their_own(tmp_path: Path) -> None:
    one = of_one_text(tmp_path, "x" * 50, max_seq_length=20, overlong="truncate")
    other = of_one_text(tmp_path, "x" * 50, max_seq_length=20)
    same = loaded(write(tmp_path / "b.jsonl", [{"text": "x" * 50}, {"text": "short"}]), tokenizer(), valid_share=0)
    assert len({fingerprint(each) for each in (one, other, same)}) == 3
    assert one.train.keys()[0] != same.train.keys()[0]
    assert one.train.keys()[1] == same.train.keys()[1]


def test_repeated_rows_and_rows_of_little_loss_are_counted(tmp_path: Path) -> None:
    rows = [{"text": "once"}, {"text": "twice"}, {"text": "twice"}, {"prompt": "p" * 10, "completion": "a"}]
    made = loaded(write(tmp_path / "a.jsonl", rows), tokenizer(), valid_share=0.25)
    found = stats(made.train, made.valid)
    every = [*made.train, *made.valid]
    assert (found.rows, found.repeated, found.few) == (4, 1, 1)
    assert found.tokens == sum(len(row.tokens) for row in every)
    assert found.lengths.most == max(len(row.tokens) for row in every)
    assert found.supervised_share == sum(int(row.supervised.sum()) for row in every) / found.tokens


def test_rows_of_another_place_validate_and_none_are_held_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": f"train {n}"} for n in range(20)])
    other = write(tmp_path / "other" / "b.jsonl", [{"text": "valid"}])
    made = loaded(path, tokenizer(), valid=str(other))
    assert (len(made.train), [row.source for row in made.valid]) == (20, ["b.jsonl:1"])
    assert "The data has 1 row for validation." in made.notes
    write(tmp_path / "both" / "train.jsonl", [{"text": "no"}])
    write(tmp_path / "both" / "valid.jsonl", [{"text": "yes"}, {"text": "too"}])
    assert len(loaded(path, tokenizer(), valid=str(tmp_path / "both")).valid) == 2
    with pytest.raises(BadSetting, match=r"data\.valid_share: expected to be left alone"):
        loaded(path, tokenizer(), valid=str(other), valid_share=0.5)


def test_validation_rows_of_the_data_that_others_take_the_place_of_are_named(tmp_path: Path) -> None:
    write(tmp_path / "both" / "train.jsonl", [{"text": "train"}])
    write(tmp_path / "both" / "valid.jsonl", [{"text": "own"}])
    other = write(tmp_path / "other.jsonl", [{"text": "other"}])
    made = loaded(tmp_path / "both", tokenizer(), valid=str(other))
    assert [row.source for row in made.valid] == ["other.jsonl:1"]
    assert "Not read beside the rows: valid.jsonl." in made.notes


def test_rows_behind_the_first_so_many_are_not_looked_at_without_a_tokenizer_either(tmp_path: Path) -> None:
    settings = DataSettings(path=str(write(tmp_path / "a.jsonl", [{"text": "right"}, {"text": 5}])))
    check_rows(replace(settings, max_rows=1))
    with pytest.raises(BadData, match="expected text"):
        check_rows(settings)
