"""The special tokens around text: what begins it and what ends an answer, so that each is there once and can be learnt.

A model stops at the tokens that its files name (`models.stopping`), at what its chat template writes after an answer,
and at the text that --end-of-turn names, which follows each answer that the template does not end so.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from mlxtune.data.encoding import Ints, decoded
from mlxtune.data.faults import BadRow
from mlxtune.data.messages import Message
from mlxtune.data.messages import text as encodable
from mlxtune.data.template import Writer
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.turns import WORDS, Span, Turns
from mlxtune.errors import BadModel

NONE = "none"  # of --end-of-turn: nothing follows an answer, and that is meant
SHORTEST = 3  # characters of a template's own text that ends a turn; less may stand in the middle of one
_SAMPLE = "a b"


class Special(NamedTuple):
    """What a tokenizer, its chat template and the user put around text."""

    before: tuple[int, ...] = ()  # what the tokenizer puts in front of a text
    beginning: str = ""  # the same, as written
    after: tuple[int, ...] = ()  # and behind it
    eos: int | None = None  # ends a text that nothing has ended
    stops: frozenset[int] = frozenset()  # tokens at which generation stops
    marks: Mapping[int, str] = {}  # those of them that are no ordinary text, as written
    texts: tuple[str, ...] = ()  # of several tokens, at which generation stops too
    added: Mapping[int, str] = {}  # every special token
    opening: str = ""  # the token that the chat template begins a conversation with
    turn: str = ""  # what it writes at the end of an answer
    written: str = ""  # what has to follow each answer

    @property
    def words(self) -> tuple[str, ...]:
        """Whatever ends an answer, as text."""
        return (*self.texts, *self.marks.values())

    def is_rendered(self, prompt: str) -> bool:
        """Whether a prompt is a conversation already, as the chat template writes them."""
        return bool(self.opening) and prompt.lstrip().startswith(self.opening)

    def begun(self, text: str) -> str:
        """The text without blanks before the tokens that the tokenizer would put in front of it."""
        bare = text.lstrip()
        return bare if self.beginning and bare.startswith(self.beginning) else text

    def closed(self, text: str, *, is_answer: bool) -> str:
        """The text without blanks behind what ends it, and with what --end-of-turn names where nothing does.

        That follows answers; a text that is none ends as the tokenizer says, if it does.
        """
        bare = text.rstrip()
        if bare.endswith(tuple(filter(None, self.words))):
            return bare
        return text + self.written if is_answer or self.eos is None else text

    def to_the_end(self, text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
        """Spans up to what --end-of-turn names: the template may write it just behind what it marks, and blanks or its
        own end behind it, which no one generates."""

        def end(start: int, at: int) -> int:
            before, found, rest = text[start:at].rpartition(self.written)
            if found and not _without(rest, self.words).strip():
                return start + len(before + found)
            behind = text[at:].lstrip()
            return len(text) - len(behind) + len(self.written) if behind.startswith(self.written) else at

        return tuple(Span(start, end(start, at)) for start, at in spans) if self.written else tuple(spans)

    def missing(self, tokens: Ints) -> list[int]:
        """What the tokenizer puts in front of a text, if it is not there."""
        return [] if tokens[: len(self.before)].tolist() == list(self.before) else list(self.before)

    def following(self, tokens: Ints, text: str) -> list[int]:
        """What ends a text that is not ended."""
        if not self.marks.keys().isdisjoint(tokens[-1:].tolist()) or text.endswith(self.texts):
            return []
        ended = self.eos is None or not self.marks.keys().isdisjoint(self.after)
        return [*self.after, *(() if ended or self.eos is None else (self.eos,))]

    def ended(self, messages: Collection[Message]) -> tuple[Message, ...]:
        """Messages whose answers end as they have to: with what --end-of-turn names, with nothing that the template
        writes anyway."""
        return tuple(self._ended(message) if message["role"] == "assistant" else message for message in messages)

    def _ended(self, message: Message) -> Message:
        content: str = message["content"]
        if self.turn.strip() or self.written:
            content = _without(content, self.words)
        if not content.strip():  # a call of a tool, or an end alone
            return message
        content += "" if self.turn.strip().startswith(self.written) else self.written
        return message if content == message["content"] else {**message, "content": content}


def read(tokenizer: Tokenizer, ids: Collection[int] = (), end_of_turn: str | None = None) -> Special:
    """Everything around text. ids: the tokens at which the model stops, by its files."""
    written = end_of_turn if end_of_turn and end_of_turn != NONE else ""
    known = tokenizer.added_tokens_decoder  # made anew each time
    added = {number: str(token) for number, token in known.items() if token.special}
    opening, turn = _probed(tokenizer, added.values())
    before, after = _added(tokenizer)
    eos, stops, texts = tokenizer.eos_token_id, list[int](), list[str]()
    for text in filter(None, (written, turn.strip())):
        tokens = tokenizer([text], add_special_tokens=False)["input_ids"][0]
        mark = next((token for token in tokens if token in known), None)
        if mark is not None:
            stops.append(mark)
        elif text == written or len(text) >= SHORTEST:
            texts.append(text)
    stops += [*([] if eos is None else [eos]), *after[-1:], *sorted(ids)]
    marks = {each: _word(tokenizer, each) for each in stops if each == eos or each in known}
    beginning = decoded(np.array(before, np.int32), tokenizer).strip()
    return Special(before, beginning, after, eos, frozenset(stops), marks, tuple(texts), added, opening, turn, written)


def _word(tokenizer: Tokenizer, token: int) -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False)).strip()


def _without(content: str, words: Collection[str]) -> str:
    """The content without one of the words, and blanks, at its end."""
    stripped = content.rstrip()
    word = next((word for word in words if word and stripped.endswith(word)), None)
    return content if word is None else stripped.removesuffix(word)


def _added(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens that the tokenizer's post-processor puts in front of a text and behind it."""
    made: Any = tokenizer([_SAMPLE], return_special_tokens_mask=True, return_attention_mask=False)
    tokens, added = made["input_ids"][0], made["special_tokens_mask"][0]
    own = [place for place, is_added in enumerate(added) if not is_added] or [len(tokens)]
    return tuple(tokens[: own[0]]), tuple(tokens[own[-1] + 1 :])


def _probed(tokenizer: Tokenizer, added: Collection[str]) -> tuple[str, str]:
    """The special token that the chat template begins with, and what it writes at the end of an answer.

    A template that cannot be asked this way is asked again by each row, which is where its faults are told.
    """
    if not tokenizer.chat_template:
        return "", ""
    asked, word = WORDS
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": word}]
    try:
        writer = Writer(tokenizer, messages, None, datetime(2000, 1, 1))
        turns = Turns(writer, writer.messages, writer.eos)
        [(start, end)] = turns.spans([1])
        encodable(turns.text, "the rendered chat", "text")
    except (BadRow, BadModel):
        return "", ""
    opening = max((token for token in added if turns.text.startswith(token)), key=len, default="")
    answer = turns.text[start:end]
    return opening, answer[answer.rindex(word) + len(word) :]
