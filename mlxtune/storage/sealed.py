"""Documents of a run folder that carry their own digest: what is read back is what was written, or is refused.

A bit that a disk lost, a file that was cut short, a number that someone changed: each is seen before anything is taken
for true. The digest is no signature; it guards against accidents and forgotten edits.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from mlxtune.errors import BadRun
from mlxtune.storage.documents import SMALL, Unreadable, check, decoded, parse_object, read_bytes
from mlxtune.storage.files import write_file, write_json

T = TypeVar("T")
KEY = "digest"
SEAL = "# Written by mlxtune, which reads it back unchanged. sha256 of the rest: "

OTHER_VERSION = "Another version of mlxtune wrote it: go on with that one, or begin anew with another --out."


class Damaged(BadRun):
    """A file that is not as it was written."""


def digest(document: dict[str, Any]) -> str:
    """A sha256 of all keys and values but the digest itself, whatever their order."""
    rest = {key: value for key, value in document.items() if key != KEY}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document with its digest, whole or not at all."""
    write_json(path, {**document, KEY: digest(document)})


def read(path: Path, schema: type[T], remedy: str) -> T:
    """What `write` wrote, as its schema has it.

    Raises Damaged where the file is not as it was written, BadRun where another version of mlxtune wrote it otherwise.
    """
    try:
        found = parse_object(read_bytes(path, SMALL.bytes))
    except Unreadable as fault:
        raise fault.as_error(path, Damaged, remedy) from None
    expected, computed = found.pop(KEY, None), digest(found)
    if expected != computed:
        raise _changed(path, expected, computed, remedy)
    return check(found, schema, path, BadRun, OTHER_VERSION)


def write_text(path: Path, text: str) -> None:
    """Write a text whose comments begin with #, after a first line that has its digest."""
    write_file(path, f"{SEAL}{_of_text(text)}\n{text}".encode())


def read_text(path: Path, remedy: str) -> str:
    """What `write_text` wrote. Raises Damaged."""
    try:
        first, _, text = decoded(read_bytes(path, SMALL.bytes)).partition("\n")
    except Unreadable as fault:
        raise fault.as_error(path, Damaged, remedy) from None
    if first != SEAL + _of_text(text):
        raise _changed(path, first.removeprefix(SEAL), _of_text(text), remedy)
    return text


def _of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _changed(path: Path, expected: object, computed: str, remedy: str) -> Damaged:
    noted = f"with the digest {expected[:64]}" if expected and isinstance(expected, str) else "with its digest"
    return Damaged(str(path), expected=f"the file as it was written, {noted}", found=computed, remedy=remedy)
