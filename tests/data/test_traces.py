"""A trace of a chat template writes what the template writes, or nothing: rows come out as if each were rendered."""

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import plans, tracing
from mlxtune.data.encoding import encode
from mlxtune.data.examples import Chat
from mlxtune.data.faults import BadRow
from mlxtune.data.load import load
from mlxtune.data.sandbox import Environment
from mlxtune.data.settings import DataSettings
from mlxtune.data.template import Writer, chat_text
from mlxtune.data.whole import tokens_alone
from mlxtune.errors import MlxtuneError
from tests.support.assets import assets_folder
from tests.support.data import chat, write
from tests.support.tokenizer_kinds import KINDS, tokenizer_of_kind
from tests.support.tokenizers import CHATML, MARKED, shared_template, tokenizer

NOW = datetime(2031, 7, 26, 12)
NAMES = (
    *("chatml", "gemma", "gemma3", "llama-2-chat", "llama3", "llama3_2", "mistral-instruct", "phi3", "qwen2_5"),
    *("qwen3", "zephyr"),
)
EACH = (
    "{% for m in messages %}<{{ m.role }}>HERE<|end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# What templates may do to a content; of most of these there is no trace, or one with conditions.
DONE = {
    "asks what it holds": "{{ 'yes' if 'x' in m.content else m.content }}{{ m.content }}",
    "asks whether it is empty": "{% if m.content %}{{ m.content }}{% else %}nothing{% endif %}",
    "asks whether it is blank": "{{ m.content if m.content | trim else 'blank' }}",
    "compares it": "{{ 'A' if m.content == 'a' else m.content }}{{ 'B' if m.content is eq 'b' }}",
    "compares it with safe text": "{{ m.content }}{{ 'A' if m.content == ('a' | safe) }}"
    "{{ 'B' if 'b' | safe == m.content }}",
    "uses it as a name": "{{ m.content }}{{ loop[m.content | trim('x') + 'first'] is defined }}",
    "compares two": "{{ m.content }}{{ messages[0].content == m.content }}",
    "finds it in a list": "{{ m.content }}{{ m.content in ['a', 'x'] }}",
    "counts its letters": "{{ m.content }}{{ m.content | length }}",
    "looks at its first letter": "{{ m.content }}{{ m.content[0] }}",
    "takes a part of it": "{{ m.content }}{{ m.content[:3] }}",
    "goes through it": "{{ m.content }}{% for letter in m.content %}{{ letter }}.{% endfor %}",
    "writes it in capitals": "{{ m.content }}{{ m.content | upper }}{{ m.content.upper() }}",
    "writes JSON": "{{ m.content }}{{ m.content | tojson }}{{ m | tojson }}",
    "writes the whole message": "{{ m.content }}{{ m }}",
    "writes it with ~": "{{ '[' ~ m.content ~ 1 ~ ']' }}",
    "writes it in a format": "{{ '%s!' % m.content }}{{ '{}'.format(m.content) }}",
    "keeps it in a block": "{% set kept %}({{ m.content }}){% endset %}{{ kept }}{{ 'x' in kept }}",
    "keeps it in a namespace": "{% set ns = namespace(c=m.content) %}{{ ns.c + ns.c.strip() }}",
    "gives it to a macro": "{% macro f(c) %}<{{ c | trim }}>{% endmacro %}{{ f(m.content) }}",
    "gives it to a filter block": "{% filter trim %} {{ m.content }} {% endfilter %}",
    "splits it": "{{ m.content.split('</think>')[-1].lstrip('\\n') }}{{ m.content.split('x') | length }}",
    "partitions it": "{{ m.content.partition('a')[2] }}{{ m.content }}",
    "splits it at blanks": "{{ m.content.split() | join(' ') }}",
    "strips letters": "{{ m.content.strip('ab') }}{{ m.content.removeprefix('x') }}{{ m.content | trim('x') }}",
    "asks for its kind": "{{ m.content if m.content is string and m.content is iterable and m.content is sequence"
    " and m.content is not mapping and m.content is not none and m.content is defined and m.content is not number }}",
    "asks for odd kinds": "{{ m.content }}{{ m.content is callable }}{{ m.content is escaped }}"
    "{{ m.content is lower }}",
    "asks for methods": "{{ m.content }}{{ m.content.strip is defined }}{{ m.content.foo is defined }}"
    "{{ m.content.strip is callable }}{{ 1 if m.content.foo else 2 }}{{ m.content.strip == m.content.strip }}",
    "asks for a key of it": "{{ m.content }}{{ m.content.text }}{{ m.content['text'] }}",
    "chooses by it": "{{ messages | selectattr('content', 'equalto', 'a') | list | length }}{{ m.content }}",
    "sorts by it": "{{ (messages | sort(attribute='content'))[0].content }}{{ m.content }}",
    "joins them": "{{ messages | map(attribute='content') | join('+') }}{{ m.content }}",
    "adds them": "{{ messages | sum(attribute='content', start='') }}{{ m.content }}",
    "uses it as a key": "{{ {'a': 1}[m.content] }}{{ {m.content: 1} }}{{ m.content }}",
    "takes a default": "{{ m.content | default('none', true) }}{{ m.content or 'none' }}{{ m.get('content', 'x') }}",
    "replaces in it": "{{ m.content.replace('x', 'yy') }}{{ m.content | replace('a', 'b') }}",
    "marks it as safe": "{{ ('<b>' | safe) + m.content }}{{ m.content | safe }}{{ m.content | e }}",
    "repeats it": "{{ m.content * 2 }}",
    "looks at its place": "{{ m.content }}{{ loop.first }}{{ loop.last }}{{ loop.index0 % 2 }}"
    "{{ loop.changed(m.content) }}",
    "looks at what follows": "{{ m.content }}{{ loop.nextitem.content if not loop.last }}",
    "writes the day": "{{ strftime_now('%d') }}{{ m.content }}",
    "raises for it": "{% if 'x' in m.content %}{{ raise_exception('no x: ' + m.content) }}{% endif %}{{ m.content }}",
    "does too much": "{{ m.content }}{% if 'x' in m.content %}{% for i in range(99999) %}{% for j in range(99999) %}"
    "{{ m.content }}{% endfor %}{% endfor %}{% endif %}",
}
TEMPLATES = {
    **{name: (lambda name=name: shared_template(name)) for name in NAMES},
    "indented": lambda: (assets_folder() / "templates" / "chatml.jinja").read_text(),
    "plain": lambda: CHATML,
    "marked": lambda: MARKED,
    "thinks": lambda: CHATML.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\n\n</think>\n\n'"),
    "without prompt": lambda: CHATML.partition("{% if add_generation")[0],
    "backwards": lambda: (
        "{% for m in messages[::-1] %}{{ '<|' + m['role'] + '|>' + m['content'] + '</s>' }}{% endfor %}"
    ),
    **{f"it {name}": (lambda done=done: EACH.replace("HERE", done)) for name, done in DONE.items()},
}
PIECES = (
    *(
        "a",
        "b",
        "x",
        "word",
        "two words",
        "",
        " ",
        "\n",
        "\t ",
        "Aleph",
        "Beth.",
        "é",
        "\u2028",
        "👩‍👧",
        "東京",
        "\x00",
    ),
    *(
        "<think>",
        "</think>",
        "<think>\nt\n</think>\n\n",
        "<think>\n\n</think>\n\n",
        "<tool_response>",
        "</tool_response>",
    ),
    *(
        "<|im_start|>assistant\n",
        "<|im_end|>",
        "<|im_end|>\n",
        "</s>",
        "<s>",
        "[INST]",
        " [/INST] ",
        "<|end|>\n",
        "<|user|>",
    ),
    *(
        "<start_of_turn>model\n",
        "<end_of_turn>\n",
        "<|eot_id|>",
        "<<SYS>>\n",
        "{{ m }}",
        "%s",
        "assistant",
        "user",
        "'",
        '"',
    ),
)


def content(chance: random.Random) -> str:
    """Half of the time plain, else anything that a template may write itself or look for."""
    if chance.random() < 0.5:
        return chance.choice(("a", "b", "word", "two words"))
    return "".join(chance.choices(PIECES, k=chance.randrange(4)))


def conversation(chance: random.Random) -> tuple[dict[str, Any], ...]:
    """One to six turns, mostly of a user and an assistant in turn."""
    roles = ["system"] * (chance.random() < 0.3) + ["user", "assistant"] * chance.randint(1, 6)
    if chance.random() < 0.2:
        roles.insert(chance.randrange(len(roles) + 1), chance.choice(("tool", "system", "user", "assistant")))
    roles = roles[: len(roles) - (chance.random() < 0.1)]
    messages: list[dict[str, Any]] = [{"role": role, "content": content(chance)} for role in roles]
    if chance.random() < 0.2:
        key = chance.choice(("name", "reasoning_content", "thinking", "reasoning", "note"))
        chance.choice(messages)[key] = content(chance)
    if chance.random() < 0.1:
        call = {"type": "function", "function": {"name": "get", "arguments": {"a": content(chance)}}}
        chance.choice(messages)["tool_calls"] = [call]
    return tuple(messages)


@contextmanager
def untraced() -> Iterator[None]:
    """Every text is rendered, as the oracle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing.Traces, "text", lambda *_: None)
        patch.setattr(tracing.Traces, "learn", lambda *_: None)
        patch.setattr(plans.Plans, "find", lambda *_: None)
        patch.setattr(plans.Plans, "learn", lambda *_: None)
        yield


def said(example: Chat, made: Any, loss_on: Any) -> Any:
    """The text and its spans, or the words of a refusal."""
    try:
        return chat_text(example, made, loss_on, NOW)
    except BadRow as refused:
        return refused.expected, refused.found, refused.kind
    except MlxtuneError as refused:
        return str(refused)


def check(name: str, count: int, seed: int) -> int:
    """Random conversations, written both ways. How many of them were found by a trace."""
    made, chance, traced = tokenizer(TEMPLATES[name]()), random.Random(f"{name} {seed}"), 0
    for _ in range(count):
        messages = conversation(chance)
        untrained = frozenset(place for place in range(len(messages)) if chance.random() < 0.05)
        tools = [{"type": "function", "function": {"name": "get"}}] if chance.random() < 0.05 else None
        example = Chat(messages, tools, chance.choice((0, 0, 2)), untrained)
        loss_on = chance.choice(("auto", "auto", "last", "all"))
        with renderings() as counted:
            found = said(example, made, loss_on)
        traced += len(counted) == 1
        with untraced():
            assert said(example, made, loss_on) == found, (name, example)
    return traced


def check_beginnings(name: str, count: int, seed: int) -> None:
    """Whatever traces write of random conversations, with work to spare or not, the template writes too."""
    made, chance = tokenizer(TEMPLATES[name]()), random.Random(f"{name} {seed}")
    for _ in range(count):
        writer = Writer(made, conversation(chance), None, NOW)
        for end in range(1, len(writer.messages) + 1):
            check_text(writer, writer.messages[:end], chance.random() < 0.5, chance.choice((300, 2_000, 9_000, 90_000)))


def check_text(writer: Writer, messages: Any, prompt: bool, work: int) -> None:
    if writer._traces is None:
        return
    known, writer._work = writer._traces.text(messages, prompt, work), work
    try:
        written, _ = writer.marked(messages, prompt)
    except (BadRow, MlxtuneError):
        assert known is None, messages
    else:
        assert known in (None, written), messages
        writer._traces.learn(messages, prompt, written)


@contextmanager
def renderings() -> Iterator[list[int]]:
    counted: list[int] = []
    render = Environment.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Environment, "text", lambda *given: counted.append(1) or render(*given))
        yield counted


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.few(16)
def test_spans_and_refusals_are_those_of_rows_that_are_rendered_in_full(name: str) -> None:
    check(name, 60, seed=0)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.few(16)
def test_a_trace_writes_of_every_beginning_what_the_template_writes_or_nothing(name: str) -> None:
    check_beginnings(name, 30, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_ten_thousand_conversations_come_out_as_if_each_were_rendered_in_full(name: str) -> None:
    check(name, 10_000 // len(TEMPLATES) + 1, seed=1)
    check_beginnings(name, 10_000 // len(TEMPLATES) + 1, seed=2)


@pytest.mark.parametrize("turns", [1, 2, 6])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(10)
def test_a_conversation_of_a_known_shape_is_rendered_once_however_many_turns_it_has(name: str, turns: int) -> None:
    made = tokenizer(shared_template(name), eos="<|im_end|>")
    rows = [Chat(tuple(chat(*[f"{word} {turn}" for turn in range(2 * turns)])["messages"])) for word in "abcd"]
    for row in rows[:3]:
        chat_text(row, made, "auto", NOW)
    with renderings() as counted:
        chat_text(rows[3], made, "auto", NOW)
    assert len(counted) == 1


def test_a_trace_that_does_not_write_the_conversation_as_the_template_does_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, rows = tokenizer(CHATML), [Chat(tuple(chat(word, word)["messages"])) for word in "abcd"]
    wanted = [chat_text(row, made, "auto", NOW) for row in rows]
    monkeypatch.setattr(tracing.Traces, "text", lambda *_: "<|im_start|>user\nsomething else")
    assert [chat_text(row, made, "auto", NOW) for row in rows] == wanted


def test_a_conversation_that_may_cost_the_template_too_much_is_rendered() -> None:
    made = tokenizer(CHATML)
    writer = Writer(made, chat("q", "a")["messages"], None, NOW)
    for _ in range(3):
        writer(writer.messages, True)
    assert writer._traces is not None
    assert writer._traces.text(writer.messages, True, 100_000) == writer(writer.messages, True)
    assert writer._traces.text(writer.messages, True, 100) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.few(3)
def test_tokens_and_masks_are_those_of_rows_that_are_rendered_in_full(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    path = write(tmp_path / "train.jsonl", [{"messages": conversation(chance)} for _ in range(60)])
    for template in (CHATML, shared_template("qwen3"), shared_template("llama-2-chat")):
        same_tokens(path, tokenizer_of_kind(kind, template))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_own", [False, True])
@pytest.mark.few(4)
def test_tokens_alone_are_those_that_are_found_with_their_characters(kind: str, is_own: bool) -> None:
    made, chance = tokenizer_of_kind(kind), random.Random(kind)
    if is_own:
        made = copy(made)
        made.__class__ = type("Own", (type(made),), {"__call__": lambda *given, **named: made_as(*given, **named)})
    texts = [content(chance) for _ in range(100)]
    assert tokens_alone(texts, made) == [each.tokens.tolist() for each in encode(texts, made)]


def made_as(made: Any, texts: list[str], **options: Any) -> Any:
    """A tokenizer that does something of its own to texts."""
    return super(type(made), made).__call__([text.upper() for text in texts], **options)


@pytest.mark.parametrize("name", ["tokenizers/llama3.1", "tokenizers/minimind", "models/stories260K"])
@pytest.mark.parametrize("data", ["alpaca/alpaca_en_demo.json", "preference/dpo_en_demo.json", "chat"])
@pytest.mark.few(2)
def test_real_data_comes_out_as_if_each_row_were_rendered_in_full(name: str, data: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(assets_folder() / name)
    made.chat_template = made.chat_template or CHATML
    for file in sorted((assets_folder() / "data" / data).glob("*.jsonl")) or [assets_folder() / "data" / data]:
        part = tmp_path / file.name
        part.write_text(file.read_text() if file.suffix == ".jsonl" else json.dumps(json.loads(file.read_text())[:80]))
        same_tokens(part, made)


def same_tokens(path: Path, made: Any) -> None:
    settings = DataSettings(path=str(path), skip_bad_rows=True, max_seq_length=9000, now=NOW.isoformat())

    def rows() -> Any:
        try:
            loaded = load(settings, made, seed=0)
        except MlxtuneError as refused:
            return str(refused)
        made_of = [(row.tokens.tolist(), row.supervised.tolist(), row.source) for row in (*loaded.train, *loaded.valid)]
        return made_of, loaded.refused, loaded.notes

    found = rows()
    with untraced():
        assert rows() == found
