"""Files that are whole or absent, whenever the machine stops: JSON, tensors, folders.

Tensors are written one at a time, straight from the memory they live in: eleven gigabytes of moments need no second
copy. A folder is filled first and put in its place later, once the disk has it; a thread may wait for that.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

if sys.platform == "darwin":
    import fcntl

UNSUPPORTED = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


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
    """Write a safetensors file, which is new and may not be on the disk yet. The format: huggingface/safetensors."""
    with path.open("xb") as file:
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


def sha256(path: Path) -> str:
    """Of a file's bytes, in hexadecimal; for what is no readable file, a few words that say so."""
    if not path.is_file():
        return "no such file"
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as fault:
        return f"no readable file ({fault.strerror})"


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON document that is whole or absent, whenever the machine stops."""
    write_file(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


def write_file(path: Path, content: bytes) -> None:
    """Write a small file that is whole or as it was before, whenever the machine stops.

    Its name until then is new each time and follows no link: two processes do not write into one file.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            _flush(file)
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def fill_folder(target: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside target, whose place it takes with `place_folder`; the disk may not have it yet.

    A target that is a link stays one: what it leads to is replaced. Raises what `write` raises, after the half-written
    folder is gone.
    """
    partial = beside(target, "partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(target)
    remove(partial)
    partial.mkdir()
    with _gone_if_it_fails(partial):
        write(partial)


def place_folder(target: Path, finish: Callable[[Path], None] = lambda _: None) -> None:
    """Once the disk has all files of the filled folder, it takes target's place; until then target is as it was.

    finish: adds files to it first; what it raises is raised, after the filled folder is gone. Files of other names that
    someone laid into target stay in it.
    """
    partial, old, place = beside(target, "partial"), beside(target, "old"), _real(target)
    with _gone_if_it_fails(partial):
        finish(partial)
        for path in partial.iterdir():
            with path.open("r+b") as file:
                _flush(file)
        _flush_folder(partial)
    if place.exists():
        place.rename(old)
    partial.rename(place)
    _flush_folder(place.parent)
    _retire(old, place)


def recover_folder(target: Path) -> None:
    """Undo or finish a `place_folder` that was killed between its renames."""
    old, place = beside(target, "old"), _real(target)
    if old.is_dir() and not place.exists():
        old.rename(place)
    _retire(old, place)


def _retire(old: Path, place: Path) -> None:
    """Remove a folder whose place another one took, which keeps the files that only the old one has."""
    with suppress(OSError):
        for path in old.iterdir() if old.is_dir() else ():
            if not (place / path.name).exists():
                path.rename(place / path.name)
        remove(old)


def put_by(target: Path, state: str) -> None:
    """Give a folder another name beside itself, so that another one can take its place; `bring_back` undoes it."""
    _real(target).rename(beside(target, state))


def bring_back(target: Path, state: str) -> None:
    """Put what `put_by` put by in its place again, where there is something, instead of what came meanwhile."""
    kept, old, place = beside(target, state), beside(target, "old"), _real(target)
    if kept.exists():
        recover_folder(target)
        if place.exists():
            place.rename(old)
        kept.rename(place)
        _retire(old, place)


def drop_folder(target: Path) -> None:
    """Remove a folder; what a kill leaves of it is not in its place. A link to it leads to an empty one then."""
    place, old = _real(target), beside(target, "dropped")
    remove(old)
    if place.exists():
        place.rename(old)
        if target.is_symlink():
            place.mkdir()
        remove(old)


def _real(target: Path) -> Path:
    """Where the folder is, or will be, if target is a link to it."""
    return target.resolve() if target.is_symlink() else target


def beside(target: Path, state: str) -> Path:
    """Where the folder is while it is filled ("partial"), and where the one before it is for a moment ("old")."""
    place = _real(target)
    return place.with_name(f".{place.name}.{state}")


@contextmanager
def _gone_if_it_fails(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Remove a file, a folder or a link, whose target stays. Nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def set_aside(path: Path, why: str) -> Path:
    """Rename a file or folder to the first free one of name-why, name-why-2 and so on; where it is now."""
    names = chain([f"{path.name}-{why}"], (f"{path.name}-{why}-{number}" for number in count(2)))
    aside = next(free for name in names if not os.path.lexists(free := path.with_name(name)))
    path.rename(aside)
    return aside


def free_bytes(folder: Path) -> int:
    """Room on the disk that the folder is on, or will be on."""
    return shutil.disk_usage(_existing(folder)).free


def disk(folder: Path) -> int:
    """The number of the disk that the folder is on, or will be on; links are followed."""
    return _existing(folder).stat().st_dev


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def writable(folder: Path) -> bool:
    """Whether the folder may be written to, or be made."""
    return os.access(_existing(folder), os.W_OK)


def _flush(file: BinaryIO) -> None:
    """Down to the platter: macOS needs F_FULLFSYNC for that, its fsync stops at the drive's cache."""
    file.flush()
    if sys.platform == "darwin":
        with suppress(OSError):  # network disks have no F_FULLFSYNC
            fcntl.fcntl(file.fileno(), fcntl.F_FULLFSYNC)
            return
    _sync(file.fileno())


def _flush_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders; its rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        _sync(handle)
    finally:
        os.close(handle)


def _sync(handle: int) -> None:
    """fsync, where the file system has it: some network and USB disks have none for folders, or none at all."""
    try:
        os.fsync(handle)
    except OSError as fault:
        if fault.errno not in UNSUPPORTED:
            raise
