"""Working memory of the NumPy path: it does not grow with the number of shapes that it was asked for."""

import tracemalloc

import numpy as np
import pytest

from mlxtune.backends.numpy.arrays import Workspace


@pytest.mark.slow
def test_ragged_batches_leave_no_more_behind_the_more_there_are() -> None:
    ws, generator = Workspace(), np.random.default_rng(0)
    ws.parts("scores", ((1 << 16,),))

    def ask(batches: int) -> int:
        for _ in range(batches):
            lengths = generator.integers(1, 4000, 8).tolist()
            ws.parts("scores", tuple((length, 2) for length in lengths))
            ws("hidden", sum(lengths), 1)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        early, late = ask(1_000), ask(7_000)
    finally:
        tracemalloc.stop()
    assert late - early < 2_000_000
