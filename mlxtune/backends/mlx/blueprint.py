"""A model of mlx-lm by names and shapes, and how a run's work is computed with it. No weight is read."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Decisions, decide
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.assemble import Parts
from mlxtune.backends.mlx.head import untie as head
from mlxtune.backends.mlx.learner import MlxLearner
from mlxtune.backends.mlx.model import anatomy
from mlxtune.backends.mlx.model.load import corrected, load_lazily
from mlxtune.backends.mlx.prefix.keeping import Keeping
from mlxtune.events import Event, ignore
from mlxtune.strategies.choose import select


class MlxBlueprint:
    """See `backends.base.Blueprint`. Raises BadModel and BadSetting. notes: sentences for the panel."""

    backend = "mlx"

    def __init__(self, job: Job, notes: tuple[str, ...] = ()) -> None:
        model = load_lazily(job.folder, job.precision)
        self.job, self.anatomy = job, anatomy.describe(model)
        self.selection = select(job.strategy, self.anatomy)
        if self.selection.untie_head:
            head.check_can_untie(model)
        self.precision, self.device, self.notes = job.precision, device.name(), (*notes, *corrected(model))
        self.memory_limit_bytes, self.on_gpu = device.memory_limit_bytes(), not device.is_processor()
        self._known: tuple[Work | None, Decisions, Keeping | None] | None = None

    def decide(self, work: Work) -> Decisions:
        """How this work is to be computed. Raises BadSetting for a disk that cannot hold what was asked for."""
        return self._decided(work)[0]

    def learner(self, work: Work | None = None, tell: Callable[[Event], None] = ignore) -> MlxLearner:
        """Read the weights, add what the Selection adds, compute once what is kept, make the optimizer's state."""
        decisions, keeping = self._decided(work)
        return MlxLearner(Parts(self.job, self.anatomy, self.selection, work, decisions, keeping), tell)

    def limited(self, memory_bytes: int, cache_bytes: int) -> AbstractContextManager[None]:
        """MLX waits for work to be done before it takes more memory, and keeps so much of what was given back."""
        return device.limited(memory_bytes, cache_bytes)

    def _decided(self, work: Work | None) -> tuple[Decisions, Keeping | None]:
        """Of one work once: its rows are hashed, which takes a second for 100,000."""
        if self._known is None or self._known[0] is not work:
            self._known = (work, *self._decide(work))
        return self._known[1:]

    def _decide(self, work: Work | None) -> tuple[Decisions, Keeping | None]:
        job = self.job
        expected = decide(
            self.anatomy,
            self.selection,
            prefix_cache=job.prefix_cache,
            checkpoints=job.grad_checkpoint,
            passes=work and work.passes,
        )
        if work is None:
            return expected._replace(keeps_prefix=False), None
        return Keeping.on_the_disk(job, work, self.anatomy, self.selection, expected)
