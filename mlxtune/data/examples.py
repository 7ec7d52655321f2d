"""A row's keys -> an example: turns, a prompt with its completion, or text. Which form a row has, `forms` says."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, NamedTuple

from mlxtune.data.faults import BadRow
from mlxtune.data.messages import Message, Said, blank, conversation, parsed_json, said, text, tools
from mlxtune.data.readers.raw import Document


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
Keys = Mapping[str, Any]  # a row without the keys that hold null

SYSTEM = ("system", "system_prompt", "system_message")
_SYSTEM = frozenset(SYSTEM)


def chat(row: Keys) -> Example:
    """Turns under `messages`."""
    return _made(row, Said(), conversation(row["messages"], "messages"))


def conversations(row: Keys) -> Example:
    """Turns under `conversations`."""
    return _made(row, Said(), conversation(row["conversations"], "conversations"))


def preferred_turn(row: Keys, key: str = "chosen") -> Example:
    """Turns under `conversations`, and then the answer under the key."""
    before = conversation(row["conversations"], "conversations")
    return _made(row, before, _answer(row[key], key))


def preferred(row: Keys, key: str = "chosen") -> Example:
    """A prompt, and the answer under the key."""
    return completion(row, key)


def preferred_alone(row: Keys, key: str = "chosen") -> Example:
    """Two conversations that begin with the same turns, which are the prompt."""
    whole, other = conversation(row[key], key), conversation(row[_OTHER[key]], _OTHER[key])
    pairs = zip(whole.messages, other.messages, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if not 0 < shared < len(whole.messages):
        found = "none" if not shared else "nothing after them"
        raise BadRow(f"turns that `chosen` and `rejected` begin with, and then an answer under `{key}`", found)
    return _made(row, Said(whole.messages[:shared]), Said(whole.messages[shared:]))


_OTHER = {"chosen": "rejected", "rejected": "chosen"}


def completion(row: Keys, key: str = "completion") -> Example:
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


def instruction(row: Keys) -> Example:
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


def plain_text(row: Keys) -> Example:
    """Text as it is."""
    whole = text(row["text"], "text", "text under `text`")
    if not whole.strip():
        raise BadRow("text that is not empty", "empty or blank text at `text`")
    return Text(whole)
