from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtune.data.faults import BadRow
from mlxtune.data.tokens import Marked, Tokens, encode
from mlxtune.data.turns import Span
from mlxtune.errors import BadData, BadSetting
from tests.support.assets import assets_folder
from tests.support.data import chat, loaded, only, spans, write
from tests.support.tokenizers import CHATML, shared_template, tokenizer

NEWLINES = (("Ċ", "Ċ"),)  # a tokenizer that merges two line ends, as most do
OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def one(text: Marked, made: Any) -> Tokens:
    [encoded] = encode([text], made)
    assert isinstance(encoded, Tokens)
    return encoded


def real(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets_folder() / name)


def test_text_carries_loss_everywhere_but_on_its_first_token(tmp_path: Path) -> None:
    made = tokenizer()
    row = only(tmp_path, {"text": "abc"}, made)
    assert made.decode(row.tokens.tolist()) == "<s>abc</s>"
    assert row.supervised.tolist() == [False, True, True, True, True]


def test_the_end_of_text_is_written_once(tmp_path: Path) -> None:
    made = tokenizer()
    assert (
        only(tmp_path, {"text": "abc</s>"}, made).tokens.tolist()
        == only(tmp_path, {"text": "abc"}, made).tokens.tolist()
    )


def test_of_a_prompt_and_its_completion_the_completion_is_trained(tmp_path: Path) -> None:
    made = tokenizer()
    row = only(tmp_path, {"prompt": "ab", "completion": "cd"}, made)
    assert made.decode(row.tokens.tolist()) == "<s>abcd</s>"
    assert spans(row, made) == ["cd</s>"]
    assert spans(only(tmp_path, {"prompt": "ab", "completion": "cd"}, made, loss_on="all"), made) == ["abcd</s>"]


def test_with_a_chat_template_a_prompt_and_its_completion_are_two_turns(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    row = only(tmp_path, {"prompt": "ab", "completion": "cd"}, made)
    assert made.decode(row.tokens.tolist()) == made.apply_chat_template(chat("ab", "cd")["messages"], tokenize=False)
    assert spans(row, made) == ["cd<|im_end|>"]


def test_a_template_that_writes_the_first_token_gets_no_second_one(tmp_path: Path) -> None:
    made = tokenizer("{{ bos_token }}" + CHATML)
    assert only(tmp_path, chat("q", "a"), made).tokens.tolist().count(made.bos_token_id) == 1


def test_a_token_across_the_edge_of_a_turn_is_cut_there_as_in_generation(tmp_path: Path) -> None:
    made = tokenizer(CHATML, merges=NEWLINES)
    assert len(made("\n\n", add_special_tokens=False)["input_ids"]) == 1
    row = only(tmp_path, chat("q", "\na"), made)
    assert spans(row, made) == ["\na<|im_end|>"]
    prompt = made.apply_chat_template(chat("q")["messages"], add_generation_prompt=True)["input_ids"]
    assert row.tokens.tolist()[: len(prompt)] == prompt
    assert not row.supervised[: len(prompt)].any()


def test_a_prompt_that_merges_with_its_completion_is_cut_there(tmp_path: Path) -> None:
    made = tokenizer(merges=NEWLINES)
    row = only(tmp_path, {"prompt": "q\n", "completion": "\na"}, made)
    assert made.decode(row.tokens.tolist()) == "<s>q\n\na</s>"
    assert spans(row, made) == ["\na</s>"]


@OFTEN
@given(texts=st.lists(st.text(st.sampled_from("a é😀\n"), min_size=1, max_size=6), min_size=2, max_size=6))
def test_what_is_trained_decodes_to_exactly_the_marked_characters(texts: list[str]) -> None:
    made = tokenizer(merges=(*NEWLINES, ("a", "Ċ"), ("Ġ", "a")))
    text, marks, at = "<|user|>", [], 8
    for place, part in enumerate(texts):
        text, at = text + part, at + len(part)
        marks += [Span(at - len(part), at)] if place % 2 else []
    encoded = one(Marked(text, tuple(marks), plain=False), made)
    assert made.decode(encoded.tokens[encoded.supervised].tolist()) == "".join(texts[1::2])
    assert made.decode(encoded.tokens.tolist()) == text


def test_a_tokenizer_that_cannot_be_cut_at_a_turn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tokenizer(merges=(("q", "a"),))
    monkeypatch.setattr(type(made), "decode", lambda _, ids, **__: str(ids))
    [refused] = encode([Marked("qa", (Span(1, 2),), plain=False)], made)
    assert isinstance(refused, BadRow)
    assert "expected a tokenizer that can tell the turns apart" in f"expected {refused.expected}"


def test_special_tokens_that_swallow_blanks_belong_to_the_side_they_begin_on() -> None:
    """As <|end|> of Phi-3 does, which takes the line end after it."""
    from tokenizers import AddedToken

    made = tokenizer()
    made.backend_tokenizer.add_special_tokens([AddedToken("<|stop|>", special=True, rstrip=True)])
    text = "q<|stop|>\na<|stop|>\nq"
    encoded = one(Marked(text, (Span(text.index("\na") + 1, text.rindex("\n")),), plain=False), made)
    assert made.decode(encoded.tokens[encoded.supervised].tolist()) == "a<|stop|>"


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("tokenizers/llama3.1", "llama3"),
        ("tokenizers/llama3.1", "zephyr"),
        ("tokenizers/minimind", "qwen2_5"),
        ("tokenizers/minimind", "zephyr"),
    ],
)
@pytest.mark.few(2)
def test_real_tokenizers_agree_with_the_template_and_train_the_contents(name: str, template: str) -> None:
    made = real(name)
    made.chat_template = shared_template(template)
    end = {"qwen2_5": "<|im_end|>", "llama3": "<|eot_id|>", "zephyr": made.eos_token}[template]
    row = chat("Grüße 😀?", "Ja,  gut.\n\n1. 東京 🗼", "And\n", "fi ﬁ e\u0301")
    text = made.apply_chat_template(row["messages"], tokenize=False)
    contents = [message["content"] for message in row["messages"]][1::2]
    marks = [Span(text.index(content), text.index(content) + len(content + end)) for content in contents]
    encoded = one(Marked(text, tuple(marks), plain=False), made)
    assert encoded.tokens.tolist() == made.apply_chat_template(row["messages"])["input_ids"]
    assert made.decode(encoded.tokens[encoded.supervised].tolist()) == end.join(contents) + end


@pytest.mark.parametrize(
    ("prompt", "trained"),
    [("Once upon", "a time there was"), ("Once upon ", "a time there was"), ("Once up", "on a time there was")],
)
def test_what_follows_a_prompt_is_encoded_as_what_follows_it(prompt: str, trained: str) -> None:
    """As SentencePiece has it: a word with the blank before it, unless the prompt has the blank, or half the word."""
    made = real("models/stories260K")
    text = "Once upon a time there was"
    encoded = one(Marked(text, (Span(len(prompt), len(text)),), plain=True), made)
    asked = made(prompt)["input_ids"]
    assert encoded.tokens[: len(asked)].tolist() == asked
    assert made.decode(encoded.tokens.tolist(), skip_special_tokens=True) == text
    assert made.decode(encoded.tokens[encoded.supervised].tolist()) == f"{trained}</s>"


def test_a_long_document_is_cut_into_windows_that_predict_every_token_once(tmp_path: Path) -> None:
    made, path = tokenizer(), tmp_path / "a.txt"
    text = "".join(f"line {number}\n" for number in range(30))
    path.write_text(text)
    rows = loaded(path, made, max_seq_length=16, valid_share=0.0).train
    whole = [made.bos_token_id, *made(text, add_special_tokens=False)["input_ids"], made.eos_token_id]
    assert np.concatenate([row.tokens[row.supervised] for row in rows]).tolist() == whole[1:]
    assert all(len(row.tokens) == 16 for row in rows[:-1])
    assert [row.source for row in rows[:3]] == ["a.txt:1", "a.txt:3", "a.txt:5"]


def test_text_rows_have_no_turns_to_choose(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"text": "x"}])
    with pytest.raises(BadSetting, match="expected auto or all where rows are text, which has no turns, found last"):
        loaded(path, tokenizer(), loss_on="last")


def test_chats_need_a_tokenizer_with_a_chat_template(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"text": "x"}, chat("q", "a")])
    with pytest.raises(BadData, match="expected a tokenizer with a chat template") as caught:
        loaded(path, tokenizer())
    assert caught.value.where == f"{path}:2"
