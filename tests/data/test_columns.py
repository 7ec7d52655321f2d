"""Rows whose columns have other names: as the user names them."""

from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.columns import parsed
from mlxtune.data.examples import Completion
from mlxtune.data.load import Reader, load_for_eval
from mlxtune.data.renaming import NAMES
from mlxtune.data.settings import DataSettings
from mlxtune.errors import MlxtuneError
from mlxtune.recipe.recipe import as_yaml, build
from mlxtune.recipe.recipe import read as read_recipe
from tests.support.data import chat, loaded, read, write
from tests.support.tokenizers import CHATML, tokenizer


def examples(folder: Path, rows: list[Any], columns: Any, **settings: Any) -> list[Any]:
    path = write(folder / "a.jsonl", rows)
    return [row.example for row in read(DataSettings(path=str(path), columns=columns, **settings)).splits["train"]]


def told(folder: Path, rows: list[Any], columns: Any, **settings: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        examples(folder, rows, columns, **settings)
    return str(caught.value)


def unfit(columns: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        build({}, {"data.columns": columns})
    return str(caught.value)


def test_columns_of_other_names_are_read_as_they_are_named(tmp_path: Path) -> None:
    rows = [{"q": "Who?", "reply": {"text": "I.", "by": {"name": "Ann"}}, "a.b": "S"}]
    for columns in ("prompt=q,completion=reply.text", {"prompt": "q", "completion": "reply.text"}):
        assert examples(tmp_path, rows, columns) == [Completion("Who?", "I.", "Who?")]
    [named] = examples(tmp_path, rows, "prompt=q, completion = reply.by.name, system=a.b")
    assert (named.completion, named.system[0]["content"]) == ("Ann", "S")


def test_named_columns_train_as_rows_with_the_names_themselves_do(tmp_path: Path) -> None:
    right = write(tmp_path / "right.jsonl", [{"prompt": "p" * n, "completion": "c"} for n in range(1, 9)])
    other = write(tmp_path / "other.jsonl", [{"ask": "p" * n, "say": "c"} for n in range(1, 9)])
    made = [loaded(right, tokenizer(CHATML)), loaded(other, tokenizer(CHATML), columns="prompt=ask,completion=say")]
    of_each = [[(row.tokens.tolist(), row.supervised.tolist()) for row in each.train] for each in made]
    assert of_each[0] == of_each[1]


def test_a_text_that_begins_with_an_equals_sign_is_the_same_in_all_rows(tmp_path: Path) -> None:
    columns = "instruction==Translate this, please: a=b.,input=en,output=de"
    found = examples(tmp_path, [{"en": "cat", "de": "Katze"}, {"en": "dog", "de": "Hund"}], columns)
    assert [each.prompt for each in found] == [f"Translate this, please: a=b.\n{word}" for word in ("cat", "dog")]


def test_two_columns_may_change_places_and_what_is_displaced_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "q"}]
    assert examples(tmp_path, rows, "prompt=completion,completion=prompt")[0].prompt == "q"
    path = write(tmp_path / "b.jsonl", [{"prompt": "old words", "question": "q", "completion": "a"}])
    said = loaded(path, tokenizer(), columns="prompt=question").notes
    assert any(note.startswith("Not read in the rows: `prompt` (1 row") for note in said)
    path = write(tmp_path / "c.jsonl", [{"reply": {"text": "a", "score": 1}, "prompt": "q"}])
    assert not any("Not read" in note for note in loaded(path, tokenizer(), columns="completion=reply.text").notes)


def test_a_rows_form_is_one_that_reads_what_was_named(tmp_path: Path) -> None:
    row = {**chat("other", "words"), "q": "q", "a": "a"}
    assert examples(tmp_path, [row], "prompt=q,completion=a") == [Completion("q", "a", "q")]
    assert "expected a row of a form that reads prompt, found one of the form messages." in told(
        tmp_path, [row], "prompt=q"
    )
    assert "expected a row of a known form" in told(tmp_path, [{"q": "q"}], "prompt=q")


def test_both_answers_of_a_pair_may_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "q", "good": "a", "bad": "b"}])
    settings = DataSettings(path=str(path), columns={"prompt": "q", "chosen": "good", "rejected": "bad"})
    [row] = read(settings, pairs=True).splits["train"]
    assert (row.example, row.rejected) == (Completion("q", "a", "q"), Completion("q", "b", "q"))


def test_a_column_that_no_row_has_is_refused_with_those_that_are_there(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": {"text": "a"}}]
    for skip in (False, True):
        said = told(tmp_path, rows, "prompt=qestion,completion=answer.text", skip_bad_rows=skip)
        assert said.startswith("data.columns: expected columns that rows have, found `qestion`, which none has.")
        assert "There are: `question`, `answer.text`." in said
    (tmp_path / "a.txt").write_text("Only text.")
    with pytest.raises(MlxtuneError, match="expected rows that have columns, found plain text alone"):
        read(DataSettings(path=str(tmp_path / "a.txt"), columns={"prompt": "q"}))


def test_a_row_that_lacks_a_column_that_others_have_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"q": "q", "a": "a"}, {"q": "q", "b": "a"}, {"q": "q", "a": "c"}]
    said = told(tmp_path, rows, "prompt=q,completion=a")
    assert "a.jsonl:2: expected the column `a`, found the columns `q`, `b`." in said
    assert "--skip-bad-rows" in said
    assert len(examples(tmp_path, rows, "prompt=q,completion=a", skip_bad_rows=True)) == 2


def test_what_is_wrong_with_a_file_is_told_before_what_its_rows_lack(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("nonsense\n")
    with pytest.raises(MlxtuneError, match="expected a JSON object"):
        read(DataSettings(path=str(tmp_path / "a.jsonl"), columns={"prompt": "q"}))


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ("", "expected NAME=COLUMN, or NAME==TEXT, each time"),
        ("prompt", "expected NAME=COLUMN, or NAME==TEXT, each time, found `prompt` without a column."),
        ("prompt=", "`prompt` without a column"),
        ("prompt==", "`prompt` without a column"),
        ("prompt=a,prompt=b", "expected each name once, found `prompt` twice."),
        ("promt=a", "expected names that rows are read by, found `promt`."),
        ("text=a,prompt=b", "expected names that one form of rows has together, found text, prompt."),
        ({}, "expected NAME=COLUMN at least once, found nothing."),
        ({"prompt": 3}, "expected a text, found 3"),
        (["prompt"], "expected a mapping, found ['prompt']"),
    ],
)
def test_columns_that_could_make_no_row_are_refused(columns: Any, said: str) -> None:
    assert unfit(columns).startswith("data.columns: ")
    assert said in unfit(columns)


def test_every_name_that_a_form_reads_can_be_given_a_column() -> None:
    assert {"messages", "prompt", "completion", "chosen", "rejected", "text", "system", "tools", "history"} <= {*NAMES}
    for name in NAMES:
        assert build({}, {"data.columns": f"{name}=x"}).data.columns == {name: "x"}
    assert parsed("a=b,c,d=e") == {"a": "b,c", "d": "e"}


def test_a_recipe_keeps_the_columns(tmp_path: Path) -> None:
    recipe = build({}, {"data.columns": {"prompt": "q", "completion": "=Yes: no, a=b"}})
    (tmp_path / "recipe.yaml").write_text(as_yaml(recipe))
    assert build(read_recipe(tmp_path / "recipe.yaml"), {}) == recipe


def test_rows_to_measure_may_have_other_names_too(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"q": "q", "a": "a"}])
    settings = DataSettings(path=str(path), columns={"prompt": "q", "completion": "a"})
    assert len(load_for_eval(settings, Reader(tokenizer())).valid) == 1


# spellings that are known


@pytest.mark.parametrize(
    ("row", "form"),
    [
        ({"question": "q", "answer": "a"}, "prompt/completion"),
        ({"query": "q", "response": "a", "id": 1}, "prompt/completion"),
        ({"input": "q", "output": "a", "instruction": None}, "prompt/completion"),
        ({"prompt": "q", "response": "a", "completion": None}, "prompt/completion"),
        ({"problem": "q", "solution": "a", "answer": "7"}, "prompt/completion"),
        *[({name: chat("q", "a")["messages"]}, "messages") for name in ("conversation", "dialogue", "dialog", "chat")],
    ],
)
def test_known_spellings_are_read_as_the_forms_names_and_said(row: dict[str, Any], form: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [row] * 3)
    [known, *_] = read(DataSettings(path=str(path))).splits["train"]
    assert known.form == form
    old, new = (", ".join(names) for names in zip(*known.renamed, strict=True))
    for dataset in (
        loaded(path, tokenizer(CHATML)),
        load_for_eval(DataSettings(path=str(path)), Reader(tokenizer(CHATML))),
    ):
        assert f"{old} {'are' if ',' in old else 'is'} read as {new} (3 rows)." in dataset.notes
    [named] = examples(tmp_path, [row], {new: old for old, new in known.renamed})
    assert named == known.example


@pytest.mark.parametrize(
    "row",
    [
        {"question": "q", "answer": "a", "query": "r", "response": "b"},
        {"prompt": "p", "response": "r", "question": "q", "answer": "a"},
        {"prompt": "p", "question": "q", "answer": "a"},
        {"instruction": "i", "question": "q", "answer": "a"},
        {"dialog": chat("q", "a")["messages"], "chat": chat("r", "b")["messages"]},
        {"dialog": chat("q", "a")["messages"], "question": "q", "answer": "a"},
        {"question": "q", "answer": 7},
        {"question": "q", "answer": None},
        {"dialog": ["q", "a"]},
        {"chat": "q"},
    ],
)
def test_what_cannot_be_told_stays_refused(row: dict[str, Any], tmp_path: Path) -> None:
    said = told(tmp_path, [row], None)
    assert "expected a row of a known form" in said
    assert "--columns" in said or not any(isinstance(value, str) for value in row.values())


def test_a_form_that_a_row_has_by_its_own_names_comes_before_other_spellings(tmp_path: Path) -> None:
    rows = [
        {"text": "t", "question": "q", "answer": "a"},
        {**chat("q", "a"), "prompt": "p", "response": "r"},
        {"instruction": "i", "input": "q", "output": "a"},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    found = read(DataSettings(path=str(path))).splits["train"]
    assert [row.form for row in found] == ["text", "messages", "instruction/output"]
    assert not any(row.renamed for row in found)


def test_columns_and_a_known_spelling_go_together(tmp_path: Path) -> None:
    [made] = examples(tmp_path, [{"question": "q", "answer": "a", "rule": "s"}], "system=rule")
    assert (made.prompt, made.completion, made.system[0]["content"]) == ("q", "a", "s")
