"""Raw rows in portions that are made together: enough for a tokenizer's own threads, little memory."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mlxtune.data.faults import Fault
from mlxtune.data.readers.raw import Document, Raw

ROWS, CHARACTERS = 1024, 4_000_000  # of one portion; a longer row is alone


class Portion(NamedTuple):
    """Raw rows side by side. number: from 0 on; only_check: nothing is made of them, as others are wrong."""

    number: int
    raws: list[Raw | Fault]
    only_check: bool = False


def portions(raws: Iterable[Raw | Fault]) -> Iterator[list[Raw | Fault]]:
    """All rows, in portions. The same rows give the same portions."""
    held: list[Raw | Fault] = []
    characters = 0
    for raw in raws:
        held.append(raw)
        characters += 0 if isinstance(raw, Fault) else _characters(raw.value)
        if len(held) == ROWS or characters >= CHARACTERS:
            yield held
            held, characters = [], 0
    if held:
        yield held


def _characters(value: object) -> int:
    """About how long a value is as text."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Document):
        return len(value.text)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    return sum(map(_characters, value)) if isinstance(value, list) else 8
