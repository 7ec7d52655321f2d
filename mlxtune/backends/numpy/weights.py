"""Weights out of a folder of safetensors files, into float32 views, and back into the type that they are kept in.

bfloat16 is the upper half of a float32. A weight that a run keeps in 16 bits is held here as the float32 of the same
value, so that a file of 16 bits loses nothing.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Flat, is_finite
from mlxtune.backends.numpy.config import Decoder
from mlxtune.models import fit
from mlxtune.models.shapes import as_loaded
from mlxtune.models.shapes import shapes as base_shapes
from mlxtune.models.weights import TensorInfo, headers
from mlxtune.storage.files import Tensor
from mlxtune.storage.files import TensorInfo as SavedInfo

READABLE = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
NAMES = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}  # of precisions, as safetensors has them

Sources = Mapping[str, TensorInfo]


def find(folder: Path, decoder: Decoder) -> Sources:
    """Where each parameter of the model is stored; only headers are read.

    A tied model that was saved under its head's name only has its embedding there. Raises BadModel for tensors that
    are missing, left over, of another shape, or of a type that is not a plain number.
    """
    stored = as_loaded(headers(folder), decoder.tied)
    needed = base_shapes(decoder)
    fit.check(folder, needed, {name: fit.Stored(info.dtype, info.shape) for name, info in stored.items()})
    return {name: stored[name] for name in needed}


@np.errstate(over="ignore")  # a number that is too large for fp16 is among those that are found
def read(sources: Sources, into: Flat, precision: str) -> None:
    """Fill the parameters from their files, rounded to the precision that the run keeps them in.

    Raises BadModel for NaN or infinity in them.
    """
    bad = {}
    for name, info in sources.items():
        view = into[name]
        fill(view, info)
        finite = is_finite(view)  # before it is rounded, which is for numbers
        if finite and info.dtype != NAMES[precision]:
            round_to(view, precision)
        if not finite or (precision == "fp16" and not is_finite(view)):
            counts = f"{np.isnan(view).sum():,} NaN and {np.isinf(view).sum():,} infinite"
            bad[name] = f"{counts} of {view.size:,} numbers"
    if bad:
        raise fit.not_finite(next(iter(sources.values())).file.parent, bad, precision)


def fill(view: Array, info: TensorInfo) -> None:
    """One tensor of a file into a view of its shape, of float32 or of bfloat16 in words of 16 bits."""
    begin, end = info.offsets
    with info.file.open("rb") as file:
        file.seek(begin)
        kind = np.dtype(READABLE[info.dtype])
        stored = np.fromfile(file, kind, (end - begin) // kind.itemsize).reshape(view.shape)
    if info.dtype == "BF16" and view.dtype != np.uint16:
        widen(stored, view)
    else:
        view[...] = stored


def widen(stored: Array, out: Array | None = None) -> Array:
    """bfloat16 in words of 16 bits as float32.

    >>> widen(np.uint16([0x3F80, 0xC000])).tolist()
    [1.0, -2.0]
    """
    out = np.empty(stored.shape, np.float32) if out is None else out
    words = out.view(np.uint32)
    words[...] = stored
    words <<= 16
    return out


def round_to(array: Array, precision: str) -> None:
    """Round float32 numbers to the nearest of the precision's, ties to even, in place.

    >>> numbers = np.float32([1 + 2**-8, 1 + 3 * 2**-8, 0.1])
    >>> round_to(numbers, "bf16")
    >>> numbers.tolist()
    [1.0, 1.015625, 0.10009765625]
    """
    if precision == "fp16":
        array[...] = array.astype(np.float16)
    elif precision == "bf16":
        words = array.view(np.uint32)
        words += ((words >> 16) & 1) + 0x7FFF  # NaN is no weight, and infinity has nothing below the cut
        words &= 0xFFFF0000


def as_tensor(name: str, array: Array, precision: str) -> Tensor:
    """An array on its way to a file in the type of a precision, which holds it exactly. It may be bfloat16 in words."""
    stored_so = precision == "fp32" or array.dtype == np.uint16

    def read() -> Array:
        if stored_so:
            return array
        if precision == "fp16":
            return array.astype(np.float16)
        return (array.view(np.uint32) >> 16).astype(np.uint16)

    dtype = NAMES[precision]
    n_bytes = array.nbytes if stored_so else array.nbytes // 2
    return Tensor(SavedInfo(name, dtype, tuple(array.shape), n_bytes), read)
