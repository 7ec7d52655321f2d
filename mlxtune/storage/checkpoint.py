"""Save and load of everything that a run needs to continue bit for bit.

A checkpoint is a folder RUN/checkpoints/000100 with weights.safetensors, optimizer.safetensors and state.json. It
appears by a rename, so a folder of that name is always whole. state.json holds the sha256 of the other two and its own.
Nothing else in RUN/checkpoints is a checkpoint: it is neither gone on from nor removed.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from mlxtune.errors import BadRun
from mlxtune.format import counted
from mlxtune.settings import STRICT, section
from mlxtune.storage import sealed
from mlxtune.storage.documents import SMALL, Unreadable, check, parse_object
from mlxtune.storage.files import (
    Tensor,
    TensorInfo,
    fill_folder,
    place_folder,
    remove,
    set_aside,
    sha256,
    write_tensors,
)
from mlxtune.storage.sealed import Damaged

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
DAMAGED = "The checkpoint is damaged."
_NAME = re.compile(r"[0-9]{6}|[1-9][0-9]{6,17}")  # as `step_folder` writes a step
_LEFTOVER = re.compile(rf"\.({_NAME.pattern})\.(partial|pruned)")


class Counts(TypedDict):
    """What a learner keeps beside its tensors."""

    __pydantic_config__ = STRICT  # type: ignore[misc]  # as pydantic's documentation has it

    steps: int
    updates: int
    loss_scale: Annotated[list[float | int], Field(min_length=2, max_length=2)]
    form: NotRequired[str]


class State(TypedDict):
    """state.json."""

    __pydantic_config__ = STRICT  # type: ignore[misc]

    progress: dict[str, Any]
    learner: Counts
    fingerprints: dict[str, str]
    sha256: dict[str, str]


class Found(NamedTuple):
    """The checkpoint that a run goes on from, and what the user should know of others."""

    path: Path
    state: State
    notes: tuple[str, ...]


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

    target = step_folder(run, step)
    if os.path.lexists(target):  # no checkpoint of this run, which would have gone on from it
        set_aside(target, "before")
    fill_folder(target, tensors)


def settle(run: Path, step: int, state: dict[str, Any], ready: Callable[[], object] = lambda: None) -> Path:
    """Hash what `write` wrote, wait for the disk, and give the checkpoint its name.

    state: as State; the files' sha256 are added to it. ready: is called first; where it raises, nothing is left of the
    checkpoint. Touches files alone, so that a thread may do it.
    """

    def hashed(folder: Path) -> None:
        ready()
        hashes = {name: sha256(folder / name) for name in (WEIGHTS, OPTIMIZER)}
        sealed.write(folder / STATE, {**state, "sha256": hashes})

    target = step_folder(run, step)
    place_folder(target, hashed)
    return target


def folders(run: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted((path for path in _numbered(run) if os.path.lexists(path / STATE)), key=_step)


def _numbered(run: Path) -> list[Path]:
    try:
        return [path for path in (run / "checkpoints").iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _step(path: Path) -> int:
    return int(path.name)


def prune(run: Path, keep: int, spared: Path | None = None) -> None:
    """Remove all but the newest `keep` checkpoints and the spared one. What a kill leaves of them has another name."""
    clean(run)
    for path in folders(run)[:-keep]:
        if path != spared:
            path.rename(path.with_name(f".{path.name}.pruned"))
    clean(run)


def clean(run: Path) -> None:
    """Remove what a killed run left half-written or half-removed."""
    place = run / "checkpoints"
    for path in place.iterdir() if place.is_dir() else ():
        if _LEFTOVER.fullmatch(path.name):
            remove(path)


def newest(run: Path) -> Found | None:
    """The newest checkpoint that is as it was written. None before the first.

    Damaged ones are set aside under another name; where no other is left they stay, and BadRun tells their faults.
    """
    damaged: list[tuple[Path, Damaged]] = []
    for path in reversed(folders(run)):
        try:
            state = load_state(path)
        except Damaged as fault:
            damaged.append((path, fault))
            continue
        told = [_passed_over(other, why, path) for other, why in damaged]
        return Found(path, state, (*told, *_without_state(run, path)))
    if damaged:
        first = damaged[0][1]
        none = "The only checkpoint is not" if len(damaged) == 1 else f"None of the {len(damaged):,} checkpoints is"
        remedy = f"{none} whole; nothing was changed. Put back a copy, or choose another --out to begin anew."
        raise BadRun(first.where, expected=first.expected, found=first.found, remedy=remedy)
    return None


def _passed_over(path: Path, fault: Damaged, used: Path) -> str:
    aside = set_aside(path, "damaged")
    return (
        f"The checkpoint {path.name} is damaged ({Path(fault.where).name}: expected {fault.expected}, found "
        f"{fault.found}). It is now {aside.name}; the run goes on from {used.name}."
    )


def _without_state(run: Path, used: Path) -> list[str]:
    """Of newer folders that hold tensors and no state: they may have been checkpoints."""
    return [
        f"{path} holds no {STATE}, so it is no checkpoint; the run goes on from {used.name}."
        for path in _numbered(run)
        if _step(path) > _step(used) and any((path / name).exists() for name in (WEIGHTS, OPTIMIZER))
    ]


def load_state(folder: Path) -> State:
    """state.json, after the files beside it were found to be the ones it was written with.

    Raises Damaged where a file is missing, cut short or changed, BadRun where another version of mlxtune wrote it.
    """
    state = sealed.read(folder / STATE, State, DAMAGED)
    for name in (WEIGHTS, OPTIMIZER):
        expected, found = state["sha256"].get(name), sha256(folder / name)
        if found != expected:
            raise Damaged(str(folder / name), expected=f"sha256 {expected}", found=found, remedy=DAMAGED)
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
            remedy=f"{counted(len(wrong), 'tensor differs', 'tensors differ')}: it is of another model or selection.",
        )


def _in_words(info: TensorInfo | None) -> str:
    return f"{info.dtype} {list(info.shape)}" if info else "no such tensor"


Size = Annotated[int, Field(ge=0)]


class _Entry(TypedDict):
    __pydantic_config__ = STRICT  # type: ignore[misc]

    dtype: str
    shape: list[Size]
    data_offsets: Annotated[list[Size], Field(min_length=2, max_length=2)]


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes in a safetensors file. Raises BadRun where they are not what the file has room for."""
    with path.open("rb") as file:
        length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        text = file.read(min(length, SMALL.bytes))
    try:
        header = parse_object(text)
    except Unreadable as fault:
        raise fault.as_error(path, BadRun, DAMAGED) from None
    header.pop("__metadata__", None)
    entries = check(header, dict[str, _Entry], path, BadRun)
    end = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    if end != size:
        raise BadRun(str(path), expected=f"{end:,} bytes, as its header says", found=f"{size:,}", remedy=DAMAGED)
    return {
        name: TensorInfo(name, each["dtype"], tuple(each["shape"]), each["data_offsets"][1] - each["data_offsets"][0])
        for name, each in entries.items()
    }
