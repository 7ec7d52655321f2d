"""Texts with unknown parts, as texts of an alphabet in which each unknown part is one letter.

What patterns agree in, all texts agree in that come of them: a place in a pattern is a place in each of its texts.
What patterns differ in, texts differ in where known letters decide it. Where unknown parts do, which may be empty or
anything else, the tape is asked, and the answer holds for texts that answer in the same way.
"""

import re
from collections.abc import Iterable, Sequence

from mlxtune.data.tape import Part, Tape, Untraceable

FIRST = 0xF0000  # letters from here on, which Unicode leaves to private use, are the unknown parts
_UNKNOWN = re.compile("[\U000f0000-\U0010ffff]")
_KNOWN = re.compile("[^\U000f0000-\U0010ffff]")
_PARTS = re.compile(f"{_UNKNOWN.pattern}|{_KNOWN.pattern}+")


class Pattern(str):
    """A text with unknown parts that are on a tape, with what `turns` does to texts."""

    __slots__ = ("tape",)
    tape: Tape

    def startswith(self, other: str) -> bool:  # type: ignore[override]  # with one text alone, as all below
        return self._begins(other, 1)

    def endswith(self, other: str) -> bool:  # type: ignore[override]
        return self._begins(other, -1)

    def removesuffix(self, other: str) -> "Pattern":
        return self[: len(self) - len(other)] if self.endswith(other) else self

    def strip(self) -> "Pattern":  # type: ignore[override]
        stripped = str(self).strip()
        if _UNKNOWN.match(stripped) or _UNKNOWN.match(stripped[::-1]):
            raise Untraceable
        return self._with(stripped)

    def rindex(self, word: str) -> int:  # type: ignore[override]
        place = str(self).rindex(word)
        if _UNKNOWN.search(str(self), place):
            raise Untraceable
        return place

    def __contains__(self, word: str) -> bool:  # type: ignore[override]
        if word not in str(self) and _UNKNOWN.search(str(self)):
            raise Untraceable
        return word in str(self)

    def __bool__(self) -> bool:
        return self != ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        if str(self) == str(other):
            return True
        self._tell_apart(*_rests(self, other, 1), 1)
        return False

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__

    def __add__(self, other: str) -> "Pattern":
        return self._with(str(self) + str(other))

    def __getitem__(self, place: slice) -> "Pattern":  # type: ignore[override]
        return self._with(str(self)[place])

    def _begins(self, other: str, step: int) -> bool:
        """Whether it begins with the other text, or with -1 ends so."""
        rest, missing = _rests(self, other, step)
        if not missing:
            return True
        self._tell_apart(rest, missing, step)
        if not _KNOWN.search(missing):
            raise Untraceable
        return False

    def shared(self, other: str, step: int) -> int:
        """How many first characters agree, or with -1 how many last ones."""
        rest, others = _rests(self, other, step)
        if rest and others:
            self._tell_apart(rest, others, step)
        return len(self) - len(rest)

    def _tell_apart(self, one: str, two: str, step: int) -> None:
        """Make sure that texts begin, or end, with different characters, or that one of them alone has none."""
        known = _KNOWN.match(one[::step]) and _KNOWN.match(two[::step]) if one and two else _KNOWN.search(one or two)
        if known:
            return
        ends = parts(one[::step]), parts(two[::step])

        def differ(values: Sequence[str]) -> bool:
            first, second = (_first(end, values, step) for end in ends)
            return first != second

        if not self.tape.asks((ends, step), differ):
            raise Untraceable

    def _with(self, text: str) -> "Pattern":
        made = Pattern(text)
        made.tape = self.tape
        return made


def pattern(parts: Iterable[Part], tape: Tape) -> Pattern:
    """Of parts of a tape. Raises Untraceable where a known one has letters that stand for unknown ones."""
    parts = tuple(parts)
    if any(isinstance(part, str) and _UNKNOWN.search(part) for part in parts):
        raise Untraceable
    made = Pattern("".join([part if isinstance(part, str) else chr(FIRST + part) for part in parts]))
    made.tape = tape
    return made


def parts(text: str) -> tuple[Part, ...]:
    """Of a pattern."""
    found: list[str] = _PARTS.findall(str(text))
    return tuple(ord(each) - FIRST if _UNKNOWN.match(each) else each for each in found)


def shared(one: str, two: str, step: int = 1) -> int:
    """How many first characters agree, or with -1 how many last ones."""
    return one.shared(two, step) if isinstance(one, Pattern) else _agreement(one[::step], two[::step])


def _agreement(one: str, two: str) -> int:
    """How many first characters agree, found by halves."""
    agree, most = 0, min(len(one), len(two))
    while agree < most:
        middle = (agree + most + 1) // 2
        if one[agree:middle] == two[agree:middle]:
            agree = middle
        else:
            most = middle - 1
    return agree


def _rests(one: str, two: str, step: int) -> tuple[str, str]:
    """What is left of texts without what they begin with, or with -1 end with, both."""
    one, two = str(one), str(two)
    agree = _agreement(one[::step], two[::step])
    return (one[agree:], two[agree:]) if step == 1 else (one[: len(one) - agree], two[: len(two) - agree])


def _first(parts: Iterable[Part], values: Sequence[str], step: int) -> str:
    """The first character of a text, or with -1 of one whose parts are turned round."""
    texts = (values[part] if isinstance(part, int) else part[::step] for part in parts)
    return next((text[::step][:1] for text in texts if text), "")
