"""Whether a folder's weights are those of its config.json; a backend says what it needs and what it found."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mlxtune.errors import BadModel
from mlxtune.models.folder import some

PLAIN = ("F32", "F16", "BF16")  # as safetensors names the types of numbers that can be trained
ORIGINAL = "Name the original model, not a quantised conversion of it."

Shape = tuple[int, ...]


class Stored(NamedTuple):
    """A tensor as it is stored."""

    dtype: str  # as safetensors names it
    shape: Shape


INCOMPLETE = "The copy is not complete, or config.json and the weights are of two models."


def check(folder: Path, needed: Mapping[str, Shape], stored: Mapping[str, Stored], cause: str = "") -> None:
    """BadModel tells all tensors that are missing, left over, of another shape, or not of plain numbers.

    cause: what a backend knows of why, in a sentence.
    """
    both = sorted(needed.keys() & stored.keys())
    shapes = [f"{name} {[*stored[name].shape]} for {[*needed[name]]}" for name in both]
    unlike = [text for name, text in zip(both, shapes, strict=True) if stored[name].shape != needed[name]]
    packed = [f"{name} {stored[name].dtype}" for name in both if stored[name].dtype not in PLAIN]
    faults = {
        "missing": sorted(needed.keys() - stored.keys()),
        "left over": sorted(stored.keys() - needed.keys()),
        "of another shape": unlike,
        f"not {', '.join(PLAIN)}": packed,
    }
    words = [f"{len(names):,} {what}: {some(names, limit=3)}" for what, names in faults.items() if names]
    if words:
        raise BadModel(
            str(folder),
            expected="the tensors that config.json calls for, and no others",
            found="; ".join(words),
            remedy=ORIGINAL if packed else cause or INCOMPLETE,
        )


def not_finite(folder: Path, found: Mapping[str, str], precision: str) -> BadModel:
    """The refusal of weights with NaN or infinity in them. found: by name, what each holds in words."""
    name, holds = next(iter(found.items()))
    more = f"; {len(found) - 1:,} more like it: {some([*found][1:], limit=3)}" if found.keys() - {name} else ""
    remedy = "No training mends them: fetch or export the model again."
    if precision == "fp16":
        remedy += "\nIn fp16 a number above 65,504 is infinite, which --precision bf16 or fp32 holds."
    return BadModel(f"{folder}: {name}", expected="finite weights", found=holds + more, remedy=remedy)


def quantised(folder: Path, how: str | None) -> BadModel:
    """The refusal of weights that are not plain numbers. how: as config.json says it."""
    found = f"quantised ones ({how})" if how else "quantised ones"
    return BadModel(str(folder / "config.json"), expected="weights in 16 or 32 bits", found=found, remedy=ORIGINAL)
