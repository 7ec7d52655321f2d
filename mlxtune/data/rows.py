"""Raw rows -> rows of tokens, and what is refused on the way. How long a row may be is not asked here: a row is made
once, and every length that a run may want is a view of it (see view.py)."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mlxtune.data import forms, notes, special
from mlxtune.data.answers import SAMPLED, Answers
from mlxtune.data.counts import Counts, Ends
from mlxtune.data.examples import Chat, Text
from mlxtune.data.faults import BadRow, Fault, Place, fault
from mlxtune.data.forms import Row
from mlxtune.data.readers.raw import Document, Raw
from mlxtune.data.renaming import Renaming
from mlxtune.data.settings import DataSettings
from mlxtune.data.split import batched
from mlxtune.data.system import instructed
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.tokens import Marked, Tokens, encode, marked
from mlxtune.data.types import Refused
from mlxtune.data.unread import Unread, texts

T = TypeVar("T")
Lines = NDArray[np.uint32]

_WRITTEN = {"role", "content", "tool_calls", "tool_call_id", "id"}  # checked elsewhere, or names and no text


class MadeRow(NamedTuple):
    """A row of tokens, T of them, and where it is. lines: of a document, the first token of each line but the first."""

    place: Place
    tokens: NDArray[np.int32]  # (T,)
    supervised: NDArray[np.bool_]  # (T,)
    lines: Lines | None = None


class Made(NamedTuple):
    """What became of raw rows, each kind in their order. The rows of a pair are side by side."""

    rows: Sequence[MadeRow]
    refused: Sequence[Refused]  # nothing is learnt from them, or they are marked so
    faults: Sequence[Fault]
    n_unreadable: int  # of the faults, those that no tokenizer is needed to see
    counts: Counts


class Wanted(NamedTuple):
    """What rows are made for. stops: the tokens at which the model stops. pairs: both answers of preferences are read,
    and rows without are bad."""

    settings: DataSettings
    stops: frozenset[int]
    pairs: bool = False

    @property
    def rows_per_example(self) -> int:
        """How many lie side by side."""
        return 2 if self.pairs else 1


Verdict = MadeRow | Refused | Fault


def read(raws: Sequence[Raw | Fault], wanted: Wanted, counts: Counts) -> list[Row | Refused | Fault]:
    """Each raw row under its names, as an example. It takes no tokenizer."""
    columns = wanted.settings.columns
    if not columns:
        return list(forms.rows(raws, counts.unread, pairs=wanted.pairs))
    renaming = Renaming(columns, counts.unread)
    found = list(forms.rows(renaming(raws), counts.unread, pairs=wanted.pairs, named=columns))
    counts.found.plus(renaming.found)
    return found


class Maker:
    """Makes rows of tokens, for a tokenizer and settings that do not change."""

    def __init__(self, wanted: Wanted, tokenizer: Tokenizer) -> None:
        settings = replace(wanted.settings, now=wanted.settings.time.isoformat())  # one time for all rows
        self.wanted, self.settings = wanted._replace(settings=settings), settings
        self.size, self.tokenizer = wanted.rows_per_example, tokenizer
        self.special = special.read(tokenizer, wanted.stops, settings.end_of_turn)

    def make(self, raws: Sequence[Raw | Fault], *, is_first: bool = False, only_check: bool = False) -> Made:
        """The rows that raw ones become. is_first: of the data, where more are sampled.

        only_check: whether they can be read is all that is asked.
        """
        counts = Counts()
        found = read(raws, self.wanted, counts)
        wrong, rows = _of(Fault, found), _of(Row, found)
        refused = _of(Refused, found)
        counts.see(rows)
        if not self._is_told(rows, counts) or only_check:
            return Made((), refused, wrong, len(wrong), counts)
        verdicts = list(self._verdicts(self._instructed(rows, counts), counts, is_first=is_first))
        refused += _of(Refused, verdicts)
        faults = [*wrong, *_of(Fault, verdicts)]
        return Made(_of(MadeRow, verdicts), refused, faults, len(wrong), counts)

    def _is_told(self, rows: Sequence[Row], counts: Counts) -> bool:
        """Whether all rows are of a kind that the settings and the tokenizer can tell the turns of."""
        chats = [row for row in rows if isinstance(row.example, Chat)]
        others = [row for row in rows if isinstance(row.example, Text | Document)]
        if chats and not self.tokenizer.chat_template:
            counts.chats, counts.first_chat = len(chats), str(chats[0].place)
        if others and self.settings.loss_on in ("assistant", "last"):
            counts.first_text = str(others[0].place)
        return not (counts.first_chat or counts.first_text)

    def _instructed(self, rows: Sequence[Row], counts: Counts) -> Sequence[Row]:
        if self.settings.system is None or not self.tokenizer.chat_template:
            return rows
        made = [instructed(row, self.settings.system, self.special) for row in rows]
        counts.instructed = sum(new is not old for new, old in zip(made, rows, strict=True))
        return made

    def _verdicts(self, rows: Sequence[Row], counts: Counts, *, is_first: bool) -> Iterator[Verdict]:
        single = [answer for row in rows for answer in row.answers]
        answers = Answers(self.special, self.settings.end_of_turn, sampled=0 if is_first else SAMPLED - 1)
        verdicts = [_verdict(row, made) for row, made in self._encoded(single, counts.unwritten, answers)]
        counts.ends = Ends.of(answers)
        for group in batched(verdicts, self.size):
            yield from _of_pair(*group) if self.size == 2 else group

    def _encoded(
        self, rows: Sequence[Row], unwritten: Unread, answers: Answers
    ) -> Iterator[tuple[Row, Tokens | BadRow]]:
        written = [self._marked(row) for row in rows]
        encoded = iter(encode([text for text in written if isinstance(text, Marked)], self.tokenizer, self.special))
        for row, text in zip(rows, written, strict=True):
            if isinstance(row.example, Chat) and isinstance(text, Marked):
                _note_unwritten(row.example, text.text, unwritten)
            made = text if isinstance(text, BadRow) else next(encoded)
            if isinstance(text, Marked) and isinstance(made, Tokens):
                answers.add(text, made, row.place.short, self.tokenizer)
            yield row, made

    def _marked(self, row: Row) -> Marked | BadRow:
        try:
            return marked(row.example, self.tokenizer, self.settings, self.special)
        except BadRow as bad:
            return bad


def _of(kind: type[T], mixed: Sequence[object]) -> list[T]:
    return [each for each in mixed if isinstance(each, kind)]


def _verdict(row: Row, made: Tokens | BadRow) -> Verdict:
    """What becomes of a row by itself."""
    if isinstance(made, BadRow):
        return fault(row.place, made)
    if not made.supervised.any():
        return Refused(row.place.short, notes.SILENT)
    lines = _lines(row.example.text, made) if isinstance(row.example, Document) else None
    return MadeRow(row.place, made.tokens, made.supervised, lines)


def _of_pair(chosen: Verdict, rejected: Verdict) -> Sequence[Verdict]:
    """Both rows, or why the pair cannot train."""
    if isinstance(chosen, MadeRow) and isinstance(rejected, MadeRow):
        is_equal = np.array_equal(chosen.tokens, rejected.tokens)
        return [Refused(chosen.place.short, notes.EQUAL)] if is_equal else [chosen, rejected]
    return [next(each for each in (chosen, rejected) if not isinstance(each, MadeRow))]


def _note_unwritten(chat: Chat, written: str, unwritten: Unread) -> None:
    """Count what a message has beside its role, content and tool calls that its chat template has no words for."""
    left: dict[str, list[str]] = {}
    for message in chat.messages:
        for key in message.keys() - (_WRITTEN | {"name"} if message["role"] == "tool" else _WRITTEN):
            left.setdefault(key, []).extend(each for each in texts(message[key]) if each.strip() not in written)
    for key, each in left.items():
        unwritten.add(key, each)


def _lines(text: str, made: Tokens) -> Lines:
    """The first token that begins behind each line's end."""
    ends = np.flatnonzero(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4") == ord("\n"))
    return np.searchsorted(np.maximum.accumulate(made.starts), ends, side="right").astype(np.uint32)
