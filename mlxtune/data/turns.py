"""Where the assistant's turns are in a rendered conversation, for chat templates that do not mark them.

A turn is what the model has to write: it begins where the generation prompt ends (the conversation before it, rendered
as for generation) and ends with its end-of-turn marker. Whitespace after the marker is the template's, since generation
has stopped by then; where no marker follows the content, the whitespace is all that ends the turn and belongs to it.

Most templates only append, so both places are lengths of rendered prefixes. Some write a turn in another way once more
turns follow (Qwen3 drops its think block), or have no generation prompt (Llama 2). There, two stand-in words take the
content's place in turn: what both renderings share is the template's, so the content's place is known exactly. What
cannot be found in these ways is refused; nothing is guessed.

The prefixes and stand-ins are many renderings of one conversation. Where the places are the same for all conversations
of a kind, they are found once (see plans.py), by what is here.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from mlxtune.data.faults import BadRow
from mlxtune.data.messages import Message, check_whole
from mlxtune.data.patterns import shared

Render = Callable[[Sequence[Message], bool], str]  # messages, with the generation prompt or not -> text
WORDS = ("Aleph", "Beth.")  # stand-ins for content: neither their first nor their last characters agree
StandIn = Callable[[Message, str], Message]  # a message and a word -> the message with the word for its content


class Span(NamedTuple):
    """Characters start..end of a text."""

    start: int
    end: int


class _Around(NamedTuple):
    """What the template writes before and after the content of a turn."""

    before: str
    after: str


class Written(NamedTuple):
    """A rendered conversation. eos: the tokenizer's end-of-text token, "" for none."""

    text: str
    messages: Sequence[Message]
    eos: str

    def spans(self, places: Iterable[tuple[int, Span]]) -> tuple[Span, ...]:
        """The turns that are the messages of these indices, of which the places are where the template writes them.

        Raises BadRow where they cannot be told exactly, or where the template does not write a message.
        """
        found = [(index, self._span(index, *place)) for index, place in places]
        for (index, one), (_, two) in pairwise(found):
            if one.end > two.start:
                raise _inexact(index)
        return tuple(span for _, span in found)

    def _span(self, index: int, start: int, end: int) -> Span:
        if not 0 < start <= end <= len(self.text):
            raise _inexact(index)
        turn = _without_trailing_blanks(self.text[start:end], self.messages[index])
        if self._is_ended_by_the_text(index, turn, end):
            turn += self.text[start + len(turn) : end] + self.eos
        check_whole(turn, self.messages[index])
        return Span(start, start + len(turn))

    def _is_ended_by_the_text(self, index: int, turn: str, end: int) -> bool:
        """Whether all that ends this turn, which is the last, is the end-of-text token that follows."""
        if not self.eos or index != len(self.messages) - 1 or self.text[end:] != self.eos:
            return False
        content = self.messages[index]["content"].rstrip()
        return bool(content) and turn.rstrip().endswith(content)


class Turns:
    """Where the assistant's turns of one conversation are. eos: the tokenizer's end-of-text token, "" for none."""

    def __init__(self, render: Render, messages: Sequence[Message], eos: str) -> None:
        self.messages, self.eos = messages, eos
        self.text = render(messages, False)
        self._render = render
        self._prefix = cache(lambda count, prompt: render(messages[:count], prompt))

    def spans(self, indices: Iterable[int]) -> tuple[Span, ...]:
        """The turns that are the messages of these indices. Raises BadRow where they cannot be told exactly."""
        return Written(self.text, self.messages, self.eos).spans((index, self.place(index)) for index in indices)

    def place(self, index: int) -> Span:
        """Where the template writes a turn, with whatever ends it."""
        if index == 0:
            raise BadRow("a message before the first assistant turn", "a conversation that the assistant begins")
        return Span(self._start(index), self._end(index))

    # where it begins

    def _start(self, index: int) -> int:
        prompt, bare = self._prefix(index, True), self._prefix(index, False)
        if prompt != bare and self.text.startswith(prompt):
            return len(prompt)
        for stand_in in (_word, _reasoned_word):
            here, alone = self._around(index, stand_in, last=False), self._around(index, stand_in, last=True)
            end = shared(prompt, alone.before)
            header, own = alone.before[shared(bare, prompt) : end], alone.before[end:]
            whole_prompt = prompt != bare and alone.before.startswith(prompt)
            start = _header_end(here.before, header, own, whole_prompt=whole_prompt)
            if start is not None and self.text.startswith(here.before[:start]):
                return start
        raise _inexact(index)

    # where it ends

    def _end(self, index: int) -> int:
        closed = self._closed(self.messages[: index + 1])
        if self.text.startswith(closed):
            return len(closed)
        here, ending = self._around(index, _word, last=False).after, self._ending(index)
        if not here.startswith(ending) or not self.text.endswith(here):
            raise _inexact(index)
        return len(self.text) - len(here) + len(ending)

    def _closed(self, messages: Sequence[Message]) -> str:
        """The conversation so far, without an end-of-text token that the template only writes at the very end."""
        closed = self._render(messages, False)
        if self.eos and closed.endswith(self.eos) and not self._render(messages, True).startswith(closed):
            return closed.removesuffix(self.eos)
        return closed

    def _ending(self, index: int) -> str:
        """What the template writes after the content of this turn where it is the last."""
        word = WORDS[0]
        closed = self._closed([*self.messages[:index], _word(self.messages[index], word)])
        return closed[closed.rindex(word) + len(word) :] if word in closed else ""

    def _around(self, index: int, stand_in: StandIn, *, last: bool) -> _Around:
        """What the template writes around the content of this turn; last: where no turns follow."""
        before, after = self.messages[:index], () if last else self.messages[index + 1 :]
        try:
            one, two = (self._render([*before, stand_in(self.messages[index], word), *after], False) for word in WORDS)
        except BadRow:
            raise _inexact(index) from None
        around = _Around(one[: shared(one, two)], one[len(one) - shared(one, two, -1) :])
        if not one.startswith(around.before + WORDS[0]) or not one.endswith(WORDS[0] + around.after):
            raise _inexact(index)
        return around


def _word(message: Message, word: str) -> Message:
    return {"role": message["role"], "content": word}


def _reasoned_word(message: Message, word: str) -> Message:
    """For templates that write a turn with reasoning in another way."""
    reasoning = {key: word for key in ("reasoning_content", "thinking", "reasoning") if message.get(key)}
    content = f"<think>\n{word}\n</think>\n\n{word}" if "</think>" in message["content"] else word
    return {"role": message["role"], "content": content, **reasoning}


def _header_end(before: str, header: str, own: str, *, whole_prompt: bool) -> int | None:
    """Where in `before` the header ends; `own` is what the template adds between the header and the content.

    After the whole generation prompt, `own` is for the model to write (a think block). Otherwise it belongs to the turn
    only where it is blank (the space after Llama 2's [/INST]); else the turn begins at the content.
    """
    if own and (whole_prompt or not own.strip()) and before.endswith(header + own):
        return len(before) - len(own)
    return len(before) if before.endswith(header) else None


def _without_trailing_blanks(turn: str, message: Message) -> str:
    stripped = turn.rstrip()
    content = message["content"].rstrip()
    return turn if content and stripped.endswith(content) else stripped


def _inexact(index: int) -> BadRow:
    expected = "a chat template whose assistant turns can be told apart exactly"
    remedy = "use a template with {% generation %} markers, or --loss-on all"
    return BadRow(expected, f"one that writes messages[{index}] in a way that cannot ({remedy})")
