"""What is found in a pattern of a conversation is found in each conversation that it stands for."""

import random
from typing import Any

import pytest

from mlxtune.data import template
from mlxtune.data.examples import Chat
from mlxtune.data.patterns import Pattern, parts, pattern, shared
from mlxtune.data.plans import Plan
from mlxtune.data.tape import LENGTH, Part, Tape, Trace, Untraceable, text_of
from mlxtune.data.template import Writer, chat_text
from mlxtune.data.turns import Span
from tests.data.test_traces import NAMES, NOW, TEMPLATES, untraced
from tests.support.data import chat
from tests.support.tokenizers import CHATML, shared_template, tokenizer

TEXTS = ("", "a", "b", " ", "ab", "ba", "a\n", "<|", "aab")
CONSTANTS = ("a", "b", "ab", " ", "\n", "<|", "aa")
ASKED = {
    "begins": lambda one, two: one.startswith(two),
    "ends": lambda one, two: one.endswith(two),
    "is equal": lambda one, two: one == two,
    "differs": lambda one, two: one != two,
    "holds a word": lambda one, _: "ab" in one,
    "is empty": lambda one, _: not one,
}
PLACES = {
    "shared beginning": lambda one, two: one[: shared(one, two)],
    "shared end": lambda one, two: one[len(one) - shared(one, two, -1) :],
    "without an end": lambda one, two: one.removesuffix(two),
    "stripped": lambda one, _: one.strip(),
    "behind a word": lambda one, _: one[one.rindex("ab") :] if "ab" in one else one,
    "sum": lambda one, two: one + two,
}


def some_parts(chance: random.Random) -> list[Part]:
    return [chance.choice((0, 1, 2, *CONSTANTS)) for _ in range(chance.randrange(5))]


def alike(chance: random.Random) -> tuple[list[Part], list[Part]]:
    """Two texts, which share a part more often than not."""
    same, one, two = some_parts(chance), some_parts(chance), some_parts(chance)
    return chance.choice(((same + one, same + two), (one + same, two + same), (same, same + two), (one, two)))


@pytest.mark.parametrize("asked", ASKED | PLACES)
def test_what_a_pattern_says_is_so_of_all_texts_that_answer_in_the_same_way(asked: str) -> None:
    """The oracle: the same is asked of the texts themselves."""
    chance, said = random.Random(asked), 0
    for _ in range(3_000):
        one, two = alike(chance)
        tape = Tape(chance.choices(TEXTS, k=3))
        try:
            answer = (ASKED | PLACES)[asked](pattern(one, tape), pattern(two, tape))
        except Untraceable:
            continue
        said += 1
        for values in [tape.values, *(chance.choices(TEXTS, k=3) for _ in range(20))]:
            if all(step(list(values)) for step in tape.steps):
                right = (ASKED | PLACES)[asked](text_of(one, values), text_of(two, values))
                found = text_of(parts(answer), values) if isinstance(answer, Pattern) else answer
                assert found == right, (one, two, values)
    assert said > 300


def test_a_pattern_cannot_be_made_of_words_with_the_letters_of_unknown_parts() -> None:
    with pytest.raises(Untraceable):
        pattern(["a", "\U000f0000"], Tape(["x"]))
    assert parts(pattern(["a", 0, "b", "c"], Tape(["x"]))) == ("a", 0, "bc")


def test_a_plan_tells_the_places_in_the_text_that_it_writes_and_in_no_other() -> None:
    plan = Plan(Trace((), (), 2 * LENGTH), (("<", 0), (1, ">")), (Span(1, 2),))
    assert plan.find(["q", "aa"], 4, "<qaa>") == [Span(2, 5)]
    assert plan.find(["q", "aa"], 4, "<qab>") is None
    assert plan.find(["q", "aa"], 3, "<qaa>") is None  # the work may be more


@pytest.mark.parametrize("turns", [1, 2, 6])
@pytest.mark.parametrize("name", [*NAMES, "indented", "plain", "thinks", "without prompt"])
@pytest.mark.few(10)
def test_turns_of_a_known_shape_are_not_looked_for_again(
    name: str, turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tokenizer(TEMPLATES[name](), eos="<|im_end|>")
    rows = [Chat(tuple(chat(*[f"{word} {turn}" for turn in range(2 * turns)])["messages"])) for word in "abcd"]
    with untraced():
        wanted = chat_text(rows[3], made, "auto", NOW)
    for row in rows[:3]:
        chat_text(row, made, "auto", NOW)
    monkeypatch.setattr(template, "Turns", lambda *_: pytest.fail("looked for"))
    assert chat_text(rows[3], made, "auto", NOW) == wanted


def test_turns_that_a_plan_would_place_elsewhere_are_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rows = tokenizer(CHATML), [Chat(tuple(chat(word, word)["messages"])) for word in "abcd"]
    with untraced():
        wanted = [chat_text(row, made, "auto", NOW) for row in rows]
    monkeypatch.setattr("mlxtune.data.plans.Plans._plan", lambda *_: Plan(Trace((), (), 0), ((0, 1),), (Span(0, 1),)))
    template._known.cache_clear()
    assert [chat_text(row, made, "auto", NOW) for row in rows] == wanted


def test_each_choice_of_turns_has_a_plan_of_its_own() -> None:
    made = tokenizer(shared_template("llama3"), eos="<|eot_id|>")
    rows = [chat(*[f"{word} {turn}" for turn in range(6)])["messages"] for word in "abcdef"]
    for loss_on in ("auto", "last", "auto", "last"):
        for messages in rows:
            example: Any = Chat(tuple(messages))
            found = chat_text(example, made, loss_on, NOW)  # type: ignore[arg-type]
            with untraced():
                assert chat_text(example, made, loss_on, NOW) == found  # type: ignore[arg-type]
    writer = Writer(made, rows[0], None, NOW)
    assert writer._plans is not None
    assert {shape[:3] for shape in writer._plans._known._known if len(shape) > 8} == {(1, 3, 5)}
