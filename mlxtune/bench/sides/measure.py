"""The clock of a training, the largest sizes that the process had, and what the machine can do at best."""

import ctypes
import platform
import time
from itertools import pairwise
from typing import Any, NamedTuple

import mlx.core as mx

from mlxtune.backends import blas
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.model.load import PRECISIONS
from mlxtune.backends.resident import peak_resident_bytes
from mlxtune.bench.sides.flops import step_flops
from mlxtune.bench.sides.spec import Case, Result

SIDE = 1024  # of the matrices whose product is timed
PRODUCTS = 5


class Computed(NamedTuple):
    """What a step computed. lengths: positions of each row, padding included."""

    lengths: tuple[int, ...]
    head_positions: int
    real_tokens: int
    supervised_tokens: int


class Recorder:
    """Started after the imports. The peaks are those of the last step: what is saved after it does not count."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.losses: list[float] = []
        self.ends: list[float] = []  # of the steps
        self.computed: list[Computed] = []
        self.peaks = (0, 0)
        self.imported_bytes = peak_resident_bytes()
        self.began = self.ready_at = time.perf_counter()

    def ready(self) -> None:
        """Everything before the first step is done."""
        self.ready_at = time.perf_counter()

    def step(self, loss: float, computed: Computed) -> None:
        """One step is done."""
        self.ends.append(time.perf_counter())
        self.losses.append(loss)
        self.computed.append(computed)
        if len(self.losses) == self.case.epochs * self.case.steps_per_epoch:
            self.peaks = (mx.get_peak_memory(), peak_resident_bytes())

    def result(self, *, precision: str, used: list[str], frozen_layers_run: bool, head: bool) -> Result:
        """All that was recorded, with what the machine can do, which is measured now."""
        last = self.computed[-self.case.steps_per_epoch :]
        flops = [
            step_flops(self.case, c.lengths, c.head_positions, frozen_layers_run=frozen_layers_run, head=head)
            for c in last
        ]
        ends = [self.ready_at, *self.ends[self.case.steps_per_epoch - 1 :: self.case.steps_per_epoch]]
        return Result(
            losses=self.losses,
            before_seconds=self.ready_at - self.began,
            first_step_seconds=self.ends[0] - self.ready_at,
            epoch_seconds=[end - begin for begin, end in pairwise(ends)],
            real_tokens=sum(c.real_tokens for c in self.computed),
            supervised_tokens=sum(c.supervised_tokens for c in self.computed),
            positions=sum(sum(c.lengths) for c in self.computed),
            step_flops=sum(flops) / len(flops),
            peak_bytes=self.peaks[0],
            resident_bytes=max(self.peaks[1], self.imported_bytes),  # Linux adds up its counters by guess: some KB less
            imported_bytes=self.imported_bytes,
            matrix_flops=matrix_rate(precision),
            device=device.name(),
            blas=blas_in_words(),
            used=used,
        )


def matrix_rate(precision: str) -> float:
    """Floating-point operations a second in a product of two 1024 x 1024 matrices of this precision, at best."""
    a, b = (mx.random.normal((SIDE, SIDE)).astype(PRECISIONS[precision]) for _ in range(2))
    mx.eval(a, b, a @ b)
    best = min(_seconds(a, b) for _ in range(PRODUCTS))
    return 2 * SIDE**3 / best


def _seconds(a: mx.array, b: mx.array) -> float:
    began = time.perf_counter()
    mx.eval(a @ b)
    return time.perf_counter() - began


def blas_in_words() -> str:
    """What computes the products."""
    if not device.is_processor():
        return "none, products run on the GPU"
    if platform.system() == "Darwin":
        return "Accelerate"
    if not blas.load_openblas():
        return "the one in MLX's wheel"
    library: Any = ctypes.CDLL(None)
    library.openblas_get_config.restype = ctypes.c_char_p
    return str(library.openblas_get_config().decode().strip())
