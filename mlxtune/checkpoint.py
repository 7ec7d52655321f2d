"""Placeholder of the checkpoint module: only the Tensor type is settled."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Tensor(NamedTuple):
    """A tensor on its way to a safetensors file; dtype as safetensors names it, bytes as the machine has them."""

    name: str
    dtype: str  # "F32", "F16", "BF16"
    array: NDArray[np.generic]  # BF16 as uint16 words
