"""What would make a row of unknown keys one of a known form: most often a key has another name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mlxtune.format import shown

ASKED = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem", "request", "source", "q")
ANSWERED = (
    "completion", "response", "answer", "output", "assistant", "reply", "target", "solution", "result", "chosen", "a",
)  # fmt: skip
CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "chosen", "data")
TEXTS = ("text", "content", "document", "body", "article", "passage", "story", "sentence", "code", "chosen")

Kind = Literal["null", "text", "chat", "list", "other"]


def kind(value: object) -> Kind:
    """What a value may be the value of. chat: a list of messages; list: one of other objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "chat" if {"role", "from"} & value[0].keys() else "list"
    return "null" if value is None else "text" if isinstance(value, str) else "other"


def remedy(kinds: Mapping[str, Kind], needs: Iterable[Sequence[str]]) -> str:
    """A sentence that says what to do, or nothing. kinds: the row's keys; needs: the keys of each known form.

    >>> remedy({"question": "text", "answer": "text"}, [("prompt", "completion")])
    'Rename `question` to `prompt` and `answer` to `completion`.'
    """
    plain = {key.strip().lower(): key for key in kinds}
    for form in needs:  # Prompt, " completion"
        if all(key in plain for key in form):
            return _rename((plain[key], key) for key in form)
    if {"role", "content"} <= plain.keys() or {"from", "value"} <= plain.keys():
        return "A row is a conversation: put its messages into a list under `messages`."

    def first(names: Sequence[str], wanted: Kind) -> str | None:
        return next((plain[name] for name in names if name in plain and kinds[plain[name]] == wanted), None)

    asked, answered, instruction = first(ASKED, "text"), first(ANSWERED, "text"), plain.get("instruction")
    if chat := first(CHATS, "chat"):
        return _rename([(chat, "messages")])
    if answered and instruction:
        return _rename([(instruction, "instruction"), (answered, "output")])
    if asked and answered:
        return _rename([(asked, "prompt"), (answered, "completion")])
    if only := first(TEXTS, "text"):
        return _rename([(only, "text")])
    lists = [key for key in kinds if kinds[key] == "list"]  # of a file that is one object around its rows
    return f"If the rows are in the list under {shown(lists[0], 40)}, write that list alone." if lists else ""


def _rename(pairs: Iterable[tuple[str, str]]) -> str:
    return f"Rename {' and '.join(f'{shown(old, 40)} to `{new}`' for old, new in pairs if old != new)}."
