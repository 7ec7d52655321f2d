"""Whether the frozen layers' output is kept, where, and in how many bytes."""

import zlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Decisions, layers_in_words
from mlxtune.backends.mlx.model.load import PRECISIONS
from mlxtune.backends.mlx.prefix.prefix import FILE_TYPES
from mlxtune.backends.references import References
from mlxtune.backends.row_file import LAYERS_AT_ONCE, RowFile
from mlxtune.data.distinct import Index
from mlxtune.errors import BadSetting
from mlxtune.format import size
from mlxtune.storage.files import cache_folder, free_bytes, writable
from mlxtune.strategies.selection import Anatomy, Selection

PASS = 2  # to be raised when our own code begins to compute other hidden states
SPARE_BYTES = 1 << 30  # that the disk must have left
FILES_AT_ONCE = 2  # a stage reads one and writes the next


class Keeping(NamedTuple):
    """The file, and how many tokens the pass that fills it reads at once."""

    file: RowFile
    batch_tokens: int

    @classmethod
    def on_the_disk(
        cls, job: Job, work: Work, anatomy: Anatomy, selection: Selection, expected: Decisions
    ) -> tuple[Decisions, "Keeping | None"]:
        """What is expected, as the disk allows it, and the file. Raises BadSetting for a disk that was asked for."""
        first = selection.first_layer
        if first == 0 or job.prefix_cache == "off":
            return expected, None
        keeping = cls._of(job, work, first, width=anatomy.parameters[anatomy.embedding].shape[1])
        layers, file = layers_in_words(selection), keeping.file
        if file.is_whole(first):
            there = f"The output of {layers} is there from an earlier run ({size(file.bytes)})."
            return expected._replace(keeps_prefix=True).because({"prefix": there}), keeping
        if not expected.keeps_prefix:
            return expected, None
        if fault := _fault(file, layers, asked=job.prefix_cache == "on"):
            return expected._replace(keeps_prefix=False).because({"prefix": fault}), None
        made = "What is kept is damaged. " if file.folder.exists() else ""
        made += f"The output of {layers} is computed once and kept: {size(file.bytes)} on the disk."
        return expected.because({"prefix": made}), keeping

    @classmethod
    def _of(cls, job: Job, work: Work, first: int, width: int) -> "Keeping":
        """The file's name says all that the content depends on: weights, layers, type, rows, and what computes."""
        index, dtype = Index(work.rows), PRECISIONS[job.precision]
        parts = {
            "rows": index.hash(),
            "first": first,
            "type": str(dtype),
            "width": width,
            "layers at once": LAYERS_AT_ONCE,
            **_computes(work),
        }
        file = RowFile(_folder(job) / RowFile.key(parts), index, width, FILE_TYPES[dtype])
        return cls(file, work.batch_tokens)


def _fault(file: RowFile, layers: str, *, asked: bool) -> str | None:
    """Why the disk cannot hold it. Raises BadSetting instead where it was asked for."""
    if not writable(file.folder):
        if asked:
            raise not_kept(file, "a folder that may not be written to")
        return f"The output of {layers} is not kept: {file.folder.parent} may not be written to."
    needed, free = FILES_AT_ONCE * file.bytes + SPARE_BYTES, free_bytes(file.folder)
    if free < needed and asked:
        raise not_kept(file, f"{size(free)} free", f"{size(needed)} free for the output of {layers}")
    if free < needed:
        return f"The output of {layers} is not kept: that takes {size(needed)} on the disk, {size(free)} are free."
    return None


def not_kept(file: RowFile, found: str, expected: str = "to keep the frozen layers' output there") -> BadSetting:
    """The refusal of a place that cannot keep it."""
    remedy = "Make room, name another folder with MLXTUNE_CACHE, or give --prefix-cache off."
    return BadSetting(f"{file.folder}", expected=expected, found=found, remedy=remedy)


def references_file(job: Job, work: Work, references: References, words: str) -> Path | None:
    """Where the log-probabilities under the start's model are kept, if anything is. words: the form of the passes."""
    if job.prefix_cache == "off":
        return None
    parts = {"rows": references.index.hash(), "words": words, **_computes(work)}
    return _folder(job, "references") / f"{RowFile.key(parts)}.bin"


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
