"""Small documents that anyone may have written: JSON here, YAML in `strict_yaml`. Read whole within limits, or refused.

A file is opened without waiting for it, and only if it is one. Its size, the depth and number of its values and the
length of its whole numbers have limits, so that no document takes more than moments and a few hundred megabytes. A name
that comes twice in an object is a fault, as it would hide the first value. Every fault is told as the class of error
that the caller gives, with the file and, where there is one, the line.
"""

import json
import os
import re
import stat
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from mlxtune.errors import MlxtuneError, raise_all
from mlxtune.format import count, shown

T = TypeVar("T")
LISTED = 10  # faults of one document that are told at once


class Limits(NamedTuple):
    """How much of a document is read."""

    bytes: int = 10_000_000
    depth: int = 64  # of lists and objects inside each other
    values: int = 2_000_000  # brackets, braces and commas, which bounds the values
    digits: int = 40  # of a whole number; transformers writes 10^30 for "no limit"


SMALL = Limits()
TOKENIZER = Limits(bytes=200_000_000, values=5_000_000)  # Gemma 3's has 33 MB and two million values


class Unreadable(ValueError):
    """A document that is not taken: the words of a message without its place. line counts from 1."""

    def __init__(self, expected: str, found: str, line: int | None = None) -> None:
        self.expected, self.found, self.line = expected, found, line
        super().__init__(found)

    def as_error(self, path: Path, error: type[MlxtuneError], remedy: str = "") -> MlxtuneError:
        place = str(path) if self.line is None else f"{path}:{self.line}"
        return error(place, expected=self.expected, found=self.found, remedy=remedy)


def read_object(path: Path, error: type[MlxtuneError], limits: Limits = SMALL) -> dict[str, Any]:
    """The one JSON object that a file holds. Raises `error`."""
    try:
        return parse_object(read_bytes(path, limits.bytes), limits)
    except Unreadable as fault:
        raise fault.as_error(path, error, "Mend the file, or fetch it again.") from None


def parse_object(text: bytes, limits: Limits = SMALL) -> dict[str, Any]:
    """The one JSON object of a text. Raises Unreadable.

    >>> parse_object(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    mlxtune.storage.documents.Unreadable: the name `a` twice in one object
    """
    if sum(map(text.count, (b",", b"[", b"{"))) > limits.values:
        raise Unreadable(f"a JSON object of at most {count(limits.values)} values", "more")

    def whole(digits: str) -> int:
        if len(digits) > limits.digits:
            raise Unreadable("whole numbers that a computer has", f"one of {count(len(digits))} digits")
        return int(digits)

    try:
        value = json.loads(decoded(text), object_pairs_hook=_no_name_twice, parse_int=whole)
    except json.JSONDecodeError as fault:
        raise Unreadable("JSON", f"a fault at column {fault.colno}: {fault.msg}", fault.lineno) from None
    except RecursionError:
        raise too_deep(limits) from None
    if not isinstance(value, dict):
        raise Unreadable("a JSON object", shown(value))
    check_tree(value, limits)
    if re.search(rb"\\u[dD][89a-fA-F]", text):
        check_unicode(value)
    return value


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file. Raises Unreadable where it is none, cannot be read, or is longer than `most`."""
    try:
        number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(number, "rb") as file:  # noqa: PTH123  # a number, not a path
            kind = os.fstat(number).st_mode
            if not stat.S_ISREG(kind):
                raise Unreadable("a file", _kind(kind))
            held = file.read(most + 1)
    except OSError as fault:
        raise Unreadable("a readable file", _why(path, fault)) from None
    except ValueError as fault:  # a NUL in the name, or half of a surrogate pair
        if isinstance(fault, Unreadable):
            raise
        raise Unreadable("the name of a file", "one that no file can have") from None
    if len(held) > most:
        raise Unreadable(f"a file of at most {count(most)} bytes", "a longer one")
    return held


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe, which cannot be read twice", stat.S_ISSOCK: "a socket"}
    return next((words for is_kind, words in kinds.items() if is_kind(mode)), "a device")


def _why(path: Path, fault: OSError) -> str:
    if isinstance(fault, IsADirectoryError):
        return "a folder"
    if isinstance(fault, FileNotFoundError):
        return "a link to nothing" if path.is_symlink() else "no such file"
    return fault.strerror or str(fault)


def decoded(text: bytes) -> str:
    """The text of a document, which is UTF-8. Raises Unreadable with the line of the first byte that is not."""
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = text.count(b"\n", 0, fault.start) + 1
        raise Unreadable("UTF-8 text", f"the byte 0x{text[fault.start]:02x}", line) from None


def too_deep(limits: Limits) -> Unreadable:
    return Unreadable(f"lists and objects at most {limits.depth} deep", "more of them inside each other")


def check_tree(value: object, limits: Limits) -> None:
    """Raises Unreadable for values too deep, or too many, where a YAML alias counts as often as it is there."""
    level, seen = [value], 0
    for _ in range(limits.depth + 1):
        inner: list[object] = []
        for each in level:
            inner += each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
            if seen + len(inner) > limits.values:
                raise Unreadable(f"at most {count(limits.values)} values", "more")
        level, seen = [each for each in inner if isinstance(each, dict | list)], seen + len(inner)
        if not level:
            return
    raise too_deep(limits)


def check_unicode(value: object) -> None:
    """Raises Unreadable for half of a surrogate pair in a name or a text, which no file and no terminal takes."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as fault:
        raise Unreadable("Unicode text", f"half of a surrogate pair, {fault.object[fault.start]!a}") from None


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise Unreadable("each name once", f"the name {shown(names.most_common(1)[0][0])} twice in one object")
    return made


def check(value: object, schema: type[T], where: str | Path, error: type[MlxtuneError], remedy: str = "") -> T:
    """The value as its schema has it, such as a pydantic model or dataclass. Raises `error` for each bad key.

    >>> from typing import Annotated
    >>> from pydantic import Field
    >>> from mlxtune.errors import BadModel
    >>> check({"rank": -1}, dict[str, Annotated[int, Field(ge=1)]], "adapter_config.json", BadModel)
    Traceback (most recent call last):
    mlxtune.errors.BadModel: adapter_config.json: rank: expected greater than or equal to 1, found the number -1.
    """
    from pydantic import ValidationError

    try:
        return cast(T, _validator(cast(Any, schema)).validate_python(value))
    except ValidationError as found:
        raise_all([_misfit(fault, where, error, remedy) for fault in found.errors(include_url=False)[:LISTED]])
        raise


@cache
def _validator(schema: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(schema)


def _misfit(fault: Any, where: str | Path, error: type[MlxtuneError], remedy: str) -> MlxtuneError:
    place = ": ".join(filter(None, [str(where), ".".join(map(str, fault["loc"]))]))
    expected = fault["msg"].removeprefix("Input should be ")
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        expected = "no such key"
    if fault["type"] == "missing":
        return error(place, expected="this key", found="none", remedy=remedy)
    return error(place, expected=expected, found=shown(fault["input"]), remedy=remedy)


def user_path(name: str | Path, error: type[MlxtuneError], where: str = "") -> Path:
    """A path that a user wrote, with ~ filled in, whether something is there or not. Raises `error` for no path.

    where: the setting, for the message. A name that is too long, a NUL, a user that is not here, a ring of links and a
    folder that may not be looked into are refused.
    """
    try:
        str(name).encode()  # what is no Unicode cannot be written into a run's record
        path = Path(name).expanduser()
        path.stat()
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as fault:
        why = (isinstance(fault, OSError) and fault.strerror) or str(fault).rstrip(".")
        raise error(where, expected="a path", found=f"{shown(str(name), 200)} ({why})") from None
    return path
