"""The forms of rows: which one a row has is decided for each row by its keys; then the row becomes an example.

Where the keys of several forms are there, the first in `FORMS` is meant. Keys that take part in no form are ignored.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from mlxtune.data.faults import BadRow, Fault, Place, fault, shown
from mlxtune.data.files import Document, Raw
from mlxtune.data.messages import Message, message, messages, text, tools


class Chat(NamedTuple):
    """A conversation. Messages before `context` are context: unless asked for, only turns from there carry loss."""

    messages: tuple[Message, ...]
    tools: list[dict[str, Any]] | None = None
    context: int = 0


class Completion(NamedTuple):
    """A prompt and its completion as plain texts: two turns where there is a chat template, else one text."""

    prompt: str
    completion: str
    plain_prompt: str  # the prompt for a tokenizer without chat template

    @property
    def chat(self) -> Chat:
        user, assistant = ({"role": "user", "content": self.prompt}, {"role": "assistant", "content": self.completion})
        return Chat((user, assistant), context=1)


class Text(NamedTuple):
    """Text that is trained as it is."""

    text: str


Example = Chat | Completion | Text | Document


class Row(NamedTuple):
    """An example, the form it was written in, and where."""

    place: Place
    form: str
    example: Example


Keys = Mapping[str, Any]  # a row without the keys that hold null


def _chat(row: Keys) -> Example:
    given = row.get("tools", row.get("functions"))
    return Chat(messages(row["messages"], "messages"), tools(given))


def _conversation(row: Keys) -> Example:
    return Chat(messages(row["conversations"], "conversations"), tools(row.get("tools")))


def _preferred_turn(row: Keys) -> Example:
    chosen = row["chosen"]
    answer = messages(chosen, "chosen") if isinstance(chosen, list) else (_answer(chosen),)
    return Chat((*messages(row["conversations"], "conversations"), *answer), tools(row.get("tools")))


def _answer(chosen: object) -> Message:
    return message(chosen if isinstance(chosen, dict) else {"role": "assistant", "content": chosen}, "chosen")


def _preferred(row: Keys) -> Example:
    return _completion(row, "chosen")


def _completion(row: Keys, key: str = "completion") -> Example:
    """Texts or lists of messages, each. A list as completion that begins with the prompt again holds all turns."""
    prompt, completion = row["prompt"], row[key]
    if isinstance(prompt, list) or isinstance(completion, list | dict):
        return _message_completion(prompt, completion, key, tools(row.get("tools")))
    prompt = text(prompt, "prompt", "text or a list of messages under `prompt`")
    return Completion(prompt, text(completion, key, f"text or a list of messages under `{key}`"), prompt)


def _message_completion(prompt: Any, completion: Any, key: str, given: list[dict[str, Any]] | None) -> Chat:
    before = messages(prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}], "prompt")
    after = messages(completion, key) if isinstance(completion, list) else (_answer(completion),)
    if after[: len(before)] == before:
        after = after[len(before) :]
    return Chat((*before, *after), given, context=len(before))


def _instruction(row: Keys) -> Example:
    asked, given, answer = (
        text(row.get(key, ""), key, f"text under `{key}`") for key in ("instruction", "input", "output")
    )
    return Completion(f"{asked}\n{given}" if given else asked, answer, _alpaca(asked, given))


def _alpaca(instruction: str, given: str) -> str:
    """The prompt that this form was published with: Taori et al. 2023, github.com/tatsu-lab/stanford_alpaca."""
    context, section = "", ""
    if given:
        context, section = ", paired with an input that provides further context", f"### Input:\n{given}\n\n"
    return (
        f"Below is an instruction that describes a task{context}. Write a response that appropriately completes "
        f"the request.\n\n### Instruction:\n{instruction}\n\n{section}### Response:\n"
    )


def _text(row: Keys) -> Example:
    return Text(text(row["text"], "text", "text under `text`"))


class Form(NamedTuple):
    name: str
    needs: tuple[str, ...]
    read: Callable[[Keys], Example]


FORMS = (
    Form("messages", ("messages",), _chat),
    Form("preference", ("conversations", "chosen", "rejected"), _preferred_turn),
    Form("preference", ("prompt", "chosen", "rejected"), _preferred),
    Form("conversations", ("conversations",), _conversation),
    Form("prompt/completion", ("prompt", "completion"), _completion),
    Form("instruction/output", ("instruction", "output"), _instruction),
    Form("text", ("text",), _text),
)
KNOWN = ", ".join("+".join(form.needs) for form in FORMS)


def rows(raws: Iterable[Raw | Fault]) -> tuple[list[Row], list[Fault]]:
    """The rows that are right, and what is wrong with all the others."""
    right: list[Row] = []
    wrong: list[Fault] = []
    for raw in raws:
        if isinstance(raw, Fault):
            wrong.append(raw)
            continue
        try:
            right.append(row(raw))
        except BadRow as bad:
            wrong.append(fault(raw.place, bad))
    return right, wrong


def row(raw: Raw) -> Row:
    """The example that a raw row holds. Raises BadRow.

    >>> from pathlib import Path
    >>> row(Raw(Place(Path("a.jsonl"), 1), {"text": "Once", "id": 7})).example
    Text(text='Once')
    """
    if isinstance(raw.value, Document):
        return Row(raw.place, "document", raw.value)
    if not isinstance(raw.value, dict):
        raise BadRow("a JSON object", shown(raw.value))
    given = {key: value for key, value in raw.value.items() if value is not None}
    for form in FORMS:
        if all(key in given for key in form.needs):
            return Row(raw.place, form.name, form.read(given))
    raise _unknown(raw.value)


def _unknown(given: Mapping[str, Any]) -> BadRow:
    for form in FORMS:
        if all(key in given for key in form.needs):
            empty = next(key for key in form.needs if given[key] is None)
            return BadRow(f"a value under `{empty}`", "null")
    keys = ", ".join(f"`{key}`" for key in given) or "none"
    return BadRow(f"a row of a known form ({KNOWN})", f"the keys {keys}")
