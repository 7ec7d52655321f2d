"""Chats -> text by the tokenizer's chat template, with the characters that carry loss."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Template, TemplateSyntaxError

from mlxtune.data.examples import Chat
from mlxtune.data.faults import BadRow
from mlxtune.data.messages import Message, check_tools, check_whole, text
from mlxtune.data.meter import TooMuchWork
from mlxtune.data.plans import Plans
from mlxtune.data.sandbox import Environment
from mlxtune.data.settings import LossOn
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.tracing import Tracer, Traces
from mlxtune.data.turns import Span, Turns, Written
from mlxtune.errors import BadData, BadModel
from mlxtune.format import counted, line, shortened

WORK, WORK_A_CHARACTER, MOST_WORK = 4_000_000, 1_000, 200_000_000  # of one text, see sandbox; more of a longer one
LARGEST_TEMPLATE = 100_000  # characters
QUOTED = 200  # characters of a template's own words in a message
REASONING = ("reasoning_content", "thinking", "reasoning")  # the names that templates read a message's reasoning by
REMEDY = "It is chat_template.jinja of the model, or chat_template in its tokenizer_config.json. Mend it there."

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


def chat_text(chat: Chat, tokenizer: Tokenizer, loss_on: LossOn, now: datetime) -> tuple[str, tuple[Span, ...]]:
    """The rendered conversation and the spans that carry loss, in order. now: the time that the template may write.

    Raises BadRow; BadModel for a template that no row can be written with.
    """
    rendered, spans = _text_and_spans(chat, Writer(tokenizer, chat.messages, chat.tools, now), loss_on)
    text(rendered, "the rendered chat", "text")
    check_tools(rendered, chat.tools)
    for message in chat.messages:
        check_whole(rendered, message)
    return rendered, spans


def prompt_text(messages: Sequence[Message], tokenizer: Tokenizer, now: datetime) -> str:
    """The conversation as a prompt, up to where the assistant writes. Raises BadData and BadModel."""
    try:
        writer = Writer(tokenizer, messages, None, now)
        return text(writer(writer.messages, True), "the rendered chat", "text")
    except BadRow as refused:
        remedy = "A chat template knows some roles, in some order. Leave the system message out, or name another model."
        raise BadData("chat", expected=refused.expected, found=refused.found, remedy=remedy) from None


class Writer:
    """A tokenizer's chat template, and all that it is given for one conversation or for the beginning of it."""

    def __init__(self, tokenizer: Tokenizer, messages: Sequence[Message], tools: Any, now: datetime) -> None:
        source: str = tokenizer.get_chat_template(None, tools)
        self.where = str(tokenizer.name_or_path or "tokenizer")
        self.eos = str(tokenizer.eos_token or "")
        self.messages: list[Message] = [_reasoned(each) for each in messages]
        special = json.dumps(tokenizer.special_tokens_map, default=_plain)
        self._known = _known(source, self.where, special, self.eos, now if "strftime_now" in source else None)
        self.is_marked = self._known.is_marked
        is_traced = not tools and not self.is_marked
        self._traces = self._known.traces if is_traced else None
        self._plans = self._known.plans if is_traced else None
        self._given = {**self._known.given, "tools": _plain(tools), "strftime_now": now.strftime}
        self._is_traced = False
        self._work = min(WORK + WORK_A_CHARACTER * _characters(self.messages), MOST_WORK)

    @cached_property
    def whole(self) -> str:
        """The conversation, as the template writes it."""
        written, _ = self.marked(self.messages, False)
        return written

    def __call__(self, messages: Sequence[Message], prompt: bool) -> str:
        """The text: by a trace where there is one, once the traced text of the whole is the one that is rendered."""
        is_whole = messages is self.messages and not prompt
        known = self._traces.text(messages, prompt, self._work) if self._traces else None
        if known is not None and self._is_traced and not is_whole:
            return known
        written = self.whole if is_whole else self.marked(messages, prompt)[0]
        if is_whole:
            self._is_traced = known == written
        if self._traces and known is None:
            self._traces.learn(messages, prompt, written)
        return written

    def spans(self, indices: Sequence[int]) -> tuple[Span, ...]:
        """The assistant's turns of these indices in the whole: by a plan where there is one that writes the whole."""
        places = self._plans.find(self.messages, indices, self._work, self.whole) if self._plans else None
        if places is not None:
            return Written(self.whole, self.messages, self.eos).spans(places)
        found = Turns(self, self.messages, self.eos).spans(indices)
        if self._plans:
            self._plans.learn(self.messages, indices, found, self.whole)
        return found

    def marked(self, messages: Sequence[Message], prompt: bool) -> tuple[str, list[Span]]:
        """The text, and the spans inside the template's own generation markers.

        A template may raise anything, which refuses the row in the template's words.
        """
        given = {**self._given, "messages": messages, "add_generation_prompt": prompt}
        try:
            written, spans = self._known.environment.text(self._known.template, given, self._work)
        except (TooMuchWork, RecursionError, MemoryError):
            found = "one whose loops, calls or texts go on far beyond that"
            raise BadModel(
                self.where, expected="a chat template that ends in reasonable time", found=found, remedy=REMEDY
            ) from None
        except Exception as error:
            words = _words(error)
            raise BadRow(
                "messages that the chat template accepts", f"some that it refuses: {words}", kind=words
            ) from None
        return written, [Span(start, end) for start, end in spans if start < end]


class _Known(NamedTuple):
    """A chat template ready to be rendered. given: what it gets beside messages and tools."""

    environment: Environment
    template: Template
    given: Mapping[str, Any]
    is_marked: bool
    traces: Traces
    plans: Plans


@lru_cache(maxsize=8)
def _known(source: str, where: str, special: str, eos: str, now: datetime | None) -> _Known:
    """special: the tokens that the template gets by their names, as JSON. now: where it may write the time.

    Raises BadModel for one that is no template.
    """
    given = {**json.loads(special), "documents": None}
    tracer = Tracer(source, {**given, "tools": None} | ({"strftime_now": now.strftime} if now else {}))
    return _Known(*_compiled(source, where), given, bool(_MARKERS.search(source)), Traces(tracer), Plans(tracer, eos))


@lru_cache(maxsize=8)
def _compiled(source: str, where: str) -> tuple[Environment, Template]:
    """Raises BadModel for one that is no template."""
    expected, environment = "a chat template that Jinja can read", Environment()
    if len(source) > LARGEST_TEMPLATE:
        raise BadModel(where, expected=expected, found=f"one of {len(source):,} characters", remedy=REMEDY)
    try:
        return environment, environment.from_string(source)
    except TemplateSyntaxError as error:
        raise BadModel(
            f"{where}: chat template, line {error.lineno}", expected=expected, found=_words(error), remedy=REMEDY
        ) from None
    except Exception as error:  # nested too deep for the parser or for Python, by whichever comes first
        raise BadModel(where, expected=expected, found=f"one that cannot be ({_words(error)})", remedy=REMEDY) from None


def _words(error: Exception) -> str:
    return shortened(line(str(error)[: 2 * QUOTED]).strip().rstrip(".") or type(error).__name__, QUOTED)


def _characters(messages: Sequence[Message]) -> int:
    return sum(len(value) for message in messages for value in message.values() if type(value) is str)


def _reasoned(message: Message) -> dict[str, Any]:
    """The message in plain types, without nulls, its reasoning under each name that templates know it by."""
    given = {
        name: value if type(value) is str else _plain(value) for name, value in message.items() if value is not None
    }
    reasoning = next((given[name] for name in REASONING if name in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


def _plain(value: Any) -> Any:
    """The value made of JSON's types alone, whose methods the sandbox knows; of anything else its type's name."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    return f"<{type(value).__name__}>"


def _text_and_spans(chat: Chat, write: Writer, loss_on: LossOn) -> tuple[str, tuple[Span, ...]]:
    if loss_on == "all":
        return write.whole, _without(Span(0, len(write.whole)), _untrained(chat, write))
    return _turns(chat, write, _trained(chat, loss_on))


def _turns(chat: Chat, write: Writer, indices: list[int]) -> tuple[str, tuple[Span, ...]]:
    """The rendered conversation and the spans of the assistant's turns that are asked for."""
    if write.is_marked:
        marked, spans = write.marked(write.messages, False)
        return marked, _chosen(spans, chat, indices)
    return write.whole, write.spans(indices)


def _trained(chat: Chat, loss_on: LossOn) -> list[int]:
    """The messages that carry loss."""
    first = chat.context if loss_on == "auto" else 0
    turns = [index for index in _assistant(chat) if index >= first]
    return [index for index in (turns[-1:] if loss_on == "last" else turns) if index not in chat.untrained]


def _untrained(chat: Chat, write: Writer) -> tuple[Span, ...]:
    """The turns that are marked as not to be trained, where everything else is. Only an assistant's can be found."""
    if not chat.untrained:
        return ()
    if not chat.untrained <= set(_assistant(chat)):
        raise BadRow("marks on the assistant's turns alone, with --loss-on all", "one on another turn")
    return _turns(chat, write, sorted(chat.untrained))[1]


def _without(whole: Span, holes: Sequence[Span]) -> tuple[Span, ...]:
    """What is left of a span.

    >>> [tuple(span) for span in _without(Span(0, 9), [Span(2, 4)])]
    [(0, 2), (4, 9)]
    """
    edges = [whole.start, *(edge for hole in holes for edge in hole), whole.end]
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return tuple(Span(start, end) for start, end in pairs if start < end)


def _assistant(chat: Chat) -> list[int]:
    return [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]


def _chosen(spans: list[Span], chat: Chat, indices: list[int]) -> tuple[Span, ...]:
    """Of the marked spans those of the turns that are asked for."""
    turns = _assistant(chat)
    if indices == turns:
        return tuple(spans)
    if len(spans) != len(turns):
        found = f"one that marks {counted(len(spans), 'span')} for {counted(len(turns), 'turn')}"
        raise BadRow("a chat template that marks each assistant turn once", found)
    return tuple(spans[turns.index(index)] for index in indices)
