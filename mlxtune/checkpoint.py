"""Save and load of everything that a run needs to continue bit for bit.

A checkpoint is a folder RUN/checkpoints/000100 with weights.safetensors, optimizer.safetensors and state.json. It
appears by a rename, so a folder of that name is always whole. state.json holds the sha256 of the other two.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from mlxtune.errors import BadRun
from mlxtune.settings import section
from mlxtune.storage import Tensor, TensorInfo, fill_folder, place_folder, read_header, write_json, write_tensors

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@section
class CheckpointSettings:
    """save_every: steps between checkpoints; the last step is always saved. keep: how many stay on the disk."""

    save_every: Annotated[int, Field(ge=1)] = 100
    keep: Annotated[int, Field(ge=1)] = 2


def step_folder(run: Path, step: int) -> Path:
    """RUN/checkpoints/000100."""
    return run / "checkpoints" / f"{step:06d}"


def write(run: Path, step: int, weights: Iterable[Tensor], optimizer: Iterable[Tensor]) -> None:
    """Write the tensors of a step. They may change when this returns; the checkpoint is there after `settle`."""

    def tensors(folder: Path) -> None:
        write_tensors(folder / WEIGHTS, weights)
        write_tensors(folder / OPTIMIZER, optimizer)

    fill_folder(step_folder(run, step), tensors)


def settle(run: Path, step: int, state: dict[str, Any], ready: Callable[[], object] = lambda: None) -> Path:
    """Hash what `write` wrote, wait for the disk, and give the checkpoint its name.

    state: JSON; the files' sha256 are added to it. ready: is called first; where it raises, nothing is left of the
    checkpoint. Touches files alone, so that a thread may do it.
    """

    def hashed(folder: Path) -> None:
        ready()
        sha256 = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)}
        write_json(folder / STATE, {**state, "sha256": sha256})

    target = step_folder(run, step)
    place_folder(target, hashed)
    return target


def folders(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit() and path.is_dir())


def prune(run: Path, keep: int, spared: Path | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and the spared one, and what a killed run left half-written."""
    for path in folders(run)[:-keep]:
        if path != spared:
            shutil.rmtree(path)
    for leftover in (run / "checkpoints").glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


def load_state(folder: Path) -> dict[str, Any]:
    """state.json, after the files beside it were found to be the ones it was written with.

    Raises BadRun where a file is missing, cut short or changed.
    """
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_bytes())
        expected = state["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder / STATE, "a checkpoint's state", f"{type(error).__name__}: {error}") from error
    for name in (WEIGHTS, OPTIMIZER):
        found = _sha256(folder / name)
        if found != expected.get(name):
            raise _damaged(folder / name, f"sha256 {expected.get(name)}", found)
    return state


def check_tensors(path: Path, needed: Iterable[TensorInfo]) -> None:
    """Refuse a file whose tensors are not exactly the needed ones, in name, type and shape."""
    found = read_header(path)
    wanted = {info.name: info for info in needed}
    wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
    if wrong:
        name = wrong[0]
        raise BadRun(
            f"{path}: {name}",
            expected=_in_words(wanted.get(name)),
            found=_in_words(found.get(name)),
            remedy=f"{len(wrong):,} tensors differ: the checkpoint is of another model or selection.",
        )


def _in_words(info: TensorInfo | None) -> str:
    return f"{info.dtype} {list(info.shape)}" if info else "no such tensor"


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"no readable file ({error.strerror})"


def _damaged(path: Path, expected: str, found: str) -> BadRun:
    remedy = "The checkpoint is damaged. Delete its folder: the run then resumes from the one before."
    return BadRun(str(path), expected=expected, found=found, remedy=remedy)
