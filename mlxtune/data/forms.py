"""The forms of rows: which one a row has is decided for each row by its keys; then the row becomes an example.

Where the keys of several forms are there, the first in `FORMS` is meant. Keys that take part in no form are told once.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

from mlxtune.data import marks, renames
from mlxtune.data.faults import BadRow, Fault, Place, fault
from mlxtune.data.messages import Message, Said, blank, conversation, parsed_json, said, text, tools
from mlxtune.data.readers.raw import Document, Raw
from mlxtune.data.types import Refused
from mlxtune.data.unread import Unread
from mlxtune.errors import BadData
from mlxtune.format import shown


class Chat(NamedTuple):
    """A conversation. Messages before `context` are context: unless asked for, only turns from there carry loss.
    untrained: the messages that are marked as not to be trained."""

    messages: tuple[Message, ...]
    tools: list[dict[str, Any]] | None = None
    context: int = 0
    untrained: frozenset[int] = frozenset()


class Completion(NamedTuple):
    """A prompt and its completion as plain texts: two turns where there is a chat template, else one text."""

    prompt: str
    completion: str
    plain_prompt: str  # the prompt for a tokenizer without chat template
    system: tuple[Message, ...] = ()  # the system message, if there is one

    @property
    def chat(self) -> Chat:
        user, assistant = ({"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion})
        return Chat((*self.system, user, assistant), context=len(self.system) + 1)


class Text(NamedTuple):
    """Text that is trained as it is."""

    text: str


Example = Chat | Completion | Text | Document


class Row(NamedTuple):
    """An example, the form it was written in, and where. rejected: the same with the worse answer, of a pair."""

    place: Place
    form: str
    example: Example
    rejected: Example | None = None

    @property
    def answers(self) -> "tuple[Row, ...]":
        """Itself or, of a pair, the chosen and the rejected answer each as a row."""
        if self.rejected is None:
            return (self,)
        return (self._replace(rejected=None), self._replace(example=self.rejected, rejected=None))


Keys = Mapping[str, Any]  # a row without the keys that hold null

MEDIA = ("image", "images", "audio", "audios", "video", "videos")
SYSTEM = ("system", "system_prompt", "system_message")
_MEDIA, _SYSTEM = frozenset(MEDIA), frozenset(SYSTEM)
EXTRAS = (*SYSTEM, "tools", "functions", *marks.VERDICTS, *marks.MARKS, *MEDIA)  # that rows with turns may have


def _chat(row: Keys) -> Example:
    return _made(row, Said(), conversation(row["messages"], "messages"))


def _conversation(row: Keys) -> Example:
    return _made(row, Said(), conversation(row["conversations"], "conversations"))


def _preferred_turn(row: Keys, key: str = "chosen") -> Example:
    before = conversation(row["conversations"], "conversations")
    return _made(row, before, _answer(row[key], key))


def _preferred(row: Keys, key: str = "chosen") -> Example:
    return _completion(row, key)


def _preferred_alone(row: Keys, key: str = "chosen") -> Example:
    """Two conversations that begin with the same turns, which are the prompt."""
    whole, other = conversation(row[key], key), conversation(row[_OTHER[key]], _OTHER[key])
    pairs = zip(whole.messages, other.messages, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if not 0 < shared < len(whole.messages):
        found = "none" if not shared else "nothing after them"
        raise BadRow(f"turns that `chosen` and `rejected` begin with, and then an answer under `{key}`", found)
    return _made(row, Said(whole.messages[:shared]), Said(whole.messages[shared:]))


_OTHER = {"chosen": "rejected", "rejected": "chosen"}


def _completion(row: Keys, key: str = "completion") -> Example:
    """Texts or lists of messages, each. A list as completion that begins with the prompt again holds all turns."""
    prompt, completion = row["prompt"], row[key]
    if isinstance(prompt, list) or isinstance(completion, list | dict):
        before = conversation(prompt, "prompt") if isinstance(prompt, list) else said("user", prompt, "prompt")
        after = _answer(completion, key)
        return _made(row, before, after.without(before))
    prompt = text(prompt, "prompt", "text or a list of messages under `prompt`")
    return _answered(row, prompt, text(completion, key, f"text or a list of messages under `{key}`"), key, prompt)


def _answer(value: object, key: str) -> Said:
    """An answer as text, as a message or as several. Any other object is no answer: its JSON has to be text."""
    if isinstance(value, list):
        return conversation(value, key)
    if isinstance(value, dict) and not {"role", "from"} & value.keys():
        remedy = f'To train its JSON, write it as text: "{key}": "{{...}}".'
        raise BadRow(f"text, a message or a list of messages under `{key}`", "another object", remedy=remedy)
    return conversation([value], key) if isinstance(value, dict) else said("assistant", value, key)


def _instruction(row: Keys) -> Example:
    """The input may be called context, as Dolly does."""
    keys = ("instruction", "input", "context", "output")
    asked, given, context, answer = (text(row.get(key, ""), key, f"text under `{key}`") for key in keys)
    if given.strip() and context.strip():
        raise BadRow("one of `input` and `context`", "both")
    given = given or context
    return _answered(row, f"{asked}\n{given}" if given else asked, answer, "output", _alpaca(asked, given))


def _alpaca(instruction: str, given: str) -> str:
    """The prompt that this form was published with: Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca."""
    context, section = "", ""
    if given:
        context, section = ", paired with an input that provides further context", f"### Input:\n{given}\n\n"
    return (
        f"Below is an instruction that describes a task{context}. Write a response that appropriately completes "
        f"the request.\n\n### Instruction:\n{instruction}\n\n{section}### Response:\n"
    )


def _answered(row: Keys, prompt: str, answer: str, key: str, plain: str) -> Example:
    """A prompt and its answer; with turns before them or tools they are a chat."""
    if not answer.strip():
        raise blank(key)
    past = _history(row)
    if past.messages or _tools(row):
        return _made(row, past.then(said("user", prompt, "prompt")), said("assistant", answer, key))
    system = _system(row)
    return Completion(prompt, answer, f"{system[0]['content']}\n\n{plain}" if system else plain, system)


def _history(row: Keys) -> Said:
    """Earlier turns as pairs of a question and its answer, or as messages."""
    given = parsed_json(row.get("history") or [])
    if given == []:
        return Said()
    if not isinstance(given, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in given):
        return conversation(given, "history")
    turns: list[Message] = []
    for number, (asked, answer) in enumerate(given):
        for place, (role, words) in enumerate((("user", asked), ("assistant", answer))):
            turns += said(role, words, f"history[{number}][{place}]").messages
    return Said(tuple(turns))


def _made(row: Keys, before: Said, after: Said) -> Chat:
    """A chat whose first part is context, with the row's system message and tools."""
    system, whole = _system(row), before.then(after)
    if system and whole.messages[0]["role"] == "system":
        if whole.messages[0]["content"] != system[0]["content"]:
            raise BadRow("one system message", "one among the messages and another under `system`")
        system = ()
    whole = Said(system).then(whole)
    return Chat(whole.messages, _tools(row), len(system) + len(before.messages), whole.untrained)


def _tools(row: Keys) -> list[dict[str, Any]] | None:
    return tools(row.get("tools", row.get("functions")))


def _system(row: Keys) -> tuple[Message, ...]:
    key = None if _SYSTEM.isdisjoint(row) else next((key for key in SYSTEM if row.get(key)), None)
    if key is None or not text(row[key], key, f"text under `{key}`").strip():
        return ()
    return ({"role": "system", "content": row[key]},)


def _text(row: Keys) -> Example:
    whole = text(row["text"], "text", "text under `text`")
    if not whole.strip():
        raise BadRow("text that is not empty", "empty or blank text at `text`")
    return Text(whole)


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
    Form("messages", ("messages",), _chat, EXTRAS),
    Form("preference", ("conversations", "chosen", "rejected"), _preferred_turn, EXTRAS),
    Form("preference", ("prompt", "chosen", "rejected"), _preferred, (*EXTRAS, "history")),
    Form("preference", ("chosen", "rejected"), _preferred_alone, EXTRAS),
    Form("conversations", ("conversations",), _conversation, EXTRAS),
    Form("prompt/completion", ("prompt", "completion"), _completion, (*EXTRAS, "history")),
    Form("instruction/output", ("instruction", "output"), _instruction, (*EXTRAS, "history", "input", "context")),
    Form("text", ("text",), _text, (*marks.MARKS, *MEDIA)),
)
KNOWN = ", ".join("+".join(form.needs) for form in FORMS)
PAIRS = ", ".join("+".join(form.needs) for form in FORMS if form.is_pair)


class Read(NamedTuple):
    """The rows that are right, what is wrong with others, and those that are marked as not to be trained."""

    right: tuple[Row, ...]
    wrong: tuple[Fault, ...]
    marked: tuple[Refused, ...]
    broken: tuple[BadData, ...]  # what ended the reading of a file before its end


def rows(raws: Iterable[Raw | Fault], unread: Unread, *, pairs: bool = False) -> Read:
    """All rows. unread takes the text of the keys that no form reads. pairs: of both answers of preferences."""
    right: list[Row] = []
    wrong: list[Fault] = []
    marked: list[Refused] = []
    broken: list[BadData] = []
    try:
        for raw in raws:
            made = raw if isinstance(raw, Fault) else _row_or_fault(raw, unread, pairs)
            into: list[Any] = right if isinstance(made, Row) else wrong if isinstance(made, Fault) else marked
            into.append(made)
    except BadData as error:
        broken.append(error)
    return Read(tuple(right), tuple(wrong), tuple(marked), tuple(broken))


def _row_or_fault(raw: Raw, unread: Unread, pairs: bool) -> Row | Refused | Fault:
    try:
        return row(raw, unread, pairs=pairs)
    except BadRow as bad:
        return fault(raw.place, bad)


def row(raw: Raw, unread: Unread, *, pairs: bool = False) -> Row | Refused:
    """The example that a raw row holds; a row that is marked as not to be trained is left out. Raises BadRow.

    pairs: the row must have two answers, and both are read.

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
    form = next((form for form in FORMS if all(key in given for key in form.needs)), None)
    if form is None:
        raise _unknown(raw.value)
    if pairs and not form.is_pair:
        raise BadRow(f"a row with two answers ({PAIRS})", f"one of the form {'+'.join(form.needs)}", kind=form.name)
    if not _MEDIA.isdisjoint(given) and (media := next((key for key in MEDIA if given.get(key)), None)):
        raise BadRow("rows of text alone", f"something under `{media}`")
    if not marks.is_trained(given, "the row"):
        return Refused(raw.place.short, "marked as not to be trained")
    if form.name != "text" and marks.is_bad_answer(given):
        return Refused(raw.place.short, "marked as a bad answer")
    made = Row(raw.place, form.name, form.read(given), form.read(given, "rejected") if pairs else None)
    for key, value in given.items():
        if not form.reads(key) or (key in marks.VERDICTS and marks.verdict(value, key) is None):
            unread.add(key, value)
    return made


def _unknown(given: Mapping[str, Any]) -> BadRow:
    expected, found, remedy = _words(tuple((key, renames.kind(value)) for key, value in given.items()))
    return BadRow(expected, found, kind=remedy, remedy=remedy)


@lru_cache(100)
def _words(row: tuple[tuple[str, renames.Kind], ...]) -> tuple[str, str, str]:
    """What is expected of a row of no form, found and to be done. All rows of a file may be of one kind."""
    kinds = dict(row)
    for form in FORMS:
        if all(key in kinds for key in form.needs):
            return f"a value under `{next(key for key in form.needs if kinds[key] == 'null')}`", "null", ""
    keys = ", ".join([shown(key, 40) for key in kinds][:8]) + (", ..." if len(kinds) > 8 else "")
    remedy = renames.remedy(kinds, [form.needs for form in FORMS])
    return f"a row of a known form ({KNOWN})", f"the keys {keys or 'none'}", remedy
