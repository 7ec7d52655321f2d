"""The system message of `--system`."""

from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.load import Reader, load, load_for_eval
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.recipe.recipe import build
from tests.support.data import chat, loaded, spans, write
from tests.support.tokenizers import CHATML, tokenizer

MESSAGE = "Be brief."
PLAIN = [{"prompt": "q", "completion": "a"}, {"instruction": "q", "output": "a"}, chat("q", "a", "r", "b")]


def with_system(row: dict[str, Any]) -> dict[str, Any]:
    if "messages" in row:
        return {"messages": [{"role": "system", "content": MESSAGE}, *row["messages"]]}
    return {"system": MESSAGE, **row}


def rows_of(path: Path, made: Any, **settings: Any) -> list[Any]:
    return [
        (row.tokens.tolist(), row.supervised.tolist()) for row in loaded(path, made, valid_share=0.0, **settings).train
    ]


def test_it_makes_the_rows_that_the_same_message_in_each_would_make(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    without = write(tmp_path / "without.jsonl", PLAIN)
    written = write(tmp_path / "with.jsonl", map(with_system, PLAIN))
    assert rows_of(without, made, system=MESSAGE) == rows_of(written, made) != rows_of(without, made)


def test_a_row_with_a_system_message_of_its_own_keeps_it_and_text_stays_text(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    own = [chat("q", "a", system="Speak."), {"prompt": "q", "completion": "a", "system": "Speak."}, {"text": "t"}]
    path = write(tmp_path / "a.jsonl", [*own, PLAIN[0]])
    assert rows_of(path, made, system=MESSAGE)[:3] == rows_of(path, made)[:3]
    assert rows_of(path, made, system=MESSAGE)[3] != rows_of(path, made)[3]


def test_marks_on_turns_stay_on_their_turns(tmp_path: Path) -> None:
    row = chat("q", "a", "r", "b")
    row["messages"][1]["weight"] = 0
    path = write(tmp_path / "a.jsonl", [row])
    [made] = loaded(path, tokenizer(CHATML), system=MESSAGE).train
    assert spans(made, tokenizer(CHATML)) == ["b<|im_end|>"]


def test_both_answers_of_a_pair_have_it(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    found = []
    for name, row, system in (("a", pair, MESSAGE), ("b", {**pair, "system": MESSAGE}, None)):
        settings = DataSettings(path=str(write(tmp_path / f"{name}.jsonl", [row])), system=system)
        found.append([each.tokens.tolist() for each in load(settings, made, seed=0, pairs=True).train])
    assert found[0] == found[1]
    assert len(found[0]) == 2


def test_it_stands_in_validation_rows_and_in_those_that_are_measured(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    for name in ("train", "valid"):
        write(tmp_path / f"{name}.jsonl", PLAIN[:1])
    whole = loaded(tmp_path, made, system=MESSAGE)
    measured = load_for_eval(DataSettings(path=str(tmp_path), system=MESSAGE), Reader(made)).valid
    assert [row.tokens.tolist() for row in (*whole.valid, *measured)] == [whole.train[0].tokens.tolist()] * 2


@pytest.mark.parametrize("row", [{"text": "t"}, chat("q", "a", system="Speak.")])
def test_it_is_refused_where_it_would_stand_in_no_row(row: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row, row])
    with pytest.raises(BadSetting, match="without a system message, found none among the rows"):
        loaded(path, tokenizer(CHATML), system=MESSAGE)


def test_it_is_refused_for_a_document_and_for_a_tokenizer_without_a_chat_template(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Only text.")
    with pytest.raises(BadSetting, match="found none among the rows"):
        loaded(tmp_path / "a.txt", tokenizer(CHATML), system=MESSAGE)
    with pytest.raises(BadSetting, match="found a tokenizer without a chat template"):
        loaded(write(tmp_path / "a.jsonl", PLAIN[:2]), tokenizer(), system=MESSAGE)


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_message_without_words_is_refused(blank: str) -> None:
    with pytest.raises(MlxtuneError, match=r"data\.system: expected a text with words"):
        build({}, {"data.system": blank})
