"""Begin and end tokens are there once, and every answer learns to stop, or it is said that it does not."""

from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import special
from mlxtune.data.dataset import Dataset
from mlxtune.data.tokens import prompt_tokens
from mlxtune.errors import BadSetting
from mlxtune.recipe.recipe import build
from tests.support.data import chat, loaded, only, spans, write
from tests.support.tokenizer_kinds import tokenizer_of_kind
from tests.support.tokenizers import CHATML, MARKED, tokenizer

ENDLESS = "THE MODEL DOES NOT LEARN TO STOP"
BARE = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
AT_THE_END = BARE.replace("{% if add", "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}{% if add")
OUTSIDE = MARKED.replace("message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n'", "message['content'] }}"
                         "{% endgeneration %}{{ '<|im_end|>\n'")  # fmt: skip
TWO_TURNS = chat("q1", "a1", "q2", "a2")


def dataset(folder: Path, row: Any, made: Any, **settings: Any) -> Dataset:
    return loaded(write(folder / "train.jsonl", [row]), made, valid_share=0.0, **settings)


def warnings(made: Dataset) -> list[str]:
    return [note for note in made.notes if ENDLESS in note]


# every answer learns to stop


@pytest.mark.parametrize(
    ("template", "eos", "words"),
    [
        (BARE, "</s>", "None of 2 answers ends"),
        (AT_THE_END, "</s>", "Of 2 answers only 1 ends"),
        (OUTSIDE, "</s>", "None of 2 answers ends"),
        (BARE, None, "None of 2 answers ends"),
    ],
)
def test_a_template_that_does_not_end_every_answer_is_told_with_the_remedy(
    template: str, eos: str | None, words: str, tmp_path: Path
) -> None:
    [said] = warnings(dataset(tmp_path, TWO_TURNS, tokenizer(template, eos=eos)))
    assert words in said
    assert "--end-of-turn" in said


@pytest.mark.parametrize("template", [BARE, AT_THE_END, OUTSIDE])
def test_end_of_turn_ends_every_answer_once_and_with_loss(template: str, tmp_path: Path) -> None:
    made = tokenizer(template)
    found = dataset(tmp_path, TWO_TURNS, made, end_of_turn="<|im_end|>")
    assert warnings(found) == []
    assert spans(found.train[0], made) == ["a1<|im_end|>", "a2<|im_end|>"]
    assert made.decode(found.train[0].tokens.tolist()).count("<|im_end|>") == (4 if template == OUTSIDE else 2)


def test_end_of_turn_adds_nothing_where_the_template_writes_it(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    without = only(tmp_path, TWO_TURNS, made)
    assert only(tmp_path, TWO_TURNS, made, end_of_turn="<|im_end|>").tokens.tolist() == without.tokens.tolist()


def test_end_of_turn_may_be_a_text_of_several_tokens(tmp_path: Path) -> None:
    made = tokenizer(BARE)
    found = dataset(tmp_path, TWO_TURNS, made, end_of_turn="[END]")
    assert warnings(found) == []
    assert spans(found.train[0], made) == ["a1[END]", "a2[END]"]
    assert any("Answers end in the text `[END]`, which is several tokens here" in note for note in found.notes)
    plain = only(tmp_path, {"prompt": "q", "completion": "a"}, tokenizer(), end_of_turn="[END]")
    assert spans(plain, made) == ["a[END]"]


def test_end_of_turn_none_adds_nothing_and_says_nothing(tmp_path: Path) -> None:
    made = tokenizer(BARE)
    found = dataset(tmp_path, TWO_TURNS, made, end_of_turn="none")
    assert warnings(found) == []
    assert found.train[0].tokens.tolist() == only(tmp_path, TWO_TURNS, made).tokens.tolist()


def test_an_empty_end_of_turn_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"data\.end_of_turn"):
        build({}, {"data.end_of_turn": ""})


def test_text_without_an_end_is_told(tmp_path: Path) -> None:
    made = tokenizer(eos=None)
    [said] = warnings(dataset(tmp_path, {"text": "abc"}, made))
    assert "The text does not end" in said
    assert warnings(dataset(tmp_path, {"text": "abc"}, made, end_of_turn="</s>")) == []
    assert warnings(dataset(tmp_path, {"text": "abc"}, tokenizer())) == []


def test_the_end_that_a_template_writes_only_at_the_very_end_carries_loss(tmp_path: Path) -> None:
    made = tokenizer(AT_THE_END)
    found = dataset(tmp_path, chat("q", "a"), made)
    assert [text.replace("\n", "") for text in spans(found.train[0], made)] == ["a</s>"]
    assert warnings(found) == []


def test_what_a_model_stops_at_by_its_files_ends_an_answer(tmp_path: Path) -> None:
    made = tokenizer(BARE, eos=None)
    row = chat("q", "a<|eot_id|>")
    path = write(tmp_path / "train.jsonl", [row])
    assert warnings(loaded(path, made))
    from mlxtune.data.load import load
    from mlxtune.data.settings import DataSettings

    stops = {made.convert_tokens_to_ids("<|eot_id|>")}
    assert warnings(load(DataSettings(path=str(path)), made, seed=0, stops=stops)) == []


# each is there once


@pytest.mark.parametrize(
    "row",
    [
        {"text": "<s>abc</s>"},
        {"text": "<s>abc</s>\n"},
        {"text": "\n<s>abc</s> \n\n"},
        {"text": "abc</s>"},
        {"prompt": "<s>a", "completion": "bc</s>"},
        {"prompt": "a", "completion": "bc</s>\n"},
    ],
)
@pytest.mark.parametrize("after", ["", "</s>"])
def test_begin_and_end_are_written_once(row: dict[str, str], after: str, tmp_path: Path) -> None:
    made = tokenizer_of_kind("byte-level", None, after)
    plain = {"text": "abc"} if "text" in row else {"prompt": "a", "completion": "bc"}
    wanted = only(tmp_path, plain, made)
    found = only(tmp_path, row, made)
    assert found.tokens.tolist() == wanted.tokens.tolist()
    assert found.supervised.tolist() == wanted.supervised.tolist()
    assert found.tokens.tolist().count(made.eos_token_id) == found.tokens.tolist().count(made.bos_token_id) == 1


def test_text_that_ends_in_a_turns_end_gets_no_end_of_text(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    text = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
    assert made.decode(only(tmp_path, {"text": text}, made).tokens.tolist()) == "<s>" + text.strip()


@pytest.mark.parametrize("end", ["</s>", "<|im_end|>", "<|im_end|>\n"])
def test_an_answer_that_has_its_end_is_ended_once_by_the_template(end: str, tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    wanted = only(tmp_path, {"prompt": "q", "completion": "a"}, made).tokens.tolist()
    assert only(tmp_path, {"prompt": "q", "completion": f"a{end}"}, made).tokens.tolist() == wanted
    assert only(tmp_path, chat("q", f"a{end}"), made).tokens.tolist() == wanted


def test_a_prompt_that_is_rendered_already_is_not_rendered_again(tmp_path: Path) -> None:
    made = tokenizer("{{ bos_token }}" + CHATML)
    prompt = made.apply_chat_template(chat("q")["messages"], tokenize=False, add_generation_prompt=True)
    found = only(tmp_path, {"prompt": prompt, "completion": "a<|im_end|>\n"}, made)
    assert found.tokens.tolist() == only(tmp_path, {"prompt": "q", "completion": "a"}, made).tokens.tolist()[:-1]
    assert prompt_tokens(prompt, made, special.read(made)) == found.tokens.tolist()[:-2]


def test_what_a_tokenizer_adds_behind_a_text_is_not_behind_a_prompt() -> None:
    made = tokenizer_of_kind("byte-level", None, "</s>")
    assert made("abc")["input_ids"][-1] == made.eos_token_id
    assert prompt_tokens("abc", made, special.read(made)) == made("abc")["input_ids"][:-1]


# text comes back from its tokens


def test_a_tokenizer_that_loses_characters_is_told_with_the_first_row(tmp_path: Path) -> None:
    made = tokenizer_of_kind("SentencePiece, no bytes")
    found = dataset(tmp_path, {"text": "so Ж it"}, made)
    assert any("The tokenizer does not give back the text" in note and "train.jsonl:1" in note for note in found.notes)
    assert not any("give back" in note for note in dataset(tmp_path, {"text": "so it"}, made).notes)
