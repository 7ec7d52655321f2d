"""Dropout whose masks are a function of (seed, step, micro-batch, adapter), made again where they are needed.

A counter-based generator gives any part of its stream at once: Salmon and others, "Parallel random numbers: as easy as
1, 2, 3", SC 2011.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array


class Dropout(NamedTuple):
    seed: int
    step: int
    micro_batch: int

    def mask(self, stream: int, rate: float, out: Array) -> Array:
        """Writes 0 with the probability of the rate, else 1 / (1 - rate).

        >>> mask = Dropout(0, 1, 0).mask(stream=3, rate=0.25, out=np.empty(1000, np.float32))
        >>> bool(abs(mask.mean() - 1) < 0.1), np.unique(mask).astype(float).round(3).tolist()
        (True, [0.0, 1.333])
        """
        philox = np.random.Philox(key=self.seed, counter=[0, self.micro_batch, self.step, stream])
        np.random.Generator(philox).random(out=out, dtype=out.dtype.type)
        np.greater_equal(out, rate, out=out)
        out *= 1 / (1 - rate)
        return out
