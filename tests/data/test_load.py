from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mlxtune.data.fingerprint import fingerprint
from mlxtune.data.load import load
from mlxtune.data.settings import DataSettings
from mlxtune.data.split import held
from mlxtune.errors import BadData, BadSetting
from tests.support.data import chat, loaded, only, spans, write
from tests.support.tokenizers import CHATML, tokenizer

TEXTS = [{"text": f"row {number}"} for number in range(100)]


def test_rows_of_different_forms_live_in_one_file(tmp_path: Path) -> None:
    """mlx-lm: mixed formats: tracebacks."""
    rows = [{"text": "t"}, chat("q", "a"), {"prompt": "p", "completion": "c"}, {"instruction": "i", "output": "o"}]
    made = tokenizer(CHATML)
    kept = loaded(write(tmp_path / "a.jsonl", rows), made, valid_share=0.0).train
    assert [spans(row, made)[-1] for row in kept] == ["t</s>", "a<|im_end|>", "c<|im_end|>", "o<|im_end|>"]


def test_a_row_whose_supervised_part_is_cut_off_is_skipped_and_counted(tmp_path: Path) -> None:
    """mlx-lm: prompt longer than max length with masking: loss nan, exit 0, every saved weight NaN."""
    rows = [{"prompt": "p" * 20, "completion": "c" * size} for size in (8, 9, 10)]
    path = write(tmp_path / "a.jsonl", rows)
    made = loaded(path, tokenizer(), max_seq_length=31, valid_share=0.0)  # <s>, prompt, completion, </s>
    assert [row.source for row in made.train] == ["a.jsonl:1", "a.jsonl:2"]
    assert [tuple(each) for each in made.refused] == [("a.jsonl:3", "32 tokens, longer than 31")]
    assert "1 row skipped: 1 longer than 31 tokens." in made.notes


def test_an_unsupervised_tail_beyond_the_limit_is_cut(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    whole = only(tmp_path, chat("q", "a", "z" * 100), made)
    needed = int(np.flatnonzero(whole.supervised)[-1]) + 1
    cut = only(tmp_path, chat("q", "a", "z" * 100), made, max_seq_length=needed + 3)
    assert cut.tokens.tolist() == whole.tokens[: needed + 3].tolist()
    assert spans(cut, made) == ["a<|im_end|>"]


def test_if_no_row_is_left_the_lengths_that_would_admit_some_and_all_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"text": "x" * 30}, {"text": "x" * 50}])
    with pytest.raises(BadData) as caught:
        loaded(path, tokenizer(), max_seq_length=10)
    assert "--max-seq-length 32 would admit some, 52 all" in str(caught.value)
    assert len(loaded(path, tokenizer(), max_seq_length=52, valid_share=0.0).train) == 2


def test_rows_without_a_token_that_carries_loss_are_refused_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [chat("q", "a"), chat("q")])
    made = loaded(path, tokenizer(CHATML))
    assert [tuple(each) for each in made.refused] == [("a.jsonl:2", "no token of it carries loss")]
    with pytest.raises(BadData, match="at least one row that can be trained on"):
        loaded(write(tmp_path / "b.jsonl", [chat("q")]), tokenizer(CHATML))


def test_validation_is_a_real_split_and_never_a_copy_of_training(tmp_path: Path) -> None:
    """mlx-tune: validation is a copy of train when none is given."""
    made = loaded(write(tmp_path / "a.jsonl", TEXTS), tokenizer())
    train, valid = {row.source for row in made.train}, {row.source for row in made.valid}
    assert (len(train), len(valid), len(train & valid)) == (95, 5, 0)
    assert "No validation file: 5 of 100 rows (5%), drawn with seed 0, are held out for validation." in made.notes


def test_the_split_is_a_function_of_the_seed_alone(tmp_path: Path) -> None:
    settings = DataSettings(path=str(write(tmp_path / "a.jsonl", TEXTS)))
    once, again, other = (load(settings, tokenizer(), seed=seed) for seed in (3, 3, 4))
    assert [row.source for row in once.valid] == [row.source for row in again.valid]
    assert [row.source for row in once.valid] != [row.source for row in other.valid]


@pytest.mark.parametrize(("rows", "n_held"), [(1, 0), (2, 1), (3, 1), (29, 1), (30, 2)])
def test_at_least_one_row_is_held_out_and_at_least_one_trains(rows: int, n_held: int) -> None:
    is_held = held(rows, share=0.05, seed=0)
    assert (len(is_held), int(is_held.sum())) == (rows, n_held)


def test_a_single_row_has_no_validation_and_the_notes_say_so(tmp_path: Path) -> None:
    made = loaded(write(tmp_path / "a.jsonl", TEXTS[:1]), tokenizer())
    assert len(made.valid) == 0
    assert "No validation: there is no validation file, and a single row cannot be split." in made.notes


def test_validation_rows_of_their_own_are_used_and_leave_no_share_to_set(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", TEXTS)
    write(tmp_path / "valid.jsonl", TEXTS[:3])
    made = loaded(tmp_path, tokenizer())
    assert (len(made.train), len(made.valid)) == (100, 3)
    with pytest.raises(BadSetting, match="as the data has validation rows of its own"):
        loaded(tmp_path, tokenizer(), valid_share=0.1)


def test_the_notes_say_that_rejected_answers_are_not_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}])
    assert (
        "1 row of preferences: the chosen answer is trained, the rejected one is not used."
        in loaded(path, tokenizer()).notes
    )


@pytest.mark.parametrize(
    "wrong",
    [{"max_seq_length": 1}, {"max_seq_length": "512"}, {"loss_on": "most"}, {"valid_share": 1.0}, {"pack": True}],
)
def test_settings_without_effect_are_refused(wrong: dict[str, Any]) -> None:
    """mlx-tune: accepts warmup, accumulation, packing, and does nothing."""
    with pytest.raises((ValidationError, TypeError)):
        DataSettings(**wrong)


def test_the_fingerprint_changes_with_tokens_masks_and_split_and_with_nothing_else(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    rows = [chat("q", "a", "q", "b"), chat("q", "c")]
    base = loaded(write(tmp_path / "a.jsonl", rows), made, valid_share=0.0)
    same = loaded(write(tmp_path / "elsewhere" / "b.jsonl", rows), made, valid_share=0.0)
    others = [
        loaded(tmp_path / "a.jsonl", made),  # the split
        loaded(tmp_path / "a.jsonl", made, valid_share=0.0, loss_on="last"),  # the mask
        loaded(write(tmp_path / "c.jsonl", rows[::-1]), made, valid_share=0.0),  # the order of the rows
    ]
    assert fingerprint(base) == fingerprint(same)
    assert len({fingerprint(each) for each in (base, *others)}) == 4
