"""Files that are whole or absent, whenever the machine stops: JSON, tensors, folders.

Tensors are written one at a time, straight from the memory they live in, and hashed on the way: eleven gigabytes of
moments need no second copy and no second reading.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
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


def recover_folder(target: Path) -> None:
    """Undo a `replace_folder` that was killed between its two renames."""
    old = target.with_name(f".{target.name}.old")
    if old.exists() and not target.exists():
        old.rename(target)


def free_bytes(folder: Path) -> int:
    """Room on the disk that the folder is on, or will be on."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free


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
