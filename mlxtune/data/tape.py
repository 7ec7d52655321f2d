"""Texts that are not known yet, and a tape of what is done to them: done once, it can be done again to other texts.

This is how JAX traces a function, and how TorchDynamo guards a trace: what is asked of a text (is it empty, does it
hold a word) is answered for the texts at hand, and the answer goes on the tape. Played on other texts, the tape does
the same and asks the same; where every answer is the same again, so is all that follows from them. Where one differs,
the tape says nothing.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

Part = str | int  # a constant, or the number of a value on the tape
Step = Callable[[list[str]], bool]  # adds its values to the list; whether its answers are the same

LENGTH = 10**12  # a weight is characters + LENGTH * how many times the longest of the texts
CHANGES = frozenset(("strip", "lstrip", "rstrip", "removeprefix", "removesuffix"))  # none makes a text longer
QUESTIONS = frozenset(("startswith", "endswith"))
CUTS = frozenset(("split", "rsplit", "partition", "rpartition"))


class Untraceable(BaseException):
    """Something is done to a text that no tape can hold. Nothing that catches an Exception on the way may hide it."""


class Tape:
    """The steps so far, with their values for the texts at hand. is_torn: something was done that it does not hold."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self.values = list(texts)
        self.steps: list[Step] = []
        self.is_torn = False
        self._done: dict[tuple[Any, ...], Any] = {}  # what came of what was done: it is not done twice

    def tear(self) -> NoReturn:
        self.is_torn = True
        raise Untraceable

    def value(self, number: int) -> "Unknown":
        return Unknown(self, (number,), LENGTH)

    def joined(self, texts: Iterable[Any]) -> Any:
        """The texts, known ones and others, one after the other."""
        parts, weight = list[Part](), 0
        for text in texts:
            if isinstance(text, Unknown):
                parts, weight = [*parts, *text.parts], weight + text.weight
            elif type(text) is str:
                parts, weight = [*parts, text], weight + len(text)
            else:
                self.tear()
        known = all(type(part) is str for part in parts)
        return "".join(map(str, parts)) if known else Unknown(self, tuple(parts), weight)

    def does(self, text: "Unknown", function: Callable[..., Any], given: Sequence[Any]) -> Any:
        """What a function makes of a text: a text, several of them, or an answer."""
        if not all(each is None or type(each) in (str, int) for each in given):
            self.tear()
        number = self._number(text)
        key = (number, function, *given)
        if key not in self._done:
            self._done[key] = self._made(number, text.weight, function, given)
        made = self._done[key]
        return list(made) if type(made) is list else made

    def _made(self, number: int, weight: int, function: Callable[..., Any], given: Sequence[Any]) -> Any:
        made = function(self.values[number], *given)
        if type(made) is bool:
            return self._answered(lambda values: function(values[number], *given) is made, made)
        if type(made) is str:
            return self._added(lambda values: [function(values[number], *given)], 1, weight)[0]
        return self._added(lambda values: function(values[number], *given), len(made), weight)

    def asks(self, key: Any, question: Callable[[Sequence[str]], bool]) -> bool:
        """The answer to a question about the values, which is known by its key."""
        if key not in self._done:
            answer = question(self.values)
            self._done[key] = self._answered(lambda values: question(values) is answer, answer)
        return bool(self._done[key])

    def _answered(self, step: Step, answer: bool) -> bool:
        self.steps.append(step)
        return answer

    def _added(self, make: Callable[[list[str]], Sequence[str]], count: int, weight: int) -> list["Unknown"]:
        def step(values: list[str]) -> bool:
            made = make(values)
            values += made
            return len(made) == count

        first = len(self.values)
        step(self.values)
        self.steps.append(step)
        return [Unknown(self, (number,), weight) for number in range(first, first + count)]

    def _number(self, text: "Unknown") -> int:
        """The number of the value that a text is, which one made of several parts becomes here."""
        if len(text.parts) == 1 and isinstance(text.parts[0], int):
            return text.parts[0]
        parts = text.parts
        if parts not in self._done:
            self._done[parts] = self._added(lambda values: [text_of(parts, values)], 1, text.weight)[0]
        return self._number(self._done[parts])


class Unknown:
    """A text on a tape. It is no `str`, so that nothing takes it for a known one; whatever is not here tears the tape.

    weight: the most characters it may have, see LENGTH.
    """

    __slots__ = ("parts", "tape", "weight")

    def __init__(self, tape: Tape, parts: tuple[Part, ...], weight: int) -> None:
        self.tape, self.parts, self.weight = tape, parts, weight

    def __add__(self, other: Any) -> Any:
        return self.tape.joined((self, other))

    def __radd__(self, other: Any) -> Any:
        return self.tape.joined((other, self))

    def __bool__(self) -> bool:
        return bool(self.tape.does(self, bool, ()))

    def __contains__(self, other: Any) -> bool:
        return bool(self.tape.does(self, operator.contains, (other,)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str | Unknown):
            return NotImplemented  # as of a str, which equals nothing else
        return bool(self.tape.does(self, operator.eq, (other,)))


class Method:
    """A method of an unknown text, as `str` has it, to be called."""

    __slots__ = ("name", "tape", "text")

    def __init__(self, text: Unknown, name: str) -> None:
        self.text, self.name, self.tape = text, name, text.tape

    def __call__(self, *given: Any) -> Any:
        if self.name not in CHANGES | QUESTIONS | CUTS:
            self.tape.tear()
        made = self.tape.does(self.text, getattr(str, self.name), given)
        return tuple(made) if "partition" in self.name else made


def _refuse(unknown: Unknown | Method, *_: Any) -> NoReturn:
    unknown.tape.tear()


for _kind in (Unknown, Method):
    for _name in (
        *("str", "repr", "format", "hash", "len", "iter", "reversed", "getitem", "getattr", "index", "int", "float"),
        *("call", "bool", "contains", "eq", "lt", "le", "gt", "ge", "add", "radd", "mul", "rmul", "mod", "rmod"),
    ):
        if f"__{_name}__" not in vars(_kind) or vars(_kind)[f"__{_name}__"] is None:
            setattr(_kind, f"__{_name}__", _refuse)


class Trace(NamedTuple):
    """A finished tape: the text that comes of its steps, as a function of the texts that it begins with."""

    steps: tuple[Step, ...]
    parts: tuple[Part, ...]
    cost: int  # of the work, as a weight

    def text(self, texts: Sequence[str], work: int) -> str | None:
        """What is written for the texts. None where an answer differs, or where the work may be more than `work`."""
        values = self.values(texts, work)
        return None if values is None else text_of(self.parts, values)

    def values(self, texts: Sequence[str], work: int) -> list[str] | None:
        """The texts and what the steps make of them. None as of `text`."""
        longest = max(map(len, texts), default=0)
        if self.cost // LENGTH * longest + self.cost % LENGTH > work:
            return None
        values = list(texts)
        for step in self.steps:
            if not step(values):
                return None
        return values


def trace(tape: Tape, written: Any, cost: int) -> Trace:
    """The tape of what is written, which is a text, known or not."""
    parts = written.parts if type(written) is Unknown else (written,)
    return Trace(tuple(tape.steps), _merged(parts), cost)


def _merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Constants that follow each other as one."""
    merged: list[Part] = []
    for part in parts:
        if isinstance(part, str) and merged and isinstance(merged[-1], str):
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def text_of(parts: Iterable[Part], values: Sequence[str]) -> str:
    return "".join([part if isinstance(part, str) else values[part] for part in parts])
