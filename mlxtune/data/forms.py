"""The forms of rows: which one a row has is decided for each row by its keys; then the row becomes an example.

Where the keys of several forms are there, the first in `FORMS` is meant. Keys that take part in no form are told once.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from mlxtune.data import examples, marks, renames
from mlxtune.data.examples import SYSTEM, Example
from mlxtune.data.faults import BadRow, Fault, Place, fault
from mlxtune.data.readers.raw import Document, Raw
from mlxtune.data.renames import Renamed
from mlxtune.data.types import Refused
from mlxtune.data.unread import Unread
from mlxtune.format import listed, shown


class Row(NamedTuple):
    """An example, the form it was written in, and where. rejected: the same with the worse answer, of a pair. renamed:
    its keys whose names were other spellings of the form's."""

    place: Place
    form: str
    example: Example
    rejected: Example | None = None
    renamed: Renamed = ()

    @property
    def answers(self) -> "tuple[Row, ...]":
        """Itself or, of a pair, the chosen and the rejected answer each as a row."""
        if self.rejected is None:
            return (self,)
        return (self._replace(rejected=None), self._replace(example=self.rejected, rejected=None))


MEDIA = ("image", "images", "audio", "audios", "video", "videos")
_MEDIA = frozenset(MEDIA)
EXTRAS = (*SYSTEM, "tools", "functions", *marks.VERDICTS, *marks.MARKS, *MEDIA)  # that rows with turns may have
ASKED = (*EXTRAS, "history")  # and rows with a prompt


class Form(NamedTuple):
    name: str
    needs: tuple[str, ...]
    read: Callable[..., Example]  # of the row's keys; of a pair, and the key of an answer
    may: tuple[str, ...]  # keys that it reads besides

    @property
    def is_pair(self) -> bool:
        """Whether it has two answers, of which one is better."""
        return "rejected" in self.needs

    def reads(self, key: str) -> bool:
        return key in self.needs or key in self.may


FORMS = (
    Form("messages", ("messages",), examples.chat, EXTRAS),
    Form("preference", ("conversations", "chosen", "rejected"), examples.preferred_turn, EXTRAS),
    Form("preference", ("prompt", "chosen", "rejected"), examples.preferred, ASKED),
    Form("preference", ("chosen", "rejected"), examples.preferred_alone, EXTRAS),
    Form("conversations", ("conversations",), examples.conversations, EXTRAS),
    Form("prompt/completion", ("prompt", "completion"), examples.completion, ASKED),
    Form(
        "instruction/output", ("instruction", "output"), examples.instruction, (*EXTRAS, "history", "input", "context")
    ),
    Form("text", ("text",), examples.plain_text, (*marks.MARKS, *MEDIA)),
)
KNOWN = ", ".join("+".join(form.needs) for form in FORMS)
PAIRS = ", ".join("+".join(form.needs) for form in FORMS if form.is_pair)


def rows(
    raws: Iterable[Raw | Fault], unread: Unread, *, pairs: bool = False, named: Collection[str] = ()
) -> Iterator[Row | Refused | Fault]:
    """Each row, or why it is none. unread takes the text of the keys that no form reads. pairs: of both answers of
    preferences. named: the keys that the user gave a column for, which each row's form has to read."""
    return (raw if isinstance(raw, Fault) else _row_or_fault(raw, unread, pairs, named) for raw in raws)


def _row_or_fault(raw: Raw, unread: Unread, pairs: bool, named: Collection[str]) -> Row | Refused | Fault:
    try:
        return row(raw, unread, pairs=pairs, named=named)
    except BadRow as bad:
        return fault(raw.place, bad)


def row(raw: Raw, unread: Unread, *, pairs: bool = False, named: Collection[str] = ()) -> Row | Refused:
    """The example that a raw row holds; a row that is marked as not to be trained is left out. Raises BadRow.

    pairs: the row must have two answers, and both are read. named: keys that its form has to read.

    >>> from pathlib import Path
    >>> row(Raw(Place(Path("a.jsonl"), 1), {"text": "Once", "id": 7}), Unread()).example
    Text(text='Once')
    """
    if isinstance(raw.value, Document):
        if pairs:
            raise BadRow(f"a row with two answers ({PAIRS})", "plain text")
        return Row(raw.place, "document", raw.value)
    if not isinstance(raw.value, dict):
        raise BadRow("a JSON object", shown(raw.value))
    given = {key: value for key, value in raw.value.items() if value is not None}
    form, renamed = _form(given, named), Renamed()
    if form is None and (renamed := renames.spelled(given)):
        given = renames.with_names(given, renamed)
        form = _form(given, named)
    if form is None:
        raise _unreadable(given, named) or _unknown(raw.value)
    if pairs and not form.is_pair:
        raise BadRow(f"a row with two answers ({PAIRS})", f"one of the form {'+'.join(form.needs)}", kind=form.name)
    if not _MEDIA.isdisjoint(given) and (media := next((key for key in MEDIA if given.get(key)), None)):
        raise BadRow("rows of text alone", f"something under `{media}`")
    if not marks.is_trained(given, "the row"):
        return Refused(raw.place.short, "marked as not to be trained")
    if form.name != "text" and marks.is_bad_answer(given):
        return Refused(raw.place.short, "marked as a bad answer")
    made = Row(raw.place, form.name, form.read(given), form.read(given, "rejected") if pairs else None, renamed)
    for key, value in given.items():
        if not form.reads(key) or (key in marks.VERDICTS and marks.verdict(value, key) is None):
            unread.add(key, value)
    return made


def _form(given: Mapping[str, Any], named: Collection[str]) -> Form | None:
    fitting = (form for form in FORMS if all(key in given for key in form.needs))
    return next((form for form in fitting if all(map(form.reads, named))), None)


def _unreadable(given: Mapping[str, Any], named: Collection[str]) -> BadRow | None:
    """Of a row that has a form, but none that reads what the user gave columns for."""
    form = _form(given, ())
    names = ", ".join(named)
    return form and BadRow(f"a row of a form that reads {names}", f"one of the form {'+'.join(form.needs)}")


def _unknown(given: Mapping[str, Any]) -> BadRow:
    expected, found, kind, remedy = _words(tuple((key, renames.kind(value)) for key, value in given.items()))
    return BadRow(expected, found, kind=kind, remedy=remedy)


@lru_cache(100)
def _words(row: tuple[tuple[str, renames.Kind], ...]) -> tuple[str, str, str, str]:
    """What is expected of a row of no form, found, which rows are told with it, and what is to be done. All rows of a
    file may be of one kind."""
    kinds = dict(row)
    for form in FORMS:
        if all(key in kinds for key in form.needs):
            return f"a value under `{next(key for key in form.needs if kinds[key] == 'null')}`", "null", "", ""
    keys = listed((shown(key, 40) for key in kinds), 8)
    kind = renames.remedy(kinds, [form.needs for form in FORMS])
    return f"a row of a known form ({KNOWN})", f"the keys {keys or 'none'}", kind, kind or renames.which(kinds)
