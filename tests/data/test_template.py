"""Which tokens carry loss. The expected spans are written out by hand, or found by looking for the contents."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlxtune.data.examples import Chat
from mlxtune.data.faults import BadRow
from mlxtune.data.template import Writer, chat_text, prompt_text
from mlxtune.data.turns import Turns
from mlxtune.errors import BadData
from tests.support.assets import assets_folder
from tests.support.data import chat, loaded, only, spans, write
from tests.support.tokenizers import CHATML, MARKED, shared_template, tokenizer

# What a template writes before and after the content of an assistant's turn that belongs to the turn, and its eos.
ENDS = {
    "chatml": ("", "<|im_end|>", "<|im_end|>"),
    "gemma": ("", "<end_of_turn>", "<end_of_turn>"),
    "gemma3": ("", "<end_of_turn>", "<end_of_turn>"),
    "llama-2-chat": (" ", " </s>", "</s>"),
    "llama3": ("", "<|eot_id|>", "<|eot_id|>"),
    "llama3_2": ("", "<|eot_id|>", "<|eot_id|>"),
    "mistral-instruct": (" ", "</s>", "</s>"),
    "phi3": ("", "<|end|>", "</s>"),
    "qwen2_5": ("", "<|im_end|>", "<|im_end|>"),
    "zephyr": ("", "</s>", "</s>"),
}
NOW = datetime(2031, 7, 26, 12)
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1).filter(lambda text: text.strip())
OFTEN = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def trained(row: dict[str, Any], made: Any, **options: Any) -> list[str]:
    """The characters that carry loss, run by run, before tokens."""
    example = Chat(tuple(row["messages"]), row.get("tools"), options.pop("context", 0))
    text, found = chat_text(example, made, options.pop("loss_on", "auto"), NOW)
    return [text[start:end] for start, end in found]


def test_every_assistant_turn_carries_loss_and_nothing_else(tmp_path: Path) -> None:
    """mlx-lm, mlx-tune: chat masking supervises only the last assistant turn."""
    made = tokenizer(CHATML, eos="<|im_end|>")
    row = only(tmp_path, chat("q1", "a1", "q2", "a2", system="s"), made)
    assert spans(row, made) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_if_the_last_turn_is_a_users_the_users_text_is_not_trained(tmp_path: Path) -> None:
    """mlx-lm: if the last is a user's, the user's text is trained."""
    made = tokenizer(CHATML)
    row = only(tmp_path, chat("q1", "a1", "q2"), made)
    assert spans(row, made) == ["a1<|im_end|>"]


@pytest.mark.parametrize("name", ENDS)
def test_each_template_trains_each_assistant_turn_to_its_end_token(name: str, tmp_path: Path) -> None:
    before, after, eos = ENDS[name]
    made = tokenizer(shared_template(name), eos=eos)
    row = only(tmp_path, chat("q1", "a1", "q2", "a2", "q3", "a3"), made)
    assert spans(row, made) == [f"{before}a{turn}{after}" for turn in (1, 2, 3)]


@pytest.mark.parametrize("name", [name for name in ENDS if name != "gemma"])
def test_each_template_takes_a_system_message(name: str, tmp_path: Path) -> None:
    before, after, eos = ENDS[name]
    made = tokenizer(shared_template(name), eos=eos)
    row = only(tmp_path, chat("q1", "a1", "q2", "a2", system="the system"), made)
    assert spans(row, made) == [f"{before}a1{after}", f"{before}a2{after}"]
    assert "the system" in made.decode(row.tokens.tolist())


@pytest.mark.parametrize("name", [*ENDS, "qwen3"])
@OFTEN
@given(turns=st.lists(WORDS, min_size=1, max_size=5))
def test_supervised_text_is_the_contents_with_their_ends(name: str, turns: list[str]) -> None:
    before, after, eos = ENDS.get(name, ("", "<|im_end|>", "<|im_end|>"))
    turns = turns[: len(turns) // 2 * 2] or [turns[0], turns[0]]
    found = trained(chat(*turns), tokenizer(shared_template(name), eos=eos))
    strips = name not in ("phi3", "qwen2_5", "qwen3")
    wanted = [f"{before}{turn.strip() if strips else turn}{after}" for turn in turns[1::2]]
    if (
        name == "qwen3"
    ):  # the last turn is written with the thinking, empty here, that the model writes before it answers
        wanted[-1] = "<think>\n\n</think>\n\n" + turns[-1].lstrip("\n") + after
    assert found == wanted


@pytest.mark.parametrize("name", ["chatml", "llama-2-chat", "mistral-instruct", "zephyr"])
def test_templates_with_their_indentation_are_told_apart_too(name: str, tmp_path: Path) -> None:
    _, after, eos = ENDS[name]
    made = tokenizer((assets_folder() / "templates" / f"{name}.jinja").read_text(), eos=eos)
    row = only(tmp_path, chat("q1", "a1", "q2", "a2"), made)
    assert [text.strip() for text in spans(row, made)] == [f"a1{after}", f"a2{after}"]


def test_the_models_own_thinking_is_trained_and_earlier_thinking_is_dropped_as_qwen3_reads_it(tmp_path: Path) -> None:
    made = tokenizer(shared_template("qwen3"), eos="<|im_end|>")
    row = only(tmp_path, chat("q1", "<think>\nt1\n</think>\n\na1", "q2", "<think>\nt2\n</think>\n\na2"), made)
    assert spans(row, made) == ["a1<|im_end|>", "<think>\nt2\n</think>\n\na2<|im_end|>"]


def test_a_thinking_block_that_the_generation_prompt_writes_is_not_trained(tmp_path: Path) -> None:
    made = tokenizer(
        CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n\n</think>\n\n'"),
        eos="<|im_end|>",
    )
    empty, full = "<think>\n\n</think>\n\na1", "<think>\nt\n</think>\n\na2"
    row = only(tmp_path, chat("q1", empty, "q2", full), made)
    assert spans(row, made) == ["a1<|im_end|>", "<think>\nt\n</think>\n\na2<|im_end|>"]


@pytest.mark.parametrize("name", ["llama3_2", "qwen2_5", "qwen3"])
def test_tool_calls_are_trained_and_their_results_are_not(name: str, tmp_path: Path) -> None:
    end = "<|eot_id|>" if name == "llama3_2" else "<|im_end|>"
    made = tokenizer(shared_template(name), eos=end)
    call = {"id": "1", "type": "function", "function": {"name": "get", "arguments": '{"city": "Oslo"}'}}
    tool = {"type": "function", "function": {"name": "get", "parameters": {"type": "object", "properties": {}}}}
    messages = [
        *chat("q1")["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "three", "tool_call_id": "1"},
        {"role": "assistant", "content": "a1"},
        *chat("q2", "a2")["messages"],
    ]
    written = {
        "llama3_2": '{"name": "get", "parameters": {"city": "Oslo"}}',
        "qwen": '<tool_call>\n{"name": "get", "arguments": {"city": "Oslo"}}\n</tool_call>',
    }["llama3_2" if name == "llama3_2" else "qwen"]
    found = spans(only(tmp_path, {"messages": messages, "tools": [tool]}, made), made)
    thinks = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert found == [written + end, f"a1{end}", f"{thinks}a2{end}"]


def test_the_sample_with_parallel_tool_calls_trains_the_calls_and_the_answer() -> None:
    made = tokenizer(shared_template("qwen2_5"), eos="<|im_end|>")
    row = loaded(assets_folder() / "data/chat/weather_chat_fine_tuning.jsonl", made, max_seq_length=9000).train[0]
    calls, answer = spans(row, made)
    assert calls.count("<tool_call>") == calls.count("</tool_call>") == 3
    assert calls.endswith("</tool_call><|im_end|>")
    assert answer.startswith("Currently")
    assert answer.endswith("<|im_end|>")


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("gemma", chat("q", "a", system="s"), "System role not supported"),
        ("mistral-instruct", {"messages": chat("q")["messages"] * 2}, "Conversation roles must alternate"),
        ("llama3_2", {"messages": [*chat("q")["messages"], {"role": "assistant", "tool_calls": [
            {"function": {"name": name, "arguments": "{}"}} for name in "ab"]}]}, "only supports single tool-calls"),
    ],
)  # fmt: skip
def test_a_row_that_the_template_raises_for_is_refused_in_its_words(
    name: str, row: dict[str, Any], words: str, tmp_path: Path
) -> None:
    made = tokenizer(shared_template(name))
    path = write(tmp_path / "train.jsonl", [chat("q", "a"), row])
    with pytest.raises(BadData, match=words) as caught:
        loaded(path, made)
    assert caught.value.where == f"{path}:2"
    assert len(loaded(path, made, skip_bad_rows=True).refused) == 1


@pytest.mark.parametrize("name", ["llama3", "phi3"])
def test_a_template_that_leaves_out_tool_calls_refuses_the_row(name: str, tmp_path: Path) -> None:
    call = {"function": {"name": "get", "arguments": "{}"}}
    row = {"messages": [*chat("q")["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]}
    with pytest.raises(BadData, match="one that leaves them out"):
        only(tmp_path, row, tokenizer(shared_template(name)))


def test_a_template_that_leaves_out_a_message_or_the_tools_refuses_the_row(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "get"}}
    result = {"role": "tool", "content": "3"}
    row = {"messages": [*chat("q", "a")["messages"], result]}
    with pytest.raises(BadData, match="one that leaves out what the tool says"):
        only(tmp_path, row, tokenizer(shared_template("phi3")))
    with pytest.raises(BadData, match="expected a chat template that writes tools"):
        only(tmp_path, {**chat("q", "a"), "tools": [tool]}, tokenizer(CHATML))


def test_a_template_without_generation_prompt_does_not_train_the_header(tmp_path: Path) -> None:
    made = tokenizer(CHATML.partition("{% if add_generation")[0], eos="<|im_end|>")
    assert spans(only(tmp_path, chat("q1", "a1", "q2", "a2"), made), made) == ["a1<|im_end|>", "a2<|im_end|>"]


def test_where_no_end_marker_follows_the_line_end_is_how_the_model_stops(tmp_path: Path) -> None:
    made = tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
                     "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")  # fmt: skip
    assert spans(only(tmp_path, chat("q1", "a1", "q2", "a2"), made), made) == ["a1\n", "a2\n"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages[::-1] %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}",
        "{% for m in messages %}{{ m['content'] ~ m['content'] ~ loop.last }}{% endfor %}",
    ],
)
def test_a_template_whose_turns_cannot_be_told_apart_exactly_is_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="expected a chat template whose assistant turns can be told apart exactly"):
        only(tmp_path, chat("q1", "a1", "q2", "a2"), tokenizer(template))


def test_half_a_surrogate_pair_that_the_template_writes_is_refused_in_rows_and_in_prompts(tmp_path: Path) -> None:
    broken = tokenizer("{% for m in messages %}{{ m['content'] ~ '<|end|\\ud800>' }}{% endfor %}")
    with pytest.raises(BadData, match="half a surrogate pair"):
        only(tmp_path, chat("q1", "a1"), broken)
    with pytest.raises(BadData, match="half a surrogate pair"):
        prompt_text([{"role": "user", "content": "q"}], broken, datetime(2031, 7, 26))


def test_half_a_surrogate_pair_in_a_tool_call_is_refused(tmp_path: Path) -> None:
    call = {"function": {"name": "get", "arguments": {"city": "\ud800"}}}
    row = {"messages": [*chat("q")["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}]}
    with pytest.raises(BadData, match="expected Unicode text, found half a surrogate pair"):
        only(tmp_path, row, tokenizer(shared_template("qwen2_5")))


def test_a_conversation_that_the_assistant_begins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="expected a message before the first assistant turn"):
        only(tmp_path, {"messages": chat("q", "a")["messages"][1:]}, tokenizer(CHATML))


@OFTEN
@given(turns=st.lists(WORDS, min_size=2, max_size=6))
def test_the_turns_that_are_found_are_those_that_markers_mark(turns: list[str]) -> None:
    """The oracle is transformers' own tracking of {% generation %} blocks."""
    row = chat(*turns)
    assert trained(row, tokenizer(CHATML)) == trained(row, tokenizer(MARKED))


def test_the_mask_of_a_marked_template_is_that_of_transformers(tmp_path: Path) -> None:
    made = tokenizer(MARKED)
    row = chat("q1", "a1", "q2", "a2")
    wanted = made.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
    found = only(tmp_path, row, made)
    assert found.tokens.tolist() == wanted["input_ids"]
    assert found.supervised.tolist() == [bool(mask) for mask in wanted["assistant_masks"]]


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_loss_on_chooses_the_turns(template: str) -> None:
    made, row = tokenizer(template), chat("q1", "a1", "q2", "a2")
    ends = ["a1<|im_end|>", "a2<|im_end|>"]
    assert trained(row, made, loss_on="assistant", context=3) == trained(row, made, loss_on="auto") == ends
    assert trained(row, made, loss_on="last") == trained(row, made, loss_on="auto", context=3) == ends[1:]
    [everything] = trained(row, made, loss_on="all")
    assert everything == made.apply_chat_template(row["messages"], tokenize=False)


def test_the_date_that_a_template_writes_is_the_one_that_it_is_given() -> None:
    made = tokenizer(shared_template("llama3_2"))
    text, _ = chat_text(Chat(tuple(chat("q", "a")["messages"])), made, "auto", NOW)
    assert "Today Date: 26 Jul 2031" in text


@pytest.mark.parametrize("name", [*ENDS, "qwen3"])
@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "get", "parameters": {"é": [1]}}}]])
@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.few(2)
def test_a_template_writes_what_it_writes_in_transformers(name: str, tools: Any, prompt: bool) -> None:
    made = tokenizer(shared_template(name))
    call = {"type": "function", "function": {"name": "get", "arguments": {"a": [1, "é"]}}}
    plain: list[dict[str, Any]] = chat("q1", "<think>\nt\n</think>\n\na1", "q2", "a2 ", system="s")["messages"]
    rich = [*plain[1:3], {**plain[2], "tool_calls": [call], "reasoning": "r"}, {"role": "tool", "content": "3"}]
    for messages in (plain, plain[1:], rich, plain[1:2]):
        writer = Writer(made, messages, tools, NOW)
        try:
            wanted = made.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=prompt)
        except Exception as refused:
            with pytest.raises(BadRow, match=re.escape(str(refused).rstrip(".")[:40])):
                writer(writer.messages, prompt)
        else:
            today, then = f"{datetime.now():%d %b %Y}", f"{NOW:%d %b %Y}"
            assert writer(writer.messages, prompt).replace(then, today) == wanted


@OFTEN
@given(earlier=WORDS, later=WORDS)
def test_what_follows_a_turn_does_not_change_its_span(earlier: str, later: str) -> None:
    made = tokenizer(CHATML)
    assert trained(chat("q", earlier, later, "a"), made)[0] == trained(chat("q", earlier), made)[0]


def test_a_stand_in_that_the_template_refuses_is_no_crash() -> None:
    def render(messages: Any, prompt: bool) -> str:
        if any(message["content"] == "Aleph" for message in messages):
            raise BadRow("anything", "something else")
        return json.dumps([message["content"] for message in messages] + [prompt])

    with pytest.raises(BadRow, match="told apart exactly"):
        Turns(render, chat("q", "a")["messages"], "").spans([1])


def test_earlier_thinking_around_tool_calls_is_dropped_once_a_new_question_follows(tmp_path: Path) -> None:
    """Qwen3 writes the first turns anew when it sees the last question; the spans are those of what it then writes."""
    made = tokenizer(shared_template("qwen3"), eos="<|im_end|>")
    call = {"function": {"name": "get", "arguments": "{}"}}
    messages = [
        *chat("q1")["messages"],
        {"role": "assistant", "reasoning_content": "t1", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "three"},
        {"role": "assistant", "content": "<think>\nt2\n</think>\n\na1"},
    ]
    called = '<tool_call>\n{"name": "get", "arguments": {}}\n</tool_call><|im_end|>'
    alone = only(tmp_path, {"messages": messages}, made)
    assert spans(alone, made) == [f"<think>\nt1\n</think>\n\n{called}", "<think>\nt2\n</think>\n\na1<|im_end|>"]
    followed = only(tmp_path, {"messages": [*messages, *chat("q2", "a2")["messages"]]}, made)
    assert spans(followed, made) == [called, "a1<|im_end|>", "<think>\n\n</think>\n\na2<|im_end|>"]
