"""Examples -> rows of tokens that fit the sequence length, and what is refused on the way."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from mlxtune.data import notes
from mlxtune.data.answers import Answers
from mlxtune.data.examples import Chat, Text
from mlxtune.data.faults import BadRow, Fault, Place, fault
from mlxtune.data.forms import Row
from mlxtune.data.readers.raw import Document
from mlxtune.data.settings import DataSettings
from mlxtune.data.special import Special
from mlxtune.data.split import batched
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.tokens import Marked, Tokens, encode, marked
from mlxtune.data.types import Refused, TokenRow
from mlxtune.data.unread import Unread, texts
from mlxtune.errors import BadData, BadSetting
from mlxtune.format import counted

T = TypeVar("T")

_WRITTEN = {"role", "content", "tool_calls", "tool_call_id", "id"}  # checked elsewhere, or names and no text
_CHUNK = 1024  # rows that are encoded together: enough for the tokenizer's threads, little memory


class TooLong(NamedTuple):
    """A row whose last supervised token is its `needs`-th, beyond max_seq_length."""

    place: Place
    needs: int


class Tokenized(NamedTuple):
    """What became of the rows of one split, each in the order of the files. The rows of a pair are side by side."""

    rows: tuple[TokenRow, ...]
    too_long: tuple[TooLong, ...]
    idle: tuple[Refused, ...]  # nothing is learnt from them, or the settings leave them out
    faults: tuple[Fault, ...]  # that the chat template or the tokenizer cannot take


Verdict = TokenRow | TooLong | Refused | Fault


def tokenize(
    rows: Sequence[Row], settings: DataSettings, tokenizer: Tokenizer, unwritten: Unread, answers: Answers
) -> Tokenized:
    """Every row as tokens, or among those that cannot train. Raises for what is wrong with all rows of a form.

    unwritten takes what the chat template leaves out of messages, such as reasoning; answers how they end.
    """
    _check_settings(rows, settings, tokenizer)
    settings = replace(settings, now=settings.time.isoformat())  # one time for all rows
    size = 2 if rows and rows[0].rejected is not None else 1
    single = [answer for row in rows for answer in row.answers]
    verdicts = [_verdict(*each, settings.longest) for each in _encoded(single, settings, tokenizer, unwritten, answers)]
    ends: list[Verdict] = []
    for group in batched(verdicts, size):
        ends += _of_pair(*group) if size == 2 else group

    def of(kind: type[T]) -> tuple[T, ...]:
        return tuple(each for each in ends if isinstance(each, kind))

    return Tokenized(of(TokenRow), of(TooLong), of(Refused), of(Fault))


def _verdict(place: Place, made: Tokens | BadRow, longest: int) -> Verdict:
    """What becomes of a row by itself."""
    if isinstance(made, BadRow):
        return fault(place, made)
    if not made.supervised.any():
        return Refused(place.short, notes.SILENT)
    needs = int(np.flatnonzero(made.supervised)[-1]) + 1
    if needs > longest:
        return TooLong(place, needs)
    return TokenRow(made.tokens[:longest], made.supervised[:longest], place.short)  # what lies beyond carries no loss


def _of_pair(chosen: Verdict, rejected: Verdict) -> Sequence[Verdict]:
    """Both rows, or why the pair cannot train."""
    ends = [each for each in (chosen, rejected) if not isinstance(each, TokenRow)]
    if long := [each for each in ends if isinstance(each, TooLong)]:
        return [max(long, key=lambda each: each.needs)]
    if ends:
        return ends[:1]
    assert isinstance(chosen, TokenRow)
    assert isinstance(rejected, TokenRow)
    if np.array_equal(chosen.tokens, rejected.tokens):
        return [Refused(chosen.source, notes.EQUAL)]
    return [chosen, rejected]


def _check_settings(rows: Sequence[Row], settings: DataSettings, tokenizer: Tokenizer) -> None:
    texts = [row for row in rows if isinstance(row.example, Text | Document)]
    if texts and settings.loss_on in ("assistant", "last"):
        raise BadSetting(
            "data.loss_on",
            expected="auto or all where rows are text, which has no turns",
            found=f"{settings.loss_on}, and {texts[0].place} is text",
        )
    chats = [row for row in rows if isinstance(row.example, Chat)]
    if chats and not tokenizer.chat_template:
        raise BadData(
            str(chats[0].place),
            expected="a tokenizer with a chat template, as this row is a chat",
            found=f"none in {tokenizer.name_or_path or 'the model'} ({counted(len(chats), 'such row')})",
            remedy="Name a model that has one, usually the -Instruct one of its family;"
            " prompt/completion rows and text rows need none.",
        )


def _encoded(
    rows: Sequence[Row], settings: DataSettings, tokenizer: Tokenizer, unwritten: Unread, answers: Answers
) -> Iterator[tuple[Place, Tokens | BadRow]]:
    for start in range(0, len(rows), _CHUNK):
        chunk = rows[start : start + _CHUNK]
        written = [_marked(row, settings, tokenizer, answers.special) for row in chunk]
        encoded = iter(encode([text for text in written if isinstance(text, Marked)], tokenizer, answers.special))
        for row, text in zip(chunk, written, strict=True):
            if isinstance(row.example, Chat) and isinstance(text, Marked):
                _note_unwritten(row.example, text.text, unwritten)
            made = text if isinstance(text, BadRow) else next(encoded)
            if isinstance(text, Marked) and isinstance(made, Tokens):
                answers.add(text, made, row.place.short, tokenizer)
            if isinstance(row.example, Document) and isinstance(made, Tokens):
                yield from _windows(row.place, row.example.text, made, settings.longest)
            else:
                yield row.place, made


def _marked(row: Row, settings: DataSettings, tokenizer: Tokenizer, special: Special) -> Marked | BadRow:
    try:
        return marked(row.example, tokenizer, settings, special)
    except BadRow as bad:
        return bad


def _note_unwritten(chat: Chat, written: str, unwritten: Unread) -> None:
    """Count what a message has beside its role, content and tool calls that its chat template has no words for."""
    left: dict[str, list[str]] = {}
    for message in chat.messages:
        for key in message.keys() - (_WRITTEN | {"name"} if message["role"] == "tool" else _WRITTEN):
            left.setdefault(key, []).extend(each for each in texts(message[key]) if each.strip() not in written)
    for key, each in left.items():
        unwritten.add(key, each)


def _windows(place: Place, text: str, made: Tokens, length: int) -> Iterator[tuple[Place, Tokens]]:
    """A long document as windows of `length` tokens, each with the line that it begins on.

    A window begins with the last token of the one before: what a first token is for is to predict the second from, so
    every token of the document but the first is predicted once.
    """
    line, counted = place.line, 0
    for start in range(0, max(len(made.tokens) - 1, 1), length - 1):
        window = slice(start, start + length)
        supervised = np.r_[False, made.supervised[window][1:]]
        first = int(made.starts[start]) if len(made.starts) else 0
        line, counted = line + text.count("\n", counted, first), first
        yield Place(place.file, line), Tokens(made.tokens[window], supervised, made.starts[window])
