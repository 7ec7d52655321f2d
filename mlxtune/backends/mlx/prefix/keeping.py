"""Whether the frozen layers' output is kept, where, and in how many bytes."""

import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxtune.backends.base import Job, Work
from mlxtune.backends.mlx.prefix.prefix import FILE_TYPES
from mlxtune.backends.references import References
from mlxtune.backends.row_file import LAYERS_AT_ONCE, PAYS_FROM, RowFile, Tokens
from mlxtune.errors import BadSetting
from mlxtune.format import counted, size
from mlxtune.storage.files import cache_folder, free_bytes, writable

PASS = 2  # to be raised when our own code begins to compute other hidden states
SPARE_BYTES = 1 << 30  # that the disk must have left
FILES_AT_ONCE = 2  # a stage reads one and writes the next


class Keeping(NamedTuple):
    """rows: distinct, longest first, as they lie in the file. batch_tokens: that the pass reads at once."""

    file: RowFile
    rows: list[Tokens]
    batch_tokens: int
    note: str


def decide(job: Job, work: Work, first: int, width: int, dtype: mx.Dtype) -> Keeping | str | None:
    """The file to keep, or why there is none; None where none was to be. Raises BadSetting for a full disk."""
    if first == 0 or job.prefix_cache == "off":
        return None
    rows, n_tokens = _distinct(work), work.batch_tokens
    file = _file(job, work, rows, first, width, dtype)
    layers = f"the first {first:,} layers" if first > 1 else "the first layer"
    if file.is_whole(first):
        return Keeping(
            file, rows, n_tokens, f"The output of {layers} is there from an earlier run ({size(file.bytes)})."
        )
    if job.prefix_cache == "auto" and work.row_passes < PAYS_FROM * len(rows):
        passes = f"{counted(work.row_passes, 'pass', 'passes')} over {counted(len(rows), 'row')}"
        return f"The output of {layers} is not kept: {passes} do not pay."
    if not writable(file.folder):
        if job.prefix_cache == "on":
            raise not_kept(file, "a folder that may not be written to")
        return f"The output of {layers} is not kept: {file.folder.parent} may not be written to."
    needed, free = FILES_AT_ONCE * file.bytes + SPARE_BYTES, free_bytes(file.folder)
    if free < needed and job.prefix_cache == "on":
        raise not_kept(file, f"{size(free)} free", f"{size(needed)} free for the output of {layers}")
    if free < needed:
        return f"The output of {layers} is not kept: that takes {size(needed)} on the disk, {size(free)} are free."
    made = "What is kept is damaged. " if file.folder.exists() else ""
    made += f"The output of {layers} is computed once and kept: {size(file.bytes)} on the disk."
    return Keeping(file, rows, n_tokens, made)


def not_kept(file: RowFile, found: str, expected: str = "to keep the frozen layers' output there") -> BadSetting:
    """The refusal of a place that cannot keep it."""
    remedy = "Make room, name another folder with MLXTUNE_CACHE, or give --prefix-cache off."
    return BadSetting(f"{file.folder}", expected=expected, found=found, remedy=remedy)


def _distinct(work: Work) -> list[Tokens]:
    """What is read of each row, all but its last token, without repetitions."""
    read = {row.tokens[:-1].tobytes(): row.tokens[:-1] for row in work.rows}
    return sorted(read.values(), key=lambda tokens: (-len(tokens), tokens.tobytes()))


def _file(job: Job, work: Work, rows: list[Tokens], first: int, width: int, dtype: mx.Dtype) -> RowFile:
    """The name says all that the content depends on: weights, layers, type, rows, and what computes."""
    parts = {"first": first, "type": str(dtype), "width": width, "layers at once": LAYERS_AT_ONCE, **_computes(work)}
    return RowFile(_folder(job) / RowFile.key(parts, rows), rows, width, FILE_TYPES[dtype])


def references_file(job: Job, work: Work, references: References, words: str) -> Path | None:
    """Where the log-probabilities under the start's model are kept, if anything is. words: the form of the passes."""
    if job.prefix_cache == "off":
        return None
    parts = {"rows": references.key(), "words": words, **_computes(work)}
    return _folder(job, "references") / f"{RowFile.key(parts, [])}.bin"


def _computes(work: Work) -> dict[str, Any]:
    """The weights, and all that computes with them."""
    device = mx.device_info()
    return {
        "model": work.model_fingerprint,
        "largest": work.batch_tokens,
        "pass": PASS,
        "mlx": version("mlx"),
        "mlx-lm": version("mlx-lm"),
        "device": str(device.get("device_name", device)),
    }


def _folder(job: Job, what: str = "prefix") -> Path:
    model = str(job.folder.resolve()).encode()
    return cache_folder() / what / f"{job.folder.name}-{np.uint32(zlib.crc32(model)):08x}"
