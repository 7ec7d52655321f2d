from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.examples import Chat, Completion, Text
from mlxtune.data.faults import BadRow, Place
from mlxtune.data.forms import Row, row
from mlxtune.data.readers.raw import Raw
from mlxtune.data.unread import Unread

USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "Oslo"}}}


def read(value: Any) -> Row:
    made = row(Raw(Place(Path("a.jsonl"), 1), value), Unread())
    assert isinstance(made, Row)
    return made


def chat(value: Any) -> Chat:
    example = read(value).example
    assert isinstance(example, Chat)
    return example


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"messages": [USER, ASSISTANT], "prompt": "q", "text": "t"}, "messages"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "conversations"),
        ({"prompt": "q", "completion": "a"}, "prompt/completion"),
        ({"instruction": "q", "input": "", "output": "a", "text": "q a"}, "instruction/output"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "preference"),
        ({"conversations": [{"from": "human", "value": "q"}], "chosen": {"from": "gpt", "value": "a"},
          "rejected": {"from": "gpt", "value": "b"}}, "preference"),
        ({"text": "t", "id": 7, "meta": {"a": 1}}, "text"),
        ({"text": "t", "messages": None}, "text"),
    ],
)  # fmt: skip
def test_the_form_is_known_by_the_rows_own_keys(value: Any, form: str) -> None:
    assert read(value).form == form


def test_conversations_become_the_same_messages() -> None:
    said = [("system", "s"), ("human", "q"), ("gpt", "a"), ("user", "q"), ("assistant", "a"), ("function", "f")]
    roles = [
        message["role"] for message in chat({"conversations": [{"from": a, "value": b} for a, b in said]}).messages
    ]
    assert roles == ["system", "user", "assistant", "user", "assistant", "tool"]


def test_of_a_preference_the_chosen_answer_is_trained() -> None:
    turns = [{"from": "human", "value": "q"}]
    value = {"conversations": turns, "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}
    assert chat(value).messages == (USER, ASSISTANT)
    assert read({"prompt": "q", "chosen": "a", "rejected": "b"}).example == Completion("q", "a", "q")
    assert chat({"prompt": [USER], "chosen": [ASSISTANT], "rejected": [USER]}) == Chat((USER, ASSISTANT), context=1)
    assert chat({"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": []}) == Chat((USER, ASSISTANT), context=1)


def test_a_prompt_of_messages_is_context() -> None:
    assert chat({"prompt": [USER, ASSISTANT, USER], "completion": "a"}).context == 3


def test_an_instruction_with_its_input_is_the_prompt() -> None:
    example = read({"instruction": "Add.", "input": "1 2", "output": "3"}).example
    assert isinstance(example, Completion)
    assert example.prompt == "Add.\n1 2"
    assert example.plain_prompt.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")


def test_braces_in_an_instruction_are_only_text() -> None:
    example = read({"instruction": "{input}", "input": "{x}", "output": "3"}).example
    assert isinstance(example, Completion)
    assert "### Instruction:\n{input}\n\n### Input:\n{x}\n" in example.plain_prompt


def test_arguments_of_tool_calls_written_as_json_text_become_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"city": "Oslo"}'}}
    message = chat({"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]}).messages[1]
    assert message == {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}]}


def test_the_older_function_call_is_a_tool_call() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "get", "arguments": '{"city": "Oslo"}'}}
    assert chat({"messages": [USER, old]}).messages[1]["tool_calls"] == [CALL]


def test_keys_that_hold_null_are_as_good_as_absent() -> None:
    given = {"role": "assistant", "content": "a", "tool_calls": None, "function_call": None, "name": None}
    assert chat({"messages": [USER, given], "tools": None}) == Chat((USER, ASSISTANT), None)


def test_content_in_parts_is_joined() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat({"messages": [USER, {"role": "assistant", "content": parts}]}).messages[1]["content"] == "ab"


def test_text_that_looks_like_another_type_is_text() -> None:
    assert read({"text": "[1, 2]"}).example == Text("[1, 2]")


@pytest.mark.parametrize(
    ("value", "expected", "found"),
    [
        ([1], "a JSON object", "a list"),
        ("x", "a JSON object", "`x`"),
        ({"id": 1, "txet": "x"}, "a row of a known form", "the keys `id`, `txet`"),
        ({}, "a row of a known form", "the keys none"),
        ({"text": None}, "a value under `text`", "null"),
        ({"text": 3}, "text under `text`", "the number 3"),
        ({"prompt": "q", "completion": None}, "a value under `completion`", "null"),
        ({"prompt": 3, "completion": "a"}, "text or a list of messages under `prompt`", "the number 3"),
        ({"instruction": "q", "input": 3, "output": "a"}, "text under `input`", "the number 3"),
        ({"messages": "x"}, "a list of messages under `messages`", "`x`"),
        ({"messages": []}, "at least one message", "an empty list"),
        ({"messages": ["x"]}, "an object with role and content", "`x` at `messages[0]`"),
        ({"messages": [{"role": "usr", "content": "x"}]}, "a known role", "`usr` at `messages[0]`"),
        ({"messages": [{"content": "x"}]}, "a known role", "null at `messages[0]`"),
        ({"messages": [{"role": "user", "content": None}]}, "text as the content", "null at `messages[0].content`"),
        ({"messages": [{"role": "user", "content": 3}]}, "text as the content", "the number 3"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "text as the content", "the kind `image`"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "a function with a name", "an object"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "x"}}]}]},
         "an object as the arguments", "`x`"),
        ({"messages": [USER], "tools": ["x"]}, "an object with a name as each of the `tools`", "`x`"),
        ({"messages": [USER], "tools": 3}, "a list of objects under `tools`", "the number 3"),
    ],
)  # fmt: skip
def test_a_wrong_row_says_what_was_expected_and_found(value: Any, expected: str, found: str) -> None:
    with pytest.raises(BadRow) as caught:
        read(value)
    assert expected in caught.value.expected
    assert found in caught.value.found
