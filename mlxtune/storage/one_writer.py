"""A folder that one process makes while others wait for it: whole, or absent.

FOLDER/          whole: put in its place by a rename
FOLDER.work/     in the making, by the one process that has the lock; a kill loses little of it
FOLDER.lock      the writer's lock, which goes with its process
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # without a sign of life of the process that has the lock


def beside(folder: Path, ending: str) -> Path:
    """A place beside the folder, named after it."""
    return folder.with_name(folder.name + ending)


@contextmanager
def one_writer(folder: Path, wait: Callable[[], None]) -> Iterator[Path]:
    """Be the one that writes, in the work folder that this gives. wait: is called every second while another one is.

    Where that gives no sign of life, or the file system has no locks, this process writes a folder of its own. What an
    OSError ends is gone, so that a full disk has its room back; whatever else ends it leaves the work for the next.
    Raises OSError for a folder that cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, heard, since = filelock.FileLock(beside(folder, ".lock")), 0, time.monotonic()
    work = beside(folder, ".work")
    while True:
        try:
            lock.acquire(timeout=POLL_SECONDS)
            break
        except filelock.Timeout:
            beat = work.stat().st_mtime_ns if work.exists() else 0
            heard, since = beat, since if beat == heard else time.monotonic()
        except NotImplementedError:
            since = 0.0
        if time.monotonic() - since > PATIENCE_SECONDS:
            work = beside(folder, f".work-{os.getpid()}")
            break
        wait()
    try:
        work.mkdir(exist_ok=True)
        yield work
    except OSError:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        with suppress(OSError):  # there is something in it
            work.rmdir()
        lock.release()


class Beat:
    """A sign of life for those who wait."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, work: Path) -> None:
        """Touch the work folder, once a second at most."""
        if time.monotonic() - self._last > POLL_SECONDS:
            self._last = time.monotonic()
            os.utime(work)


def set_aside(folder: Path) -> None:
    """Take away what is damaged; those that read it have it open."""
    aside = beside(folder, f".damaged-{os.getpid()}")
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def drop_older(folder: Path, kept: int) -> None:
    """Of the folders beside this one keep those used last, `kept` with this one: what changed is seldom asked for."""
    with suppress(OSError):
        os.utime(folder)  # it is used now
        others = [other for other in folder.parent.iterdir() if other.is_dir() and other != folder]
        others.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        for other in others[kept - 1 :]:
            drop(other)


def drop(folder: Path) -> bool:
    """Delete a folder, or what is left of one in the making, unless a process is writing it. Whether it is gone."""
    whole = folder.with_name(folder.name.partition(".")[0])
    lock = filelock.FileLock(beside(whole, ".lock"), timeout=0)
    with suppress(OSError, filelock.Timeout, NotImplementedError), lock:
        shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()
