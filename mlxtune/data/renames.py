"""What would make a row of unknown keys one of a known form: most often a key has another name.

Where the names are those of a known spelling, and of one alone, the row is read under the form's names (`spelled`);
else the message says what to do (`remedy`).
"""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mlxtune.data.columns import written
from mlxtune.format import listed, shown

SPELLINGS = (  # of prompt and completion
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("prompt", "response"),
    ("problem", "solution"),
)
LISTED = 8  # keys in one message
LONGEST = 120  # characters of columns in it
TURNS = ("conversation", "dialogue", "dialog", "chat")  # of messages

ASKED = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem", "request", "source", "q")
ANSWERED = (
    "completion", "response", "answer", "output", "assistant", "reply", "target", "solution", "result", "chosen", "a",
)  # fmt: skip
CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "chosen", "data")
TEXTS = ("text", "content", "document", "body", "article", "passage", "story", "sentence", "code", "chosen")

Kind = Literal["null", "text", "chat", "list", "other"]
Renamed = tuple[tuple[str, str], ...]  # pairs of a row's key and the form's name for it


def kind(value: object) -> Kind:
    """What a value may be the value of. chat: a list of messages; list: one of other objects."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "chat" if {"role", "from"} & value[0].keys() else "list"
    return "null" if value is None else "text" if isinstance(value, str) else "other"


def spelled(row: Mapping[str, Any]) -> Renamed:
    """The names of a row that is spelled in one known way; none where that cannot be told: several fit, a key has the
    form's name already, or an instruction stands beside a question.

    >>> spelled({"question": "q", "answer": "a", "id": 7})
    (('question', 'prompt'), ('answer', 'completion'))
    """
    found: list[Renamed] = [((name, "messages"),) for name in TURNS if kind(row.get(name)) == "chat"]
    if "instruction" not in row:
        fitting = (pair for pair in SPELLINGS if all(isinstance(row.get(key), str) for key in pair))
        found += [tuple(zip(pair, ("prompt", "completion"), strict=True)) for pair in fitting]
    is_taken = any(new in row and new != old for pairs in found for old, new in pairs)
    return found[0] if len(found) == 1 and not is_taken else ()


def with_names(row: Mapping[str, Any], renamed: Renamed) -> dict[str, Any]:
    """The row under the form's names.

    >>> with_names({"dialog": [], "id": 7}, (("dialog", "messages"),))
    {'messages': [], 'id': 7}
    """
    names = dict(renamed)
    return {names.get(key, key): value for key, value in row.items()}


def remedy(kinds: Mapping[str, Kind], needs: Iterable[Sequence[str]]) -> str:
    """A sentence that says what to do, or nothing. kinds: the row's keys; needs: the keys of each known form.

    >>> remedy({"question": "text", "answer": "text"}, [("prompt", "completion")])
    'Rename `question` to `prompt` and `answer` to `completion`, or give --columns prompt=question,completion=answer.'
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


def which(kinds: Mapping[str, Kind]) -> str:
    """What to do where no name is like a known one: a sentence with the columns that may be meant, or nothing.

    >>> which({"en": "text", "id": "other"})
    '--columns says which are which, like --columns text=COLUMN. There are: `en`.'
    """
    names = listed((shown(key, 40) for key in kinds if kinds[key] in ("text", "chat")), LISTED)
    return f"--columns says which are which, like --columns text=COLUMN. There are: {names}." if names else ""


def _rename(pairs: Iterable[tuple[str, str]]) -> str:
    others = [(old, new) for old, new in pairs if old != new]
    text = written({new: old for old, new in others})
    said = " and ".join(f"{shown(old, 40)} to `{new}`" for old, new in others)
    return f"Rename {said}" + (f", or give --columns {shlex.quote(text)}." if text and len(text) < LONGEST else ".")
