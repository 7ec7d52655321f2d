"""JSON as it is read here: an object that names a key twice is a fault."""

import json
from collections import Counter
from typing import Any

from mlxtune.data.faults import Fault, Place
from mlxtune.format import shown


class Repeated(ValueError):
    """An object names a key twice: which of the two was meant?"""

    def __init__(self, key: str) -> None:
        super().__init__(f"{shown(key)} twice in one object")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Repeated(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError, also for a key twice, huge numbers and brackets nested too deep."""
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("brackets nested too deep") from None


def twice(place: Place, error: Repeated) -> Fault:
    return Fault(place, "each key once", str(error))
