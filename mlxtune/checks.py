"""What `mlxtune doctor` finds: one thing that was looked at, its state, and what follows from it."""

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """meaning: what it is for or what goes wrong; remedy: what to do. Either may be empty."""

    name: str
    state: Literal["ok", "warn", "bad"]  # bad: something of mlxtune does not work here
    found: str
    meaning: str = ""
    remedy: str = ""
