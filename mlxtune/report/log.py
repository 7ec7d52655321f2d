"""metrics.jsonl: every event of a run as one line of JSON, each step once, however often the run was killed.

A number that is not finite is null, as JSON has no other word for it; `replay` reads it as nan where a number belongs.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from mlxtune.errors import BadRun, RunStopped
from mlxtune.events import Checkpoint, End, Eval, Event, Memory, Notice, Start, Step, as_json
from mlxtune.storage import write_file

_KINDS: dict[str, type[Event]] = {kind.kind: kind for kind in (Start, Step, Eval, Checkpoint, Notice, End)}


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
            self._write(dump(event).encode() + b"\n")
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


def replay(path: Path) -> Iterator[Event]:
    """The events of a log in order; a torn last line is passed over. Raises BadRun at a line that is no event."""
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if line.endswith(b"\n"):
            try:
                yield _load(json.loads(line))
            except (ValueError, TypeError, KeyError) as fault:
                found = line[:60].decode(errors="replace").strip()
                raise BadRun(f"{path}:{number}", expected="an event as JSON", found=f"`{found}`") from fault


def last_end(path: Path) -> End | None:
    """The end that the log closes with; None where the run was killed, or has not ended."""
    try:
        *_, last = path.read_bytes().splitlines()
        found = _load(json.loads(last))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if isinstance(found, End) else None


def rewind(path: Path, step: int) -> None:
    """Cut the log back to what a checkpoint at `step` knew, atomically, before a resumed run appends to it.

    Lines of later steps go, and torn ones, and the end, for the run has not ended. Step 0 empties the log.
    """
    if not path.exists():
        return
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if step and _belongs(line, step)]
    try:
        write_file(path, b"".join(kept))
    except OSError as fault:
        raise _no_room(path, fault) from fault


def _belongs(line: bytes, step: int) -> bool:
    if not line.endswith(b"\n"):
        return False
    try:
        found = json.loads(line)
        return found["event"] != End.kind and int(found.get("first_step", found.get("step"))) <= step
    except (ValueError, TypeError, KeyError, AttributeError):
        return False


def _load(found: Mapping[str, Any]) -> Event:
    kind = _KINDS[found["event"]]
    return kind(**{field.name: _value(field.name, field.type, found) for field in fields(kind)})


def _value(name: str, declared: object, found: Mapping[str, Any]) -> Any:
    """A field's value as the event's class declares it."""
    if declared is Memory:
        return Memory(**{field.name: found[field.name] for field in fields(Memory)})
    if declared is float and found[name] is None:
        return math.nan
    return tuple(found[name]) if isinstance(found[name], list) else found[name]


def _nullable(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_room(path: Path, fault: OSError) -> RunStopped:
    remedy = "Make room and run the same command again: it resumes from the last checkpoint."
    return RunStopped(str(path), expected="to write a line", found=fault.strerror or str(fault), remedy=remedy)
