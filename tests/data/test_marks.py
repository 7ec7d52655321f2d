"""Turns and rows that are marked as bad are not trained, and what no one reads is named."""

from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.load import Reader, load_for_eval
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadData, MlxtuneError
from tests.support.data import chat, loaded, only, spans, write
from tests.support.tokenizers import CHATML, MARKED, tokenizer

EOS = "<|im_end|>"
BAD = [
    {"weight": 0},
    {"weight": 0.0},
    {"loss_weight": 0.0},
    {"train": False},
    {"loss": False},
    {"train": 0},
    {"weight": "0.0"},
]
GOOD = [
    {"weight": 1},
    {"weight": 1.0},
    {"loss_weight": 1},
    {"train": True},
    {"loss": True},
    {"weight": None},
    {"train": "true"},
]


def marked(mark: dict[str, Any], *, sharegpt: bool = False) -> dict[str, Any]:
    messages = chat("q1", "a1", "q2", "a2")["messages"]
    messages[1] |= mark
    if not sharegpt:
        return {"messages": messages}
    names = {"role": "from", "content": "value"}
    return {"conversations": [{names.get(key, key): each for key, each in one.items()} for one in messages]}


def refused(tmp_path: Path, row: Any, **settings: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        only(tmp_path, row, tokenizer(CHATML, eos=EOS), **settings)
    return str(caught.value)


@pytest.mark.parametrize("sharegpt", [False, True])
@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_a_turn_that_is_marked_as_bad_is_read_and_not_trained(template: str, sharegpt: bool, tmp_path: Path) -> None:
    made = tokenizer(template, eos=EOS)
    for place, mark in enumerate(BAD):
        row = only(tmp_path / str(place), marked(mark, sharegpt=sharegpt), made)
        assert spans(row, made) == ["a2<|im_end|>"], mark
        assert "a1" in made.decode(row.tokens.tolist())
    for mark in GOOD:
        row = only(tmp_path / "good", marked(mark, sharegpt=sharegpt), made)
        assert spans(row, made) == ["a1<|im_end|>", "a2<|im_end|>"], mark


def test_a_marked_turn_carries_no_loss_whatever_carries_loss(tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    last = {"messages": [*chat("q1", "a1", "q2")["messages"], {"role": "assistant", "content": "a2", "weight": 0}]}
    assert spans(only(tmp_path, last, made, loss_on="assistant"), made) == ["a1<|im_end|>"]
    rest = spans(only(tmp_path, marked({"weight": 0}), made, loss_on="all"), made)
    assert "a1" not in "".join(rest)
    assert all(each in "".join(rest) for each in ("q1", "q2", "a2"))
    with pytest.raises(BadData, match=r"the first because: train\.jsonl:1: no token of it carries loss"):
        only(tmp_path, last, made, loss_on="last")
    user = {"messages": [{"role": "user", "content": "q", "train": False}, *chat("q", "a")["messages"]]}
    assert spans(only(tmp_path, user, made), made) == ["a<|im_end|>"]
    assert "expected marks on the assistant's turns alone, with --loss-on all" in refused(tmp_path, user, loss_on="all")


def test_a_marked_turn_of_a_prompt_or_of_an_answer_keeps_its_place(tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    turns = marked({"train": False})["messages"]
    row = {"system": "s", "prompt": turns[:1], "completion": turns}
    assert spans(only(tmp_path, row, made), made) == ["a2<|im_end|>"]
    row = {"system": "s", "prompt": turns[:3], "completion": turns[3:]}
    assert spans(only(tmp_path, row, made, loss_on="assistant"), made) == ["a2<|im_end|>"]


@pytest.mark.parametrize("value", [0.5, 2, -1, "half", float("nan"), [0]])
def test_a_weight_between_0_and_1_is_refused_by_its_name(value: Any, tmp_path: Path) -> None:
    told = refused(tmp_path, marked({"weight": value}))
    assert "train.jsonl:1: expected 0 or 1 as `weight`" in told
    assert "at `messages[1]`" in told
    assert "at `the row`" in refused(tmp_path, {"prompt": "p", "completion": "c", "loss_weight": value})


def test_a_mark_of_unclear_meaning_is_refused_by_its_name(tmp_path: Path) -> None:
    assert "`loss_mask` at `messages[1]`" in refused(tmp_path, marked({"loss_mask": 0}))


@pytest.mark.parametrize("mark", BAD)
@pytest.mark.parametrize(
    "row", [{"text": "t"}, {"prompt": "p", "completion": "c"}, {"instruction": "i", "output": "o"}, chat("q", "a")]
)
def test_a_row_that_is_marked_as_bad_is_left_out_and_counted(
    mark: dict[str, Any], row: dict[str, Any], tmp_path: Path
) -> None:
    made = loaded(write(tmp_path / "a.jsonl", [row, {**row, **mark}, row]), tokenizer(CHATML), valid_share=0.0)
    assert [each.source for each in made.train] == ["a.jsonl:1", "a.jsonl:3"]
    assert "1 row skipped: 1 marked as not to be trained." in made.notes


@pytest.mark.parametrize("label", [{"label": False}, {"kto_tag": False}, {"label": "False"}])
@pytest.mark.parametrize("row", [{"prompt": "p", "completion": "c"}, chat("q", "a")])
def test_bad_answers_of_kto_rows_are_left_out_and_counted(
    row: dict[str, Any], label: dict[str, Any], tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", [{**row, **label}, {**row, "label": True}])
    made = loaded(path, tokenizer(CHATML))
    assert [each.source for each in made.train] == ["a.jsonl:2"]
    assert "1 row skipped: 1 marked as a bad answer." in made.notes
    assert len(load_for_eval(DataSettings(path=str(path)), Reader(tokenizer(CHATML))).valid) == 1


def test_a_label_that_is_a_number_is_asked_for_and_one_that_is_a_word_is_none(tmp_path: Path) -> None:
    row = {"prompt": "p", "completion": "c"}
    assert "expected true or false as `label`" in refused(tmp_path, {**row, "label": 0})
    made = loaded(write(tmp_path / "a.jsonl", [{**row, "label": "news"}]), tokenizer())
    assert "Not read in the rows: `label` (1 row, about 4 tokens)." in made.notes
    assert len(loaded(write(tmp_path / "a.jsonl", [{"text": "t", "label": 0}]), tokenizer()).train) == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "value": "a"},
        {"type": "text", "content": "a"},
        {"text": "a"},
        {"type": "output_text", "text": "a"},
        "a",
    ],
)
def test_content_parts_are_text_however_it_is_named(part: Any, tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    row = {"messages": [*chat("q")["messages"], {"role": "assistant", "content": [part, part]}]}
    assert spans(only(tmp_path, row, made), made) == ["aa<|im_end|>"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x"}},
        {"type": "input_audio"},
        {"type": "video"},
        {"image": "a.png"},
        3,
    ],
)
def test_parts_that_are_no_text_are_refused_by_their_kind(part: Any, tmp_path: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, part]}, *chat("q", "a")["messages"]]
    }
    assert "expected text as the content of each message, found a part of the kind" in refused(tmp_path, row)


@pytest.mark.parametrize("key", ["image", "images", "audio", "audios", "video", "videos"])
@pytest.mark.parametrize("row", [chat("q", "a"), {"prompt": "p", "completion": "c"}, {"text": "t"}])
def test_rows_with_images_sound_or_films_are_refused(row: dict[str, Any], key: str, tmp_path: Path) -> None:
    assert f"expected rows of text alone, found something under `{key}`" in refused(tmp_path, {**row, key: ["a.png"]})
    assert len(loaded(write(tmp_path / "a.jsonl", [{**row, key: []}]), tokenizer(CHATML)).train) == 1


BLANK = ["", " ", "\n\t", "\u3000"]


@pytest.mark.parametrize("blank", BLANK)
@pytest.mark.parametrize(
    "row",
    [
        lambda blank: {"text": blank},
        lambda blank: {"prompt": "p", "completion": blank},
        lambda blank: {"instruction": "i", "output": blank},
        lambda blank: {"prompt": "p", "chosen": blank, "rejected": "r"},
        lambda blank: chat("q", blank),
        lambda blank: chat("q", "a", "q", blank),
        lambda blank: {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": blank}]},
        lambda blank: {"prompt": chat("q")["messages"], "completion": [{"role": "assistant", "content": blank}]},
        lambda blank: {"messages": [*chat("q")["messages"], {"role": "assistant", "content": [{"text": blank}]}]},
    ],
)
def test_an_empty_or_blank_answer_is_refused_everywhere(row: Any, blank: str, tmp_path: Path) -> None:
    assert "found empty or blank text at `" in refused(tmp_path, row(blank))


def test_an_empty_turn_that_is_not_trained_or_calls_a_tool_is_none(tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    row = {
        "messages": [
            *chat("q")["messages"],
            {"role": "assistant", "content": "", "weight": 0},
            *chat("q", "a")["messages"],
        ]
    }
    assert spans(only(tmp_path, row, made), made) == ["a<|im_end|>"]
    assert spans(only(tmp_path, {"prompt": "", "completion": "c"}, made), made) == ["c<|im_end|>"]


# keys with meaning


@pytest.mark.parametrize("key", ["system", "system_prompt", "system_message"])
@pytest.mark.parametrize(
    "row",
    [
        chat("q", "a"),
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"prompt": "q", "completion": "a"},
        {"prompt": chat("q")["messages"], "completion": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "r"},
        {"instruction": "q", "output": "a"},
    ],
)
def test_a_system_text_of_the_row_is_the_first_message(row: dict[str, Any], key: str, tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    found = only(tmp_path, {**row, key: "be brief"}, made)
    assert found.tokens.tolist() == only(tmp_path, chat("q", "a", system="be brief"), made).tokens.tolist()
    assert spans(found, made) == ["a<|im_end|>"]
    assert (
        only(tmp_path, {**row, key: ""}, made).tokens.tolist() == only(tmp_path, chat("q", "a"), made).tokens.tolist()
    )


def test_a_system_text_stands_before_the_prompt_where_there_is_no_template(tmp_path: Path) -> None:
    made = tokenizer()
    row = only(tmp_path, {"system": "be brief", "prompt": "q: ", "completion": "a"}, made)
    assert made.decode(row.tokens.tolist()) == "<s>be brief\n\nq: a</s>"
    assert spans(row, made) == ["a</s>"]


def test_two_system_texts_that_differ_are_refused(tmp_path: Path) -> None:
    made, row = tokenizer(CHATML), chat("q", "a", system="be brief")
    assert (
        only(tmp_path, {**row, "system": "be brief"}, made).tokens.tolist() == only(tmp_path, row, made).tokens.tolist()
    )
    assert "expected one system message" in refused(tmp_path, {**row, "system": "be long"})


@pytest.mark.parametrize("history", [[["q0", "a0"]], chat("q0", "a0")["messages"], '[["q0", "a0"]]'])
@pytest.mark.parametrize("row", [{"prompt": "q", "completion": "a"}, {"instruction": "q", "output": "a"}])
def test_earlier_turns_are_the_context_of_the_answer(row: dict[str, Any], history: Any, tmp_path: Path) -> None:
    made = tokenizer(CHATML, eos=EOS)
    found = only(tmp_path, {**row, "history": history, "system": "s"}, made)
    assert found.tokens.tolist() == only(tmp_path, chat("q0", "a0", "q", "a", system="s"), made).tokens.tolist()
    assert spans(found, made) == ["a<|im_end|>"]
    assert (
        only(tmp_path, {**row, "history": []}, made).tokens.tolist()
        == only(tmp_path, chat("q", "a"), made).tokens.tolist()
    )


def test_a_history_that_is_none_is_refused(tmp_path: Path) -> None:
    for wrong in ("earlier", [["q0"]], [["q0", 3]], {"q": "a"}):
        assert "`history" in refused(tmp_path, {"prompt": "q", "completion": "a", "history": wrong})


def test_the_context_of_an_instruction_is_its_input(tmp_path: Path) -> None:
    made = tokenizer(CHATML)
    row = {"instruction": "i", "output": "o"}
    one, two = (only(tmp_path, {**row, key: "the book"}, made).tokens.tolist() for key in ("input", "context"))
    assert one == two
    assert "expected one of `input` and `context`" in refused(tmp_path, {**row, "input": "x", "context": "y"})


def test_tools_beside_a_prompt_of_text_are_offered(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "get", "parameters": {}}}
    row = {"prompt": "q", "completion": "a", "tools": [tool]}
    assert "expected a chat template that writes tools" in refused(tmp_path, row)


def test_a_message_with_two_contents_is_refused(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "q", "value": "p"}, *chat("q", "a")["messages"]]}
    assert "expected one of `content` and `value` in each message, found both at `messages[0]`" in refused(
        tmp_path, row
    )


# what no one reads


def notes(tmp_path: Path, rows: list[Any], template: str | None = CHATML) -> str:
    return "\n".join(loaded(write(tmp_path / "a.jsonl", rows), tokenizer(template)).notes)


def test_text_under_keys_that_no_one_reads_is_named_once_with_its_rows_and_tokens(tmp_path: Path) -> None:
    row = {"text": "t", "question": "12345678", "answer": "", "id": 7, "meta": {"note": ["abcd"]}}
    said = notes(tmp_path, [row] * 50 + [{"text": "t"}], None)
    assert "Not read in the rows: `question` (50 rows, about 400 tokens), `meta` (50 rows, about 200 tokens)." in said
    assert said.count("Not read") == 1
    assert "Not read" not in notes(tmp_path, [{"text": "t", "id": 7}, chat("q", "a", system="s")])


def test_of_very_much_unread_text_the_tokens_are_counted_by_a_sample(tmp_path: Path) -> None:
    assert "`more` (20 rows, about 20,000 tokens)" in notes(tmp_path, [{"text": "t", "more": "x" * 1000}] * 20, None)


def test_very_many_unread_keys_are_one_short_sentence(tmp_path: Path) -> None:
    said = notes(tmp_path, [{"text": "t", **{f"{'k' * 99}{number}": "x" for number in range(3000)}}] * 2, None)
    assert "and 994 more keys." in said or ", 994 more keys." in said
    assert len(said) < 1000


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning", "note"])
def test_what_the_chat_template_leaves_out_of_messages_is_named(key: str, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "4", key: "two and two"}
    said = notes(tmp_path, [{"messages": [*chat("q")["messages"], answer]}] * 3)
    assert f"The chat template leaves out, of messages: `{key}` (3 rows, about 33 tokens)." in said
    writes = CHATML.replace("message['content']", f"(message['{key}'] or '') + message['content']")
    assert "leaves out" not in notes(tmp_path, [{"messages": [*chat("q")["messages"], answer]}] * 3, writes)


# other names


@pytest.mark.parametrize(
    ("row", "remedy"),
    [
        ({"prompt": "q", "reply": "a"}, "Rename `reply` to `completion`, or give --columns completion=reply."),
        ({"user": "q", "bot": "a", "answer": "b"}, "or give --columns prompt=user,completion=answer."),
        ({"question": "q", "response": "a"}, "Rename `question` to `prompt` and `response` to `completion`, or give"),
        ({"instruction": "q", "context": "", "response": "a"}, "Rename `response` to `output`, or"),
        ({"Prompt": "q", "Completion ": "a"}, "Rename `Prompt` to `prompt` and `Completion ` to `completion`."),
        ({"Text": "t"}, "Rename `Text` to `text`, or give --columns text=Text."),
        ({"content": "t", "url": "u"}, "Rename `content` to `text`, or"),
        ({"turns": chat("q", "a")["messages"]}, "Rename `turns` to `messages`, or give --columns messages=turns."),
        ({"Full Answer": "t", "n": 1, "why": "w"}, "like --columns text=COLUMN. There are: `Full Answer`, `why`."),
        (chat("q", "a")["messages"][0], "put its messages into a list under `messages`"),
        ({"version": 1, "examples": [{"text": "t"}]}, "in the list under `examples`, write that list alone"),
        ({"prompt": "p", "completion": {"name": "Ann"}}, 'write it as text: "completion": "{...}"'),
    ],
)
def test_a_row_of_other_keys_is_told_what_would_do(row: dict[str, Any], remedy: str, tmp_path: Path) -> None:
    assert remedy in refused(tmp_path, row)


def test_a_row_that_nothing_would_make_right_is_told_its_keys_briefly(tmp_path: Path) -> None:
    told = refused(tmp_path, {f"{'k' * 500}{number}": 1 for number in range(500)})
    assert "expected a row of a known form" in told
    assert len(told) < 1500


def test_many_kinds_of_faults_are_one_message_that_can_be_read(tmp_path: Path) -> None:
    rows: list[Any] = [{"prompt": "p", f"answer{number}": "a"} for number in range(300)]
    rows += [{"text": 1}, {"text": ""}, {"messages": 1}, {"messages": []}, {"conversations": 3}]
    rows += [{"messages": [{"role": "user", "content": "q", "weight": number}]} for number in range(2, 300)]
    told = refused_all(tmp_path, rows)
    assert "299 more rows have the same fault" in told
    assert len(told) < 4000


def refused_all(tmp_path: Path, rows: list[Any]) -> str:
    with pytest.raises(MlxtuneError) as caught:
        loaded(write(tmp_path / "a.jsonl", rows), tokenizer(CHATML))
    return str(caught.value)


def test_a_mark_on_a_part_of_a_message_is_refused(tmp_path: Path) -> None:
    part = {"type": "text", "text": "a", "weight": 0}
    row = {"messages": [*chat("q")["messages"], {"role": "assistant", "content": [part]}]}
    assert "expected marks on whole messages" in refused(tmp_path, row)
