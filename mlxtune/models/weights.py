"""What a model folder's weight files hold, from their headers alone; no tensor is read.

A safetensors file is eight bytes (the header's length, little endian), the header (a JSON object of names to dtype,
shape and place) and the tensors' bytes without gaps: https://github.com/huggingface/safetensors#format. As mlx-lm
does, the weights of a folder are all its files `model*.safetensors`; the index is a check, not the source.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.errors import BadModel, MlxtuneError, raise_all
from mlxtune.format import counted
from mlxtune.models.folder import contents, json_object, some
from mlxtune.storage.documents import parse_object

INDEX = "model.safetensors.index.json"
PATTERN = "model*.safetensors"
LARGEST_HEADER_BYTES = 100_000_000  # the format's own limit

BITS: Mapping[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class TensorInfo(NamedTuple):
    """A tensor as its file's header has it."""

    dtype: str  # as safetensors names it: "BF16"
    shape: tuple[int, ...]
    bytes: int
    file: Path
    offsets: tuple[int, int]  # its first byte and the one after its last, from the start of the file


def files(folder: Path) -> tuple[Path, ...]:
    """The weight files of a folder, sorted by name. BadModel where there is none, or where a shard is missing."""
    found = tuple(sorted(path for path in folder.glob(PATTERN) if path.is_file()))
    absent = sorted(_expected(folder, found) - {path.name for path in found})
    if not found and not (folder / INDEX).exists():
        raise no_weights(folder)
    if absent:
        raise BadModel(
            str(folder),
            expected=f"all shards of the model, {len(absent):,} of them missing",
            found=f"no {some(absent)}",
            remedy="The download or copy is not complete: fetch the missing files.",
        )
    return found


def headers(folder: Path) -> Mapping[str, TensorInfo]:
    """Every tensor of a folder's weight files, by name. BadModel tells the faults of all files at once."""
    tensors: dict[str, TensorInfo] = {}
    places: defaultdict[str, list[str]] = defaultdict(list)
    faults: list[MlxtuneError] = []
    for path in files(folder):
        try:
            found = header(path)
        except BadModel as fault:
            faults.append(fault)
            continue
        tensors |= found
        for name in found:
            places[name].append(path.name)
    raise_all(faults)
    raise_all([*_in_two_files(folder, places), *_against_index(folder, tensors)])
    return tensors


def header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file, checked against the file's size."""
    text = _header_text(path)
    try:
        entries = parse_object(text)
    except ValueError as error:
        raise _not_safetensors(path, f"a header that is not JSON ({error})") from error
    start = 8 + len(text)
    tensors = {name: _tensor(path, name, entry, start) for name, entry in entries.items() if name != "__metadata__"}
    _check_size(path, max((info.offsets[1] for info in tensors.values()), default=start))
    return tensors


def _header_text(path: Path) -> bytes:
    """The header's bytes, once the length before them is believable."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > LARGEST_HEADER_BYTES:
            raise _not_safetensors(path, _look(path, size))
        if size < 8 + length:
            raise _truncated(path, 8 + length, size)
        return file.read(length)


def _tensor(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    """One entry of a header, with its place counted from the start of the file."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        counts = all(type(n) is int and 0 <= n < 2**63 for n in (*shape, begin, end))
        n_bytes = prod(shape) * BITS[dtype] // 8 if counts else -1  # a product of texts would be one long text
        sound = counts and end - begin == n_bytes
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        shown = json.dumps(entry)[:200]
        raise BadModel(f"{path}: {name}", expected="a known dtype, a shape and bytes that fit it", found=shown)
    return TensorInfo(dtype, shape, n_bytes, path, (start + begin, start + end))


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size < expected:
        raise _truncated(path, expected, size)
    if size > expected:
        found = f"{size:,} bytes, {size - expected:,} too many"
        raise BadModel(str(path), expected=f"{expected:,} bytes, as the header says", found=found, remedy=FETCH_AGAIN)


def _expected(folder: Path, found: tuple[Path, ...]) -> set[str]:
    """Names of the files that the index lists and that the shards' own numbering calls for."""
    names = set(_weight_map(folder).values())
    for path in found:
        if match := re.fullmatch(r"(.*-)(\d{5})-of-(\d{5})(\.safetensors)", path.name):
            stem, _, count, suffix = match.groups()
            names |= {f"{stem}{number:05}-of-{count}{suffix}" for number in range(1, int(count) + 1)}
    return names


def _weight_map(folder: Path) -> dict[str, str]:
    """The index: tensor name to file name; empty where the folder has none."""
    path = folder / INDEX
    if not path.exists():
        return {}
    weight_map = json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise BadModel(str(path), expected="a `weight_map` of tensor names to file names", found=repr(weight_map)[:80])
    return weight_map


def _in_two_files(folder: Path, places: Mapping[str, list[str]]) -> list[MlxtuneError]:
    """mlx-lm would take whichever file it happens to read last."""
    twice = {name: files for name, files in places.items() if len(files) > 1}
    if not twice:
        return []
    names = some(sorted({file for files in twice.values() for file in files}))
    return [
        BadModel(
            str(folder),
            expected="each tensor in one file",
            found=f"{counted(len(twice), 'tensor')} in more than one of {names}, the first {next(iter(twice))}",
            remedy="Keep one copy of the weights: the file, or the shards.",
        )
    ]


def _against_index(folder: Path, tensors: Mapping[str, TensorInfo]) -> list[MlxtuneError]:
    wrong = [
        f"{name} ({file})"
        for name, file in _weight_map(folder).items()
        if name not in tensors or tensors[name].file.name != file
    ]
    if not wrong:
        return []
    return [
        BadModel(
            str(folder / INDEX),
            expected="every tensor in the file that the index names",
            found=f"{len(wrong):,} that are not there: {some(wrong, limit=3)}",
            remedy="The index and the shards are of different downloads: fetch the model again.",
        )
    ]


FETCH_AGAIN = "The download or copy was cut short or mixed up: fetch the file again."


def _truncated(path: Path, expected: int, size: int) -> BadModel:
    found = f"{size:,} bytes"
    return BadModel(str(path), expected=f"{expected:,} bytes, as the header says", found=found, remedy=FETCH_AGAIN)


def _not_safetensors(path: Path, found: str) -> BadModel:
    return BadModel(str(path), expected="a safetensors file", found=found, remedy=FETCH_AGAIN)


def _look(path: Path, size: int) -> str:
    """What a file without a believable header is, in words."""
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file that it stands for (`git lfs pull` fetches that)"
    if start.startswith((b"PK", b"\x80")):
        return "a pickle, which may hold code"
    return "an empty file" if not size else f"{size:,} bytes that start with {start[:8]!r}"


def no_weights(folder: Path) -> BadModel:
    """The refusal of a folder without weight files: what is there instead, and what can be done about it."""
    remedy = "Weights are the files model.safetensors or model-00001-of-0000N.safetensors."
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        remedy = f"Is it {some(others)}? Rename a single file to model.safetensors."
    elif any(folder.glob("*.gguf")):
        remedy = "GGUF files are for running a model. Use the repository that it was made from, with safetensors."
    elif any(folder.glob("*.bin")) or any(folder.glob("*.pt*")):
        remedy = "Pickled weights may hold code and are never read. Convert them: load them with transformers, then\n"
        remedy += "`model.save_pretrained(folder, safe_serialization=True)`."
    return BadModel(str(folder), expected="model*.safetensors", found=contents(folder), remedy=remedy)
