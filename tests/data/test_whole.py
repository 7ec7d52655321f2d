"""Whole texts have the tokens, and the characters of each, that the tokenizer says, in whichever way they are found."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtune.data import encoding, whole
from mlxtune.data.encoding import Encoded
from mlxtune.data.spelled import Spelled
from mlxtune.data.words import Words
from tests.data.test_edges import REAL, TEXTS, made_of
from tests.support.tokenizer_kinds import KINDS, SENTENCES, tokenizer_of_kind
from tests.support.tokenizers import tokenizer

OFTEN = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
MIXED = st.lists(st.one_of(TEXTS, st.sampled_from(SENTENCES), st.text(st.characters(codec="utf-8"), max_size=9)),
                 max_size=4).map("".join)  # fmt: skip
OF_WORDS = ("SentencePiece, Llama's, of words", "models/stories260K")
FAST = {**dict.fromkeys(OF_WORDS, Words), **dict.fromkeys(
    ("byte-level", "byte-level, Llama 3's pattern", "tokenizers/minimind", "tokenizers/llama3.1"), Spelled
)}  # fmt: skip


def check(texts: list[str], made: Any) -> list[Encoded | None]:
    """Against the tokenizer's own words. What the fast way said."""
    found, wanted = whole.encode(texts, made), encoding.encode(texts, made)
    for one, other, text in zip(found, wanted, texts, strict=True):
        for column, right in zip(one, other, strict=True):
            assert column.dtype == right.dtype
            assert column.tolist() == right.tolist(), text
    way = whole._way(made)
    return way.encode(texts, made) if way else []


@pytest.mark.parametrize("kind", [*KINDS, *REAL])
@OFTEN
@given(texts=st.lists(MIXED, max_size=5))
@pytest.mark.few(3)
def test_tokens_and_their_characters_are_those_that_the_tokenizer_says(kind: str, texts: list[str]) -> None:
    check(texts, made_of(kind))


@pytest.mark.parametrize(("kind", "way"), FAST.items())
def test_no_text_of_a_usual_tokenizer_has_to_be_encoded_with_its_characters(kind: str, way: type) -> None:
    made = made_of(kind)
    texts = [*SENTENCES, "", " ", "  a   b  ", f"<s>{SENTENCES[0]}</s>\n</s>", "".join(SENTENCES)]
    assert isinstance(whole._way(made), way)
    assert None not in check(texts, made)


@pytest.mark.parametrize("kind", OF_WORDS)
def test_words_that_were_seen_before_are_not_encoded_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = made_of(kind)
    first = whole.encode([*SENTENCES, SENTENCES[0] + " " + SENTENCES[1]], made)
    monkeypatch.setattr("mlxtune.data.words.encode", lambda *_: pytest.fail("encoded again"))
    again = whole.encode([*SENTENCES, SENTENCES[0] + " " + SENTENCES[1]], made)
    assert [each.tokens.tolist() for each in again] == [each.tokens.tolist() for each in first]


@pytest.mark.parametrize("kind", OF_WORDS)
def test_words_that_are_forgotten_are_encoded_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlxtune.data.words.MOST_TOKENS", 20)
    for sentence in (*SENTENCES, *SENTENCES):
        check([sentence], made_of(kind))


@pytest.mark.parametrize("kind", OF_WORDS)
@OFTEN
@given(text=MIXED)
@pytest.mark.few(3)
def test_tokens_up_to_the_end_of_one_are_those_of_the_beginning_alone(kind: str, text: str) -> None:
    made = made_of(kind)
    assert whole.keeps_beginnings(made)
    [encoded] = encoding.encode([text], made)
    for place in range(1, len(text)):
        if not encoding.across(encoded, [place]):
            [alone] = encoding.encode([text[:place]], made)
            count = int(np.searchsorted(encoded.ends, place, side="right"))
            assert encoded.tokens[:count].tolist() == alone.tokens.tolist(), place


@pytest.mark.parametrize("kind", sorted({*KINDS, *REAL} - set(OF_WORDS)))
def test_of_other_tokenizers_beginnings_are_encoded(kind: str) -> None:
    assert not whole.keeps_beginnings(made_of(kind))


def test_blanks_that_a_tokenizer_leaves_out_of_its_tokens_are_left_out_of_them() -> None:
    from tokenizers import processors

    made = tokenizer(merges=(("a", "Ġ"), ("Ġ", "Ġ"), ("Ġ", "b")))
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    said = check(["a b", "a", "  b", "b  ", "x a "], made)
    assert [each is None for each in said] == [True, False, False, False, True]


def test_what_is_known_of_a_tokenizer_is_forgotten_when_it_is_changed() -> None:
    for kind in ("SentencePiece, Llama's, of words", "byte-level"):
        made = tokenizer_of_kind.__wrapped__(kind)
        check(["Once [X] upon a time"], made)
        made.add_tokens(["[X]"])
        check(["Once [X] upon a time"], made)
        assert made.convert_tokens_to_ids("[X]") in whole.encode(["Once [X]"], made)[0].tokens


def test_a_tokenizer_that_splits_special_tokens_is_asked() -> None:
    made = tokenizer_of_kind.__wrapped__("SentencePiece, Llama's, of words")
    made.split_special_tokens = True
    check(["<s>Once</s>", "<s>"], made)
    assert whole._way(made) is None


def test_tokens_of_a_class_with_code_of_its_own_are_as_it_says() -> None:
    from transformers import PreTrainedTokenizerFast

    class Odd(PreTrainedTokenizerFast):  # type: ignore[misc]
        def __call__(self, *given: Any, **options: Any) -> Any:
            return super().__call__([text.upper() for text in given[0]], **options)

    made = Odd(tokenizer_object=tokenizer().backend_tokenizer)
    assert whole._way(made) is None
    assert whole.encode(["ab"], made)[0].tokens.tolist() == tokenizer()("AB", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", ["SentencePiece, Llama's, of words", "byte-level"])
def test_a_tokenizer_that_no_one_uses_is_let_go(kind: str) -> None:
    made = tokenizer_of_kind.__wrapped__(kind)
    check([SENTENCES[0]], made)
    held = weakref.ref(made)
    del made
    gc.collect()
    assert held() is None
