"""What pydantic says of settings, in our words."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from mlxtune.errors import BadSetting, MlxtuneError


def as_ours(error: ValidationError, name: str, where: str) -> list[MlxtuneError]:
    """pydantic's errors in a section as ours, one for each setting."""
    grouped: dict[str, list[Any]] = {}
    for fault in error.errors(include_url=False):
        place = ".".join(str(part) for part in (name, *fault["loc"][:1]) if part)
        grouped.setdefault(place, []).append(fault)
    return [_fault(place, faults, where) for place, faults in grouped.items()]


def _fault(place: str, faults: list[Any], where: str) -> MlxtuneError:
    own = faults[0].get("ctx", {}).get("error")
    if isinstance(own, BadSetting):
        return own
    expected = " or ".join(dict.fromkeys(_expectation(fault) for fault in faults))
    if place == "backend.memory_limit_bytes" and faults[0]["type"] == "int_type":
        expected = "bytes, like 24GB on the command line"
    return BadSetting(at(where, place), expected=expected, found=repr(faults[0]["input"]))


def _expectation(fault: Mapping[str, Any]) -> str:
    """What pydantic expected, in our words."""
    words = EXPECTED.get(fault["type"])
    limits = {name: f"{each:g}" if isinstance(each, float) else each for name, each in fault.get("ctx", {}).items()}
    if fault["type"] == "literal_error":
        return str(limits["expected"]).replace("'", "")
    return words.format(**limits) if words else str(fault["msg"]).removeprefix("Input should be ")


EXPECTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "string_pattern_mismatch": "a text with words",
    "finite_number": "a finite number",
    "greater_than_equal": "{ge} or more",
    "greater_than": "a number above {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "a number below {lt}",
    "too_short": "at least {min_length} of them",
}


def at(where: str, place: str) -> str:
    """A place in a file, or on the command line."""
    return f"{where}: {place}" if where else place
