"""A decoder by names and shapes, and how a run's work is computed with it. No weight is read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Decisions, decide
from mlxtune.backends.numpy import config, device, layout, weights
from mlxtune.backends.numpy.learner import NumpyLearner, Parts
from mlxtune.backends.numpy.weights import Sources
from mlxtune.events import Event, ignore
from mlxtune.strategies.choose import select


class NumpyBlueprint:
    """See `backends.base.Blueprint`. Raises BadModel and BadSetting. notes: sentences for the panel."""

    backend, on_gpu = "numpy", False

    def __init__(self, job: Job, notes: tuple[str, ...] = ()) -> None:
        self.job, self.decoder = job, config.read(job.folder)
        self.sources = weights.find(job.folder, self.decoder)
        self.anatomy = layout.anatomy(self.decoder)
        self.selection = select(job.strategy, self.anatomy)
        self.notes = (*notes, *_conversion(self.sources, job.precision))
        self.precision, self.device = job.precision, device.name()
        self.memory_limit_bytes = device.memory_bytes()

    def decide(self, work: Work) -> Decisions:  # noqa: ARG002 - it is the same for any
        """Rows are always packed. The frozen layers' output is kept row by row in memory, beside their weights."""
        return self._decisions

    def learner(self, work: Work | None = None, tell: Callable[[Event], None] = ignore) -> NumpyLearner:
        """Read the weights, add what the Selection adds, make the optimizer's state."""
        parts = Parts(self.job, self.decoder, self.sources, self.anatomy, self.selection, work, self._decisions)
        return NumpyLearner(parts, tell)

    @contextmanager
    def limited(self, memory_bytes: int, cache_bytes: int) -> Iterator[None]:  # noqa: ARG002
        """Nothing is set: NumPy takes what its arrays are, and keeps no cache."""
        yield

    @property
    def _decisions(self) -> Decisions:
        anatomy, selection = self.anatomy, self.selection
        return decide(anatomy, selection, prefix_cache="off", checkpoints=self.job.grad_checkpoint, passes=None)


def _conversion(sources: Sources, precision: str) -> tuple[str, ...]:
    """A sentence for the panel where 16-bit weights are computed with in 32."""
    stored = {info.dtype for info in sources.values()}
    if precision == "fp32" and stored == {"F32"}:
        return ()
    types = ", ".join(sorted(stored))
    return (f"NumPy computes in float32: weights stored as {types} are converted; what trains is kept as {precision}.",)
