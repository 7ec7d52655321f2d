"""A prompt may end anywhere: a row begins with the tokens that generation is given for its prompt, whatever the kind of
tokenizer, and all its tokens read as the text."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtune.data import special
from mlxtune.data.encoding import decoded, encode, same
from mlxtune.data.examples import Chat
from mlxtune.data.faults import BadRow
from mlxtune.data.settings import DataSettings
from mlxtune.data.template import prompt_text
from mlxtune.data.tokens import Marked, Tokens, marked, prompt_tokens
from mlxtune.data.tokens import encode as encode_marked
from mlxtune.data.turns import Span
from tests.support.assets import assets_folder
from tests.support.data import chat, only, spans
from tests.support.tokenizer_kinds import KINDS, SENTENCES, tokenizer_of_kind
from tests.support.tokenizers import CHATML, shared_template

REAL = ("models/stories260K", "tokenizers/minimind", "tokenizers/llama3.1")
OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = (
    " ", "  ", "\n", "\n\n", "\t", "a", "x", "Hel", "lo", "upon", " the", "12", "345", "'", "'s", ".", ",", "_", "▁",
    "é", "e\u0301", "\u0301", "ﬁ", "😀", "👨\u200d👩\u200d👧", "東京", "は", "你好", "</s>", "<s>",
    "<|im_end|>", "<|im_",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=6).map("".join)
ONCE = "Once upon a time there was a little dog, and upon the hill stood a house."


@cache
def made_of(kind: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(assets_folder() / kind) if kind in REAL else tokenizer_of_kind(kind)


def check(made: Any, prompt: str, completion: str) -> None:
    """The oracle: the prompt's tokens, then others, all with loss, and all of it reads as the text."""
    around = special.read(made)
    prompt = around.begun(prompt)
    text = prompt + completion
    [row] = encode_marked([Marked(text, (Span(len(prompt), len(text)),), plain=True)], made, around)
    [whole] = encode([text], made)
    if isinstance(row, BadRow):  # only what does not come back from its tokens anyway
        assert made.unk_token_id in np.concatenate([each.tokens for each in encode([text, prompt, completion], made)])
        return
    asked = prompt_tokens(prompt, made, around)
    assert row.tokens[: len(asked)].tolist() == asked
    first = max(len(asked), 1)
    assert row.supervised.tolist() == [False] * first + [True] * (len(row.tokens) - first)
    ended = whole.tokens[-1:].tolist() == [made.eos_token_id]
    own = row.tokens[len(around.missing(whole.tokens)) : None if ended else -1]
    assert any(same(decoded(own, made), wanted) for wanted in (decoded(whole.tokens, made), text))


@pytest.mark.parametrize("kind", [*KINDS, *REAL])
@OFTEN
@given(prompt=TEXTS, completion=TEXTS.filter(str.strip))  # a blank answer is refused before it is encoded
@pytest.mark.few(2)
def test_a_row_begins_with_the_tokens_that_generation_is_given(kind: str, prompt: str, completion: str) -> None:
    check(made_of(kind), prompt, completion)


@pytest.mark.parametrize("kind", [*KINDS, *REAL])
@pytest.mark.parametrize("text", SENTENCES)
@pytest.mark.few(2)
def test_a_prompt_may_end_at_every_character(kind: str, text: str) -> None:
    made = made_of(kind)
    for place in range(len(text)):
        check(made, text[:place], text[place:])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "no bytes" not in kind and kind != "WordPiece"])
@pytest.mark.parametrize("text", [ONCE, "東京は日本の首都です。", "北京是中国的首都。"])
def test_no_row_is_refused_where_text_comes_back_from_its_tokens(kind: str, text: str) -> None:
    made = made_of(kind)
    rows = [Marked(text, (Span(place, len(text)),), plain=True) for place in range(len(text))]
    assert all(isinstance(row, Tokens) for row in encode_marked(rows, made))


def test_what_goes_on_within_a_word_is_encoded_as_such() -> None:
    made = made_of("WordPiece")
    text = "Once upon a time"
    [row] = encode_marked([Marked(text, (Span(len("Once up"), len(text)),), plain=True)], made)
    assert isinstance(row, Tokens)
    assert made.decode(row.tokens.tolist(), skip_special_tokens=True) == text


@pytest.mark.parametrize(
    "kind", ["SentencePiece, Llama's", "SentencePiece, a blank in front of the first word", "Unigram"]
)
def test_a_chat_whose_turns_begin_inside_a_word_is_encoded_as_in_generation(kind: str, tmp_path: Path) -> None:
    made = tokenizer_of_kind(kind, "{% for m in messages %}{{ m.role + ': ' + m.content + '</s>' }}{% endfor %}"
                                   "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    row = only(tmp_path, chat("upon a time?", "upon the hill", "a dog?", "a house"), made)
    asked = made.apply_chat_template(chat("upon a time?")["messages"], add_generation_prompt=True)["input_ids"]
    assert row.tokens[: len(asked)].tolist() == asked
    assert not row.supervised[: len(asked)].any()
    assert [text.strip() for text in spans(row, made)] == ["upon the hill</s>", "a house</s>"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_cut_in_two_by_the_edge_is_text(kind: str) -> None:
    made = made_of(kind)
    check(made, "so <|im_", "end|> it is")
    check(made, "so<|im_end|>", "</s>")


def test_a_prompt_that_has_other_tokens_alone_begins_the_row_as_it_is_alone() -> None:
    """Groups of three digits counted from the right: what follows moves the groups, though no token lies across."""
    from tokenizers import Regex, pre_tokenizers

    from tests.support.tokenizers import tokenizer

    made = tokenizer(merges=(("1", "2"),))
    made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d(?=\d{3}\b)|\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    text = "1234"
    assert len(encode([text], made)[0].tokens) == 4
    [row] = encode_marked([Marked(text, (Span(2, 4),), plain=True)], made)
    assert isinstance(row, Tokens)
    assert row.tokens[:2].tolist() == prompt_tokens("12", made, special.read(made))
    assert made.decode(row.tokens.tolist()) == "<s>1234</s>"


@pytest.mark.parametrize("template", ["llama3", "qwen2_5", "zephyr"])
def test_chats_that_no_token_lies_across_are_encoded_whole(template: str, tmp_path: Path) -> None:
    """What was right before edges were looked at stays what it was: the tokens of the whole text."""
    from tests.support.tokenizers import tokenizer

    made = tokenizer(shared_template(template), eos="</s>")
    row = chat("q1", "a1", "q2", "a2")
    text = made.apply_chat_template(row["messages"], tokenize=False)
    assert only(tmp_path, row, made).tokens.tolist() == made(text, add_special_tokens=False)["input_ids"]


def test_many_cuts_in_one_row_are_each_where_they_are_asked_for(tmp_path: Path) -> None:
    made = tokenizer_of_kind("SentencePiece, Llama's", CHATML.replace("\n", " "))
    turns = ["upon", "upon a time", "dog", " dog", "hill", "upon the hill "]
    row = only(tmp_path, chat(*turns), made)
    assert [text.strip() for text in spans(row, made)] == [
        "upon a time<|im_end|>",
        "dog<|im_end|>",
        "upon the hill <|im_end|>",
    ]
    assert np.count_nonzero(np.diff(row.supervised.astype(int)) == 1) == 3


TEMPLATES = {
    "names": "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
    "ChatML": CHATML,
    "Llama 2's": "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content }}"
    "{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
}
CONTENTS = TEXTS.filter(lambda text: text.strip())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(OFTEN, max_examples=25)
@given(turns=st.lists(CONTENTS, min_size=4, max_size=4), end=st.sampled_from([None, "<|im_end|>", "[E]"]))
@pytest.mark.few(2)
def test_a_chat_begins_with_the_tokens_that_generation_is_given(
    kind: str, template: str, turns: list[str], end: str | None
) -> None:
    made = tokenizer_of_kind(kind, TEMPLATES[template])
    around, now = special.read(made, (), end), DataSettings(now="2031-07-26")
    messages = tuple(chat(*turns)["messages"])
    text = marked(Chat(messages), made, now, around)
    [row] = encode_marked([text], made, around)
    if isinstance(row, BadRow):
        assert made.unk_token_id in encode([text.text], made)[0].tokens
        return
    asked = made(prompt_text(around.ended(messages[:1]), made, now.time), add_special_tokens=False)["input_ids"]
    assert row.tokens[: len(asked)].tolist() == asked
    assert not row.supervised[: len(asked)].any()
    keeps_nothing = not made(turns[1], add_special_tokens=False)["input_ids"]  # as WordPiece of an escape character
    assert row.supervised[len(asked)] or keeps_nothing
