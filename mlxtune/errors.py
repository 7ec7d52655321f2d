"""The one error tree. A message says what was expected, what was found, where, and what to do.

Every error that a user can cause is an `MlxtuneError`; the command line prints it without a traceback and ends with
its `exit_code`. Anything else that escapes is a fault of this program.

A message quotes what lies in files that anyone may have made. It is bounded and printable, whatever they hold: each
part is shortened, control characters are written out, and of very many faults the first are told.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, ClassVar

from mlxtune.format import counted, line, printable, shortened

LONGEST = 4000  # characters of a message; each part of it is shortened so that one fault has fewer
PART = 500
REMEDY, LINES = 2000, 40


class MlxtuneError(Exception):
    """One fault, or several of one kind that are told together.

    where: file:line, setting or tensor name; may be empty. remedy: a sentence that says what to do.

    >>> print(BadSetting("train.batch_size", expected="1 or more", found="0", remedy="4 is usual."))
    train.batch_size: expected 1 or more, found 0.
      4 is usual.
    """

    exit_code: ClassVar[int] = 2

    def __init__(self, where: str, *, expected: str, found: str, remedy: str = "") -> None:
        self.where, self.expected, self.found, self.remedy = where, expected, found, remedy
        super().__init__(where, expected, found, remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        """As an error is pickled: its arguments have names, which `Exception` would not give back."""
        return _as_it_was, (type(self), self.args, vars(self))

    def __str__(self) -> str:
        place, expected, found = (shortened(line(part), PART) for part in (self.where, self.expected, self.found))
        head = f"{place}: " if place else ""
        remedy = "".join(f"\n  {each}" for each in printable(self.remedy).splitlines()[:LINES])
        return f"{head}expected {expected}, found {found}." + shortened(remedy, REMEDY)


def _as_it_was(kind: type[MlxtuneError], said: tuple[Any, ...], state: dict[str, Any]) -> MlxtuneError:
    made = kind.__new__(kind, *said)
    vars(made).update(state)
    return made


class BadSetting(MlxtuneError, ValueError):
    """A setting, flag or recipe key with a value that cannot be used. A ValueError, so that pydantic collects them."""


class BadData(MlxtuneError):
    """Rows, files or folders of training data that cannot be read or trained on."""


class BadModel(MlxtuneError):
    """A model folder, name, config, tokenizer or weight file that cannot be used."""


class BadRun(MlxtuneError):
    """A run folder that is in use, holds another run, or whose checkpoint is damaged."""


class Missing(MlxtuneError):
    """Something that has to be installed first; the remedy is the command."""


class RunStopped(MlxtuneError):
    """The run stopped itself: a loss that is not finite, memory, a full disk. What was saved before stays good."""

    exit_code: ClassVar[int] = 3


class Faults(MlxtuneError):
    """Several faults told at once, because a user wants to mend them at once."""

    def __init__(self, faults: Sequence[MlxtuneError]) -> None:
        self.faults = tuple(faults)
        super().__init__("", expected="", found="")

    @property
    def told(self) -> tuple[str, ...]:
        """The messages of as many faults, from the first, as are read at once; the last says how many more."""
        messages = [str(fault) for fault in self.faults]
        room = LONGEST - 100  # what is printed around the messages
        fit = sum(length < room for length in accumulate(len(message) + 10 for message in messages))
        more = len(messages) - fit
        left = f"{counted(more, 'more fault')} of this command {'is' if more == 1 else 'are'} not listed."
        return (*messages[:fit], *([left] if more else []))

    def __str__(self) -> str:
        return "\n".join(self.told)


def raise_all(faults: Sequence[MlxtuneError]) -> None:
    """Raise nothing, the one fault, or all of them together."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise Faults(faults)
