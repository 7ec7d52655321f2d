"""How the program ends, whatever happens: one message and an exit code, never a traceback unless --debug asks for it.

An `MlxtuneError` is told as it is; what the system refuses (a disk, a permission, memory) as such an error. Anything
else is a fault of this program: its details go to a file, which the message asks to report.
"""

import errno
import os
import platform
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata

from mlxtune.data import urls
from mlxtune.errors import MlxtuneError, RunStopped
from mlxtune.format import line, printable
from mlxtune.run.signals import Asked

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
READER_LEFT = 128 + getattr(signal, "SIGPIPE", 13)  # as a shell reports other programs that `head` left


class ReaderLeftError(Exception):
    """Standard output or error is a pipe that no one reads any more. Its own class, as typer takes the system's."""


class OurFault(MlxtuneError):
    """An error that no user can cause."""

    exit_code = 1


@contextmanager
def kept_from_typer() -> Iterator[None]:
    """Two ends that typer would answer itself, without a word."""
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderLeftError from error
    except KeyboardInterrupt:
        raise Asked(signal.SIGINT) from None


def exit_code(program: Callable[[], object], *, debug: Callable[[], bool]) -> int:
    """Run the program until its last words are out, tell its error, and give what the process ends with."""
    try:
        program()
        sys.stdout.flush()
        return 0
    except SystemExit as end:
        return _flushed(end.code if isinstance(end.code, int) else int(end.code is not None))
    except (ReaderLeftError, BrokenPipeError):
        return _reader_left()
    except Asked as asked:
        print(asked, file=sys.stderr)
        return asked.exit_code
    except BaseException as error:
        return _told(error, debug=debug())


def _flushed(code: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        return code or _told(error, debug=False)
    return code


def _reader_left() -> int:
    """Python writes what is left in its buffers when it ends, and would complain: there they go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
    return READER_LEFT


def _told(error: BaseException, *, debug: bool) -> int:
    from mlxtune.report.console import error as show

    fault = as_ours(error)
    with suppress(OSError, ValueError):  # standard error may be full or closed too
        if debug:
            sys.stderr.write(printable("".join(traceback.format_exception(error))))
        show(fault)
    return fault.exit_code


def as_ours(error: BaseException) -> MlxtuneError:
    """The message for anything that ends the program."""
    if isinstance(error, MlxtuneError):
        return error
    if isinstance(error, MemoryError):
        remedy = "`mlxtune memory --fit` finds settings that take less."
        return RunStopped("", expected="memory for what is being done", found="none left", remedy=remedy)
    return _from_the_system(error) if isinstance(error, OSError) else _reported(error)


def _from_the_system(error: OSError) -> MlxtuneError:
    kind = RunStopped if error.errno in FULL else MlxtuneError
    place = error.filename if isinstance(error.filename, str) else os.fsdecode(error.filename or b"")
    return kind(
        place or "a file",
        expected="what can be read or written here",
        found=f"what the system refuses: {error.strerror or error}",
        remedy="Make room, then run the same command again." if kind is RunStopped else "",
    )


def _reported(error: BaseException) -> OurFault:
    words = line(f"{type(error).__name__}: {error}")
    try:
        remedy = f"Please report it, with the file of its details: {_details(error)}"
    except OSError:
        remedy = "Please report it, with what the same command says after `mlxtune --debug`."
    return OurFault("", expected="the program to have no fault", found=f"one of ours, {words}", remedy=remedy)


def _details(error: BaseException) -> str:
    """A file that says what ran, on what, and where it failed."""
    installed = sorted(f"{package.name} {package.version}" for package in metadata.distributions())
    about = [
        f"command: {[urls.scrubbed(each) for each in sys.argv]}",
        f"python: {sys.version}",
        f"platform: {platform.platform()}",
        *installed,
    ]
    with tempfile.NamedTemporaryFile(
        "w", prefix="mlxtune-fault-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
    ) as file:
        file.write("\n".join([*about, "", *traceback.format_exception(error)]))
    return file.name
