"""Messages of a chat, however they were written down -> what chat templates take: role, content as text, tool calls."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from mlxtune.data import marks
from mlxtune.data.faults import BadRow
from mlxtune.data.readers.json_text import loads
from mlxtune.format import shown

Message = Mapping[str, Any]  # role, content (always text), and what else the template may use

ROLES = {
    "system": "system",
    "developer": "developer",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "ipython": "tool",
}
WORDS = ("text", "value", "content")  # keys of a part that hold its words
TEXT_PARTS = ("text", "input_text", "output_text")


class Said(NamedTuple):
    """Messages in their order, and the places of those that are marked as not to be trained."""

    messages: tuple[Message, ...] = ()
    untrained: frozenset[int] = frozenset()

    def then(self, other: "Said") -> "Said":
        if not self.messages:
            return other
        moved = {index + len(self.messages) for index in other.untrained}
        return Said(self.messages + other.messages, self.untrained | moved)

    def without(self, before: "Said") -> "Said":
        """Without what it repeats of the messages before it."""
        count = len(before.messages)
        if self.messages[:count] != before.messages:
            return self
        return Said(self.messages[count:], frozenset(index - count for index in self.untrained if index >= count))


def conversation(value: object, key: str) -> Said:
    """A list of messages, `{role, content}` or `{from, value}`, or JSON text of it; at least one. Raises BadRow."""
    given = parsed_json(value)
    if not isinstance(given, list | tuple):
        raise BadRow(f"a list of messages under `{key}`", shown(value))
    if not given:
        raise BadRow(f"at least one message under `{key}`", "an empty list")
    made = [_message(each, f"{key}[{number}]") for number, each in enumerate(given)]
    untrained = frozenset(index for index, (_, trained) in enumerate(made) if not trained)
    return Said(tuple(message for message, _ in made), untrained)


def said(role: str, content: object, key: str) -> Said:
    """One message of plain text."""
    return Said(({"role": role, "content": text(content, key, f"text or a list of messages under `{key}`")},))


def _message(value: object, key: str) -> tuple[Message, bool]:
    """One message with its content as text, and whether it may be trained. A key that holds null is as good as none."""
    if not isinstance(value, dict):
        raise BadRow("an object with role and content as each message", f"{shown(value)} at `{key}`")
    given = {name: each for name, each in value.items() if each is not None}
    trained = marks.is_trained(given, key)
    role, content = _one_of(given, "role", "from", key), _one_of(given, "content", "value", key)
    calls = _tool_calls(given, key)
    made = {"role": _role(role, key), "content": _content(content, key, needed=not calls)}
    if made["role"] == "assistant" and trained and not calls and not made["content"].strip():
        raise blank(f"{key}.content")
    made |= {name: each for name, each in given.items() if name not in _TAKEN}
    return ({**made, "tool_calls": calls} if calls else made), trained


_TAKEN = ("role", "from", "content", "value", "tool_calls", "function_call", *marks.MARKS)


def _one_of(given: Mapping[str, Any], name: str, other: str, key: str) -> object:
    """What is under one of two names. Both are an error, unless they agree: which one was meant?"""
    if other not in given:
        return given.get(name)
    if given.get(name, given[other]) != given[other]:
        raise BadRow(f"one of `{name}` and `{other}` in each message", f"both at `{key}`")
    return given[other]


def blank(key: str) -> BadRow:
    return BadRow("an answer that is not empty", f"empty or blank text at `{key}`")


def _role(role: object, key: str) -> str:
    if isinstance(role, str) and role in ROLES:
        return ROLES[role]
    raise BadRow(f"a known role in each message ({', '.join(ROLES)})", f"{shown(role)} at `{key}`")


def _content(content: object, key: str, *, needed: bool) -> str:
    """Text, or a list of parts that are all text. Only a message that calls tools may have none."""
    if content is None and not needed:
        return ""
    if isinstance(content, list | tuple):
        return "".join(_part(part, key) for part in content)
    return text(content, f"{key}.content", "text as the content of each message")


def _part(part: object, key: str) -> str:
    """A part of the kind text, its words under `text`, or under `value` or `content`; or plain text."""
    if isinstance(part, str):
        return text(part, f"{key}.content", "text")
    kind = (part.get("type") or _kind(part)) if isinstance(part, dict) else part
    if isinstance(part, dict) and kind in TEXT_PARTS:
        if not marks.is_trained(part, key):
            raise BadRow("marks on whole messages", f"one on a part of `{key}`")
        words = next((part[name] for name in WORDS if part.get(name) is not None), None)
        return text(words, f"{key}.content", "text as the content of each message")
    raise BadRow("text as the content of each message", f"a part of the kind {shown(kind)} at `{key}`")


def _kind(part: Mapping[str, Any]) -> str:
    """Of a part that names no kind."""
    return "text" if any(name in part for name in WORDS) else next(iter(part), "text")


def text(value: object, key: str, expected: str) -> str:
    """The value if it is text that can be encoded."""
    if not isinstance(value, str):
        raise BadRow(expected, f"{shown(value)} at `{key}`")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRow("Unicode text", f"half a surrogate pair ({value[error.start]!a}) at `{key}`") from None
    return value


def _tool_calls(given: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Calls as templates take them, the arguments an object; OpenAI's older `function_call` is one call."""
    if "tool_calls" not in given and "function_call" not in given:
        return []
    calls = given.get("tool_calls") or []
    if not calls and "function_call" in given:
        calls = [{"type": "function", "function": given["function_call"]}]
    if not isinstance(calls, list | tuple):
        raise BadRow("a list of tool calls", f"{shown(calls)} at `{key}.tool_calls`")
    return [_tool_call(call, f"{key}.tool_calls[{number}]") for number, call in enumerate(calls)]


def _tool_call(call: object, key: str) -> dict[str, Any]:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRow("a function with a name in each tool call", f"{shown(call)} at `{key}`")
    outer = {name: each for name, each in call.items() if name != "function" and each is not None}
    inner = {**function, "arguments": _arguments(function.get("arguments"), key)}
    return (
        {**outer, "type": "function", "function": inner}
        if "function" in call
        else {"type": "function", "function": inner}
    )


def _arguments(value: object, key: str) -> dict[str, Any]:
    """An object; OpenAI writes it as JSON text."""
    if value is None or value == "":
        return {}
    parsed = parsed_json(value)
    if not isinstance(parsed, dict):
        raise BadRow("an object as the arguments of each tool call", f"{shown(value)} at `{key}`")
    return parsed


def tools(value: object) -> list[dict[str, Any]] | None:
    """The tools of a row: a list of JSON schemas, or JSON text of it; none is None."""
    parsed = parsed_json(value)
    if not parsed:
        return None
    if not isinstance(parsed, list | tuple):
        raise BadRow("a list of objects under `tools`", shown(value))
    return [_tool(tool) for tool in parsed]


def _tool(value: object) -> dict[str, Any]:
    tool = value if isinstance(value, dict) and "function" in value else {"type": "function", "function": value}
    if not isinstance(tool["function"], dict) or not isinstance(tool["function"].get("name"), str):
        raise BadRow("an object with a name as each of the `tools`", shown(value))
    return tool


def parsed_json(value: object) -> object:
    """The value that JSON text stands for; any other value, and text that is no JSON, as it is."""
    if isinstance(value, str):
        try:
            return loads(value)
        except ValueError:
            return value
    return value


def check_whole(text: str, message: Message) -> None:
    """Raises BadRow where a rendered text lacks what the message says: templates drop what they have no words for.

    Reasoning may be dropped, which is how some models are meant to read their earlier turns.
    """
    content = message["content"].rsplit("</think>", 1)[-1].strip()
    if (
        content not in text
        and json.dumps(content)[1:-1] not in text
        and json.dumps(content, ensure_ascii=False)[1:-1] not in text
    ):
        found = f"one that leaves out what the {message['role']} says"
        raise BadRow("a chat template that writes every message", found, kind=message["role"])
    if not all(call["function"]["name"] in text for call in message.get("tool_calls", ())):
        raise BadRow("a chat template that writes tool calls", "one that leaves them out")


def check_tools(text: str, given: list[dict[str, Any]] | None) -> None:
    """Raises BadRow where a rendered text lacks a tool that the row offers."""
    if not all(tool["function"]["name"] in text for tool in given or ()):
        raise BadRow("a chat template that writes tools", "one that leaves them out")
