"""What every reader gives: values as the file has them, each with its place, and what is wrong with the others."""

from collections.abc import Iterator
from typing import NamedTuple

from mlxtune.data.faults import Fault, Place
from mlxtune.errors import Missing


class Document(NamedTuple):
    """The text of a whole .txt file."""

    text: str


class Raw(NamedTuple):
    """What a file holds at a place; a JSON object or a document, if the file is right."""

    place: Place
    value: object


Rows = Iterator[Raw | Fault]


def missing(package: str, why: str, extra: str = "data") -> Missing:
    remedy = f'Install it: pip install "mlxtune[{extra}]"'
    return Missing("", expected=f"the package {package} {why}", found="none installed", remedy=remedy)


def plain(value: object) -> object:
    """A value of an Arrow table as JSON would have it.

    Tables give every object every key and call the absent ones null, with which a tool would be called. Bytes may be
    text; those that are none stay, and are refused where text is needed.

    >>> plain({"city": b"Oslo", "day": None})
    {'city': 'Oslo'}
    """
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value
    return [plain(each) for each in value] if isinstance(value, list) else value
