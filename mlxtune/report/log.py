"""metrics.jsonl: every event of a run as one line of JSON, each step once, however often the run was killed.

A number that is not finite is null, as JSON has no other word for it; `replay` reads it as nan where a number belongs.
Each line ends with a checksum of the line without it.
"""

import json
import math
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mlxtune.errors import BadRun, MlxtuneError, RunStopped
from mlxtune.events import Checkpoint, End, Eval, Event, Memory, Notice, Sample, Start, Step, as_json
from mlxtune.storage.documents import parse_object
from mlxtune.storage.files import write_file

CHECKSUM, METRICS = "crc32", "metrics"
_END = re.compile(rb', "crc32": "([0-9a-f]{8})"\}\n$')
_KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in (Start, Step, Eval, Sample, Checkpoint, Notice, End)}


class Log:
    """The report that appends to metrics.jsonl."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def __call__(self, event: Event) -> None:
        """Append the event's line in one write, so that a kill at any instant tears at most the last line.

        Raises RunStopped where the disk takes no more; what was logged before stays good.
        """
        good = self._file.seek(0, os.SEEK_END)
        try:
            self._write(_with_checksum(dump(event).encode()))
            if isinstance(event, Checkpoint | End):  # the log outlives a power cut as far as the checkpoint does
                os.fsync(self._file.fileno())
        except OSError as fault:
            with suppress(OSError):  # a disk that cannot even shrink a file; rewind cuts the torn line off
                self._file.truncate(good)
            raise _no_room(self._path, fault) from fault

    def close(self) -> None:
        self._file.close()

    def _write(self, line: bytes) -> None:
        while line:
            line = line[self._file.write(line) or 0 :]


def dump(event: Event) -> str:
    """The event as one line of valid JSON.

    >>> dump(Notice(3, "hello"))
    '{"event": "notice", "step": 3, "text": "hello"}'
    """
    found = {name: _nullable(value) for name, value in as_json(event).items()}
    return json.dumps(found, ensure_ascii=False, allow_nan=False)


def _with_checksum(line: bytes) -> bytes:
    return line[:-1] + b', "%s": "%08x"}\n' % (CHECKSUM.encode(), zlib.crc32(line))


def replay(path: Path) -> Iterator[Event]:
    """The events of a log in order; a torn last line is passed over. Raises BadRun at a line that is no event."""
    for number, line in enumerate(_lines(path), start=1):
        if line.endswith(b"\n"):
            try:
                yield _load(_parsed(line))
            except (ValueError, TypeError, KeyError) as fault:
                found, why = line[:60].decode(errors="replace").strip(), str(fault).splitlines()[0]
                raise BadRun(f"{path}:{number}", expected="an event as JSON", found=f"`{found}` ({why})") from fault


def last_end(path: Path) -> End | None:
    """The end that the log closes with; None where the run was killed, or has not ended."""
    try:
        *_, last = _lines(path)
        found = _load(_parsed(last))
    except (MlxtuneError, ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, End) else None


def rewind(path: Path, step: int) -> int:
    """Cut the log back to what a checkpoint at `step` knew, atomically, before a resumed run appends to it.

    Lines of later steps go, and torn ones, and the end, for the run has not ended. Step 0 empties the log. Damaged
    lines go too: how many.
    """
    if not path.exists():
        return 0
    kept, damaged = [], 0
    for line in _lines(path):
        try:
            found = _parsed(line)
            if step and found["event"] != End.kind and int(found.get("first_step") or found["step"]) <= step:
                kept.append(line)
        except (ValueError, TypeError, KeyError):
            damaged += line.endswith(b"\n")
    try:
        write_file(path, b"".join(kept))
    except OSError as fault:
        raise _no_room(path, fault) from fault
    return damaged if step else 0


def _lines(path: Path) -> list[bytes]:
    """The lines of the log with their ends. Raises BadRun where they cannot be read."""
    try:
        if path.is_file():
            return path.read_bytes().splitlines(keepends=True)
        found = "a folder" if path.is_dir() else "none"
    except OSError as fault:
        found = fault.strerror or str(fault)
    raise BadRun(str(path), expected="the log of a run", found=found, remedy="Put the file back, or remove it.")


def _parsed(line: bytes) -> dict[str, Any]:
    """A line's keys, if it is as it was written."""
    if not line.endswith(b"\n"):
        raise ValueError("a line that was cut short")
    found, ends = parse_object(line), _END.search(line)
    if ends is None or zlib.crc32(line[: ends.start()] + b"}") != int(ends[1], 16):
        raise ValueError("a damaged line: its checksum is another one")
    return found


def _load(found: Mapping[str, Any]) -> Event:
    kind = _KINDS[found["event"]]
    named = [field for field in fields(kind) if field.type is Memory or field.name in found]
    values = {field.name: _value(field.name, field.type, found) for field in named}
    if any(field.name == METRICS for field in fields(kind)):
        values[METRICS] = _metrics(kind, found)
    return kind(**values)


def _metrics(kind: type[Event], found: Mapping[str, Any]) -> dict[str, float]:
    """What the objective gave: the keys of a line that are no fields of its event."""
    known = {"event", CHECKSUM, *(field.name for each in (kind, Memory) for field in fields(each))}
    return {name: _value(name, float, found) for name in found if name not in known}


def _value(name: str, declared: Any, found: Mapping[str, Any]) -> Any:
    """A field's value, as the event's class declares it."""
    if declared is Memory:
        return Memory(**{field.name: _value(field.name, field.type, found) for field in fields(Memory)})
    if declared is float and found[name] is None:
        return math.nan
    value = tuple(found[name]) if isinstance(found[name], list) else found[name]
    return _checked(declared).validate_python(value, strict=True)


@cache
def _checked(declared: Any) -> TypeAdapter[Any]:
    return TypeAdapter(declared)


def _nullable(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_room(path: Path, fault: OSError) -> RunStopped:
    remedy = "Make room and run the same command again: it resumes from the last checkpoint."
    return RunStopped(str(path), expected="to write a line", found=fault.strerror or str(fault), remedy=remedy)
