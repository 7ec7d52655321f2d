"""Files that are whole or absent, whenever the machine stops: JSON, tensors, folders.

Tensors are written one at a time, straight from the memory they live in: eleven gigabytes of moments need no second
copy. A folder is filled first and put in its place later, once the disk has it; a thread may wait for that.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

if sys.platform == "darwin":
    import fcntl


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


def cache_folder() -> Path:
    """Where caches live: $MLXTUNE_CACHE, or mlxtune in the user's cache folder."""
    chosen = os.environ.get("MLXTUNE_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlxtune"


def write_tensors(path: Path, tensors: Iterable[Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, which may not be on the disk yet. The format: huggingface/safetensors."""
    with path.open("wb") as file:
        for block in _blocks(list(tensors), metadata or {}):
            file.write(block)


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
        yield np.ascontiguousarray(read()).reshape(-1).view(np.uint8).data


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Names, types and shapes in a safetensors file that `write_tensors` wrote."""
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


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document that is whole or absent, whenever the machine stops."""
    write_file(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def write_file(path: Path, content: bytes) -> None:
    """Write a small file that is whole or as it was before, whenever the machine stops."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        _flush(file)
    partial.replace(path)
    _flush_folder(path.parent)


def fill_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside target, whose place it takes with `place_folder`; the disk may not have it yet.

    Raises what `write` raises, after the half-written folder is gone.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in (_partial(target), _old(target)):
        shutil.rmtree(leftover, ignore_errors=True)
    _partial(target).mkdir()
    with _gone_if_it_fails(target):
        write(_partial(target))


def place_folder(target: Path, finish: Callable[[Path], None] = lambda _: None) -> None:
    """Once the disk has all files of the filled folder, it takes target's place; until then target is as it was.

    finish: adds files to it first; what it raises is raised, after the filled folder is gone.
    """
    partial, old = _partial(target), _old(target)
    with _gone_if_it_fails(target):
        finish(partial)
        for path in partial.iterdir():
            with path.open("r+b") as file:
                _flush(file)
        _flush_folder(partial)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    _flush_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _partial(target: Path) -> Path:
    return target.with_name(f".{target.name}.partial")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


@contextmanager
def _gone_if_it_fails(target: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(_partial(target), ignore_errors=True)
        raise


def recover_folder(target: Path) -> None:
    """Undo a `place_folder` that was killed between its two renames."""
    if _old(target).exists() and not target.exists():
        _old(target).rename(target)


def free_bytes(folder: Path) -> int:
    """Room on the disk that the folder is on, or will be on."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


def writable(folder: Path) -> bool:
    """Whether the folder may be written to, or be made."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(existing, os.W_OK)


def _flush(file: BinaryIO) -> None:
    """Down to the platter: macOS needs F_FULLFSYNC for that, its fsync stops at the drive's cache."""
    file.flush()
    if sys.platform == "darwin":
        fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
    else:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; its rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
