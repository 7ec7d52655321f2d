"""The run folder: whose it is, and whether a run may begin or go on in it. Nothing is ever overwritten.

RUN/recipe.yaml        see `run_identity`, as for RUN/environment.json
RUN/metrics.jsonl      one event a line, see `report.log`
RUN/checkpoints/       see `checkpoint`
RUN/adapter/           see `export.adapter`, as for RUN/adapter-last/
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from mlxtune.errors import BadRun, BadSetting, RunStopped, raise_all
from mlxtune.export.adapter import BEST, LAST
from mlxtune.format import counted, size
from mlxtune.recipe.recipe import Recipe
from mlxtune.run import identity as run_identity
from mlxtune.run.identity import ENVIRONMENT, RECIPE, is_run
from mlxtune.storage import checkpoint
from mlxtune.storage.files import disk, free_bytes, remove, set_aside

METRICS, LOCK, CHECKPOINTS = "metrics.jsonl", ".lock", "checkpoints"
FILES, FOLDERS = (RECIPE, ENVIRONMENT, METRICS, LOCK), (CHECKPOINTS, BEST, LAST)
# What a kill may leave of a file or an adapter that was being written.
LEFTOVER = re.compile(
    r"\.(recipe\.yaml|environment\.json|metrics\.jsonl)(\.[0-9a-f]+)?\.partial|\.adapter(-last)?\.(partial|dropped)"
)


def default_folder(recipe: Recipe) -> Path:
    """A folder that does not exist yet: runs/dolphin-8b-last-n, runs/dolphin-8b-last-n-2, and so on."""
    model = (recipe.model.name or "tiny").rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    stem = f"{model}-{recipe.strategy.name}"
    number = 1
    while (folder := Path("runs") / (stem if number == 1 else f"{stem}-{number}")).exists():
        number += 1
    return folder


def check(folder: Path, *, new: bool) -> None:
    """Refuse a place where no run can be or go on, before anything is written. new: refuse a run there, too."""
    try:
        _check_place(folder)
        raise_all([*_not_folders(folder), *_not_files(folder)])
        if new or not is_run(folder):
            _check_unclaimed(folder)
    except (OSError, RuntimeError) as fault:  # RuntimeError: a ring of links
        found = getattr(fault, "strerror", None) or str(fault)
        raise BadRun(str(folder), expected="a folder that may be read", found=found, remedy=ELSEWHERE) from None


ELSEWHERE = "Choose another --out; nothing in it was touched."


def _check_place(folder: Path) -> None:
    """The folder, or where it will be made, is a folder that takes files."""
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not place.exists():
        raise BadRun(str(place), expected="a folder", found=f"a link to nothing, {place.readlink()}", remedy=ELSEWHERE)
    if not place.is_dir():
        raise BadRun(str(place), expected="a folder", found="a file", remedy=ELSEWHERE)
    if not os.access(place, os.W_OK | os.X_OK):
        raise BadRun(str(place), expected="a folder that may be written to", found="none", remedy=ELSEWHERE)


def _not_folders(folder: Path) -> Iterator[BadRun]:
    for path in (folder / name for name in FOLDERS):
        place = path.resolve()
        old = place.with_name(f".{place.name}.old")  # a kill between two renames leaves it in the folder's place
        if path.is_symlink() and not place.exists() and not old.exists():
            remedy = "Make that folder, or bring back the disk that it is on."
            yield BadRun(str(path), expected="a link to a folder", found=f"a link to nothing, {place}", remedy=remedy)
        elif path.exists() and not path.is_dir():
            yield BadRun(str(path), expected="a folder", found="a file", remedy="Move it away.")
        elif path.name != CHECKPOINTS and place.is_mount():
            remedy = "An adapter's folder is replaced as a whole: make a folder on the disk, and the link lead there."
            yield BadRun(str(path), expected="a folder on a disk", found=f"the disk itself, {place}", remedy=remedy)


def _not_files(folder: Path) -> Iterator[BadRun]:
    for path in (folder / name for name in FILES):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            found = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "no file"
            yield BadRun(str(path), expected="a file", found=found, remedy="Move it away.")


def _check_unclaimed(folder: Path) -> None:
    """Refuse a folder that holds a run, or what no run writes before it is one."""
    if not folder.exists() or all(_is_ours(path) for path in folder.iterdir()):
        return
    holds = "a run" if is_run(folder) else "files that are no run"
    raise BadRun(str(folder), expected="a new or empty folder for the run", found=holds, remedy=ELSEWHERE)


def _is_ours(path: Path) -> bool:
    """Whether a run that was killed before it was one may have left it, or someone has made the folder for a run."""
    is_empty_folder = path.name in FOLDERS and not any(path.iterdir())
    return path.name in (LOCK, ENVIRONMENT) or LEFTOVER.fullmatch(path.name) is not None or is_empty_folder


@contextmanager
def claim(folder: Path, *, new: bool) -> Iterator[None]:
    """Lock the folder for this process and clear what a kill left; the lock goes with the process.

    Raises BadRun where another process has it or `check` finds a fault now, RunStopped for a file that cannot be read
    or written meanwhile.
    """
    with _disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            check(folder, new=new)  # another process may have been here since
            _clear(folder)
            yield


@contextmanager
def _disk_faults(folder: Path) -> Iterator[None]:
    """Tell a fault of the disk as one message."""
    try:
        yield
    except OSError as fault:
        where, found = str(fault.filename or folder), fault.strerror or str(fault)
        remedy = "What was saved before is whole. Make room and run the same command again: it goes on from there."
        raise RunStopped(where, expected="to read and write the run's files", found=found, remedy=remedy) from fault


def _lock(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise BadRun(
            str(folder),
            expected="a run folder that no other process uses",
            found="one that is in use",
            remedy="Wait for that run or stop it, or choose another --out.",
        ) from None
    except PermissionError:
        found, remedy = "one of another user", "Choose another --out, or remove it if no run is going on there."
        raise BadRun(str(folder / LOCK), expected="a lock file of yours", found=found, remedy=remedy) from None
    except NotImplementedError:
        expected, found = "a disk on which files can be locked", "one without locks"
        raise BadRun(str(folder), expected=expected, found=found, remedy="Choose an --out on another disk.") from None
    return lock


def _clear(folder: Path) -> None:
    """Remove what a kill left half-written. A file of someone else where one of ours comes gets another name."""
    for path in folder.iterdir():
        if LEFTOVER.fullmatch(path.name):
            remove(path)
    checkpoint.clean(folder)
    path = folder / ENVIRONMENT
    if path.exists() and not is_run(folder):
        try:
            run_identity.environment(folder)
        except BadRun:
            set_aside(path, "before")


def check_room(folder: Path, checkpoint_bytes: int, adapter_bytes: int, keep: int) -> None:
    """Refuse disks that cannot hold what is still to come, before the first step; links lead to other disks."""
    to_come = max(1, keep + 1 - len(checkpoint.folders(folder)))  # one is written before the oldest goes
    needed = {folder / CHECKPOINTS: to_come * checkpoint_bytes, folder / BEST: 3 * adapter_bytes}
    for place in needed:
        n_bytes = sum(n for other, n in needed.items() if disk(other) == disk(place))
        if free_bytes(place) < n_bytes:
            raise BadSetting(
                f"{folder}",
                expected=f"{size(n_bytes)} free for {counted(to_come, 'checkpoint')} and the adapters",
                found=f"{size(free_bytes(place))} free",
                remedy="Make room, choose another --out, or lower --keep or what trains (--last-n, --strategy lora).",
            )
