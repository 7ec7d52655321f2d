"""What would make a row of unknown keys one of a known form: most often a key has another name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mlxtune.words import shown

ASKED = ("prompt", "question", "query", "instruction", "input", "user", "human", "problem", "request", "source", "q")
ANSWERED = (
    "completion", "response", "answer", "output", "assistant", "reply", "target", "solution", "result", "chosen", "a",
)  # fmt: skip
CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "chosen", "data")
TEXTS = ("text", "content", "document", "body", "article", "passage", "story", "sentence", "code", "chosen")


def remedy(given: Mapping[str, Any], needs: Iterable[Sequence[str]]) -> str:
    """A sentence that says what to do, or nothing. needs: the keys of each known form.

    >>> remedy({"question": "q", "answer": "a"}, [("prompt", "completion")])
    'Rename `question` to `prompt` and `answer` to `completion`.'
    """
    plain = {key.strip().lower(): key for key in given if isinstance(key, str)}
    for form in needs:  # Prompt, " completion"
        if all(key in plain for key in form):
            return _rename((plain[key], key) for key in form)
    if {"role", "content"} <= plain.keys() or {"from", "value"} <= plain.keys():
        return "A row is a conversation: put its messages into a list under `messages`."
    if chat := _first(CHATS, given, plain, _is_chat):
        return _rename([(chat, "messages")])
    asked, answered = _first(ASKED, given, plain, _is_text), _first(ANSWERED, given, plain, _is_text)
    if answered and (instruction := plain.get("instruction")):
        return _rename([(instruction, "instruction"), (answered, "output")])
    if asked and answered:
        return _rename([(asked, "prompt"), (answered, "completion")])
    if only := _first(TEXTS, given, plain, _is_text):
        return _rename([(only, "text")])
    return _wrapped(given)


def _rename(pairs: Iterable[tuple[str, str]]) -> str:
    return f"Rename {' and '.join(f'{shown(old, 40)} to `{new}`' for old, new in pairs if old != new)}."


def _first(
    names: Sequence[str], given: Mapping[str, Any], plain: Mapping[str, str], fits: Callable[[object], bool]
) -> str | None:
    """The key of the first of these names that holds what fits."""
    return next((plain[name] for name in names if name in plain and fits(given[plain[name]])), None)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_chat(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and bool({"role", "from"} & value[0].keys())
    )


def _wrapped(given: Mapping[str, Any]) -> str:
    """Of a file that is one object around its rows."""
    lists = [key for key, value in given.items() if isinstance(value, list) and value and isinstance(value[0], dict)]
    return f"If the rows are in the list under {shown(lists[0], 40)}, write that list alone." if lists else ""
