"""Standard input, output and error as every verb may take them for granted: open, and able to take any text."""

import os
import sys


def ready() -> None:
    """Open what was closed (`>&-`), on nothing; what a stream's encoding does not have is written as an escape.

    A closed descriptor would be given to the next file that is opened, and be written into by what prints.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115  # open to the end
    sys.stdout = sys.stdout or open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    for stream, errors in ((sys.stdin, "replace"), (sys.stdout, "backslashreplace"), (sys.stderr, "backslashreplace")):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=errors)


def takes_any_text() -> bool:
    """Whether standard output has all of Unicode."""
    return (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
