"""Atomic save and load of everything that a run needs to continue bit for bit.

A checkpoint is a folder RUN/checkpoints/000100 with weights.safetensors, optimizer.safetensors and state.json. It is
written under another name, flushed to the disk and then renamed, so a folder of that name is always whole. state.json
holds the sha256 of the other two.

Tensors are written one at a time, straight from the memory they live in, and hashed on the way: eleven gigabytes of
moments need no second copy and no second reading.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlxtune.errors import BadRun
from mlxtune.settings import section

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


@section
class CheckpointSettings:
    """save_every: steps between checkpoints; the last step is always saved. keep: how many stay on the disk."""

    save_every: Annotated[int, Field(ge=1)] = 100
    keep: Annotated[int, Field(ge=1)] = 2


class TensorInfo(NamedTuple):
    """What a safetensors header says of a tensor. dtype as safetensors names it: F32, F16, BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int


class Tensor(NamedTuple):
    """A tensor on its way to a file. read gives its elements when they are wanted; BF16 as uint16 words."""

    info: TensorInfo
    read: Callable[[], NDArray[np.generic]]


def step_folder(run: Path, step: int) -> Path:
    """RUN/checkpoints/000100."""
    return run / "checkpoints" / f"{step:06d}"


def write_tensors(path: Path, tensors: Iterable[Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file, flushed to the disk, and give its sha256. The format: huggingface/safetensors."""
    rows = list(tensors)
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for block in _blocks(rows, metadata or {}):
            digest.update(block)
            file.write(block)
        _flush(file)
    return digest.hexdigest()


def _blocks(rows: list[Tensor], metadata: dict[str, str]) -> Iterator[bytes | memoryview]:
    header: dict[str, Any] = {"__metadata__": {"format": "mlx", **metadata}}
    offset = 0
    for info, _ in rows:
        header[info.name] = {
            "dtype": info.dtype,
            "shape": info.shape,
            "data_offsets": [offset, offset + info.bytes],
        }
        offset += info.bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins aligned to 8 bytes
    yield len(text).to_bytes(8, "little") + text
    for _, read in rows:
        yield memoryview(np.ascontiguousarray(read())).cast("B")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document that is whole or absent, whenever the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")
        _flush(file)
    partial.replace(path)
    _flush_folder(path.parent)


def replace_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder, then put it in target's place. A fault or a kill before that leaves target as it was.

    Raises what `write` raises, after the half-written folder is gone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (target.with_name(f".{target.name}.{word}") for word in ("partial", "old"))
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        write(partial)
        _flush_folder(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if target.exists():
        target.rename(old)
    partial.rename(target)
    _flush_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def save(run: Path, step: int, weights: Iterable[Tensor], optimizer: Iterable[Tensor], state: dict[str, Any]) -> Path:
    """Write the checkpoint of a step. state: JSON; the files' sha256 are added to it."""

    def write(folder: Path) -> None:
        sha256 = {
            WEIGHTS: write_tensors(folder / WEIGHTS, weights),
            OPTIMIZER: write_tensors(folder / OPTIMIZER, optimizer),
        }
        write_json(folder / STATE, {**state, "sha256": sha256})

    target = step_folder(run, step)
    replace_folder(target, write)
    return target


def folders(run: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.is_dir())


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and what a killed run left half-written."""
    for path in folders(run)[:-keep]:
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


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes in a safetensors file that this module wrote."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {
        name: TensorInfo(
            name, entry["dtype"], tuple(entry["shape"]), entry["data_offsets"][1] - entry["data_offsets"][0]
        )
        for name, entry in header.items()
    }


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


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; its rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
