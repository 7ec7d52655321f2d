"""The NumPy Learner: a decoder, what trains of it, and the optimizer's state.

All arithmetic is float32. A precision of 16 bits says what the weights are kept in, as on MLX: they are rounded to it
when they are read and after each update, so that a checkpoint of 16 bits holds them exactly.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlxtune.adapters.adapter import parameters
from mlxtune.backends import loss_scale
from mlxtune.backends.base import Job, LossSum, StepResult, Work, ignore
from mlxtune.backends.numpy import adapter, config, device, layout, weights
from mlxtune.backends.numpy.arrays import Array, Flat, Workspace, is_finite
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.kernels.cross_entropy import Worth
from mlxtune.backends.numpy.layout import Layout
from mlxtune.backends.numpy.model import Model
from mlxtune.backends.numpy.prefix import Prefix
from mlxtune.backends.numpy.update import Noise, Rule, State, update
from mlxtune.backends.numpy.weights import Sources
from mlxtune.backends.references import References
from mlxtune.data.packed import pack
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory
from mlxtune.models.shapes import EMBEDDING, HEAD
from mlxtune.models.shapes import shapes as base_shapes
from mlxtune.models.weights import header
from mlxtune.objectives.base import Found, Targets
from mlxtune.optim import clip
from mlxtune.storage.files import Tensor
from mlxtune.strategies.choose import select

NORM_BLOCK = 1 << 15
SLOT_TYPES = {"fp32": np.float32, "bf16": np.uint16}  # bfloat16 in words


class NumpyLearner:
    """See `backends.base.Learner`. Raises BadModel and BadSetting before any weight is read.

    notes: sentences for the panel besides those of the selection.
    """

    backend, packs_rows, keeps_prefix, on_gpu = "numpy", True, False, False

    def __init__(self, job: Job, notes: tuple[str, ...] = ()) -> None:
        self.job = job
        self.decoder = config.read(job.folder)
        self.sources = weights.find(job.folder, self.decoder)
        self.anatomy = layout.anatomy(self.decoder)
        self.selection = select(job.strategy, self.anatomy)
        self.notes = (*notes, *_conversion(self.sources, job.precision))
        self.precision, self.device = job.precision, device.name()
        self.memory_limit_bytes = device.memory_bytes()
        self.work: Work | None = None
        self.references: References | None = None
        self.is_prepared = False
        self.steps, self.updates = 0, 0
        self.scale = loss_scale.LossScale(loss_scale.START, 0) if job.precision == "fp16" else loss_scale.ONE

    def plan(self, work: Work) -> None:
        """Nothing to decide: the frozen layers' output is kept row by row, in memory."""
        self.work = work

    def prepare(self, tell: Callable[[Event], None] = ignore) -> None:
        """Read the weights, add what the Selection adds, make the optimizer's state."""
        self.layout = self._layout()
        buffer = np.zeros(self.layout.size, np.float32)
        self.flat = Flat(self.layout, buffer)
        weights.read(self.sources, self.flat, self.precision)
        if self.selection.untie_head:
            self.flat[HEAD][...] = self.flat[EMBEDDING]
        adapter.begin(self.selection.adapters, self.flat, self.job.seed)
        begin = self.layout.trained_begin
        trained = buffer[begin:]
        exact = trained.copy() if self._masters else trained
        slots = self.job.optimizer.init(np, trained.shape, SLOT_TYPES[self.job.optimizer.moments])
        self.state = State(trained, exact, slots)
        self.gradient = Flat(self.layout, np.zeros_like(trained), begin)
        self.gradient_sum: Array | None = None  # of the micro-batches, where there are several
        ws = Workspace()
        self.model = Model(self.decoder, self.flat, self.gradient, self.selection.adapters, ws)
        self.model.recomputes = self.job.grad_checkpoint
        limit_bytes = device.prefix_bytes(self.job.prefix_cache)
        n_threads = device.row_threads(self.job.batch_rows, self.job.prefix_cache)
        self.prefix = Prefix(self.model, self.selection.first_layer, limit_bytes, n_threads)
        self.peak_bytes, self.is_prepared = 0, True
        if self.job.objective.needs_reference:
            assert self.work is not None
            self.references = References(self.work.rows)
            self.references.find_or_make(None, self.work.batch_tokens, self._log_probabilities, tell)

    def _layout(self) -> Layout:
        adapters = {name: array.shape for name, array in parameters(self.selection.adapters).items()}
        shapes = base_shapes(self.decoder)
        if self.selection.untie_head:
            shapes[HEAD] = shapes[EMBEDDING]
            return layout.lay_out(shapes, [*self.selection.train, HEAD])
        return layout.lay_out({**shapes, **adapters}, [*self.selection.train, *adapters])

    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """Nothing is on a disk."""

    @np.errstate(all="ignore")  # what is not finite is looked for here, and told by the engine
    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """One optimizer step on the micro-batches, as if they were one batch."""
        count = sum(self.job.objective.count(len(batch.rows), batch.n_supervised) for batch in batches)
        found, gradient = self.gradients(batches, 1 / count)
        norm = math.sqrt(_square_sum(gradient))
        not_finite: tuple[str, ...] = ()
        if math.isfinite(norm):
            factor = float(clip.clip_factor(np, np.float32(norm), self.job.clip_norm))
            if not self._update(gradient, factor, learning_rate):
                not_finite = self._not_finite()
        self._note_peak()
        self.steps += 1
        return StepResult(_sums(found, count), norm, skipped=False, not_finite=not_finite)

    def gradients(self, batches: Sequence[Batch], scale: float) -> tuple[Found, Array]:
        """What the objective makes of the micro-batches, and the flat gradient of `scale` times its summed loss."""
        found = self._found_and_gradient(batches[0], 0, scale)
        if len(batches) == 1:
            return found, self.gradient.buffer
        if self.gradient_sum is None:
            self.gradient_sum = np.empty_like(self.gradient.buffer)
        self.gradient_sum[...] = self.gradient.buffer
        for number, batch in enumerate(batches[1:], start=1):
            found = found.plus(self._found_and_gradient(batch, number, scale))
            self.gradient_sum += self.gradient.buffer
        return found, self.gradient_sum

    def _found_and_gradient(self, batch: Batch, number: int, scale: float) -> Found:
        rows, dropout = pack(batch), Dropout(self.job.seed, self.steps, number)
        objective, targets = self.job.objective, self._targets(batch)

        def slopes(logps: Array, tokens: slice) -> Array:
            some = targets._replace(rows_N=targets.rows_N[tokens])
            return np.asarray(scale * objective.slopes(np, logps, some), logps.dtype)

        worth, hidden = Worth(slopes, objective.is_pointwise), self.prefix.hidden(rows)
        logps_S = self.model.log_probabilities_and_gradients(rows, hidden, self.prefix.first, worth, dropout)
        return objective.loss(np, logps_S.astype(np.float64), targets)

    def _targets(self, batch: Batch) -> Targets:
        reference = None if self.references is None else self.references.of(batch)
        return Targets(batch.supervised_rows, len(batch.rows), reference)

    def _update(self, gradient: Array, factor: float, learning_rate: float) -> bool:
        """Whether everything is finite after it."""
        optimizer, noise = self.job.optimizer, Noise(self.job.seed, self.steps)
        scalars = optimizer.scalars(np, self.updates + 1, learning_rate)
        rule = Rule(optimizer, scalars, factor, self._n_decaying, self._kept_in, noise)
        finite = update(self.state, gradient, rule)
        self.updates += 1
        return finite

    def _not_finite(self) -> tuple[str, ...]:
        """Names of the weights and slots that are not."""
        flats = {"": self._flat(self.state.weights), **{f".{name}": flat for name, flat in self._slots().items()}}
        names = ((name, ending) for name in self.layout.trained for ending in flats)
        return tuple(name + ending for name, ending in names if not is_finite(flats[ending][name]))

    @property
    def _n_decaying(self) -> int:
        """Matrices come before vectors."""
        if self.job.optimizer.decays((2,)):
            return self.layout.size - self.layout.trained_begin
        return self.layout.vectors_begin - self.layout.trained_begin if self.job.optimizer.decays((2, 2)) else 0

    @property
    def _kept_in(self) -> str:
        """What the weights that train are kept in: adapters are float32 whatever the precision, and train alone."""
        return "fp32" if self.selection.adapters else self.precision

    @np.errstate(all="ignore")
    def evaluate(self, batch: Batch) -> LossSum:
        """The loss with dropout off; changes nothing."""
        logps_S = self._log_probabilities(batch).astype(np.float64)
        found = self.job.objective.loss(np, logps_S, self._targets(batch))
        return _sums(found, self.job.objective.count(len(batch.rows), batch.n_supervised))

    def _log_probabilities(self, batch: Batch) -> Array:
        rows = pack(batch)
        logps_S = self.model.log_probabilities(rows, self.prefix.hidden(rows), self.prefix.first)
        self._note_peak()
        return logps_S

    def weights(self) -> Iterator[Tensor]:
        """The tensors that train, in the model's order."""
        return (weights.as_tensor(name, self.flat[name], self._kept_in) for name in self.layout.trained)

    def optimizer_state(self) -> Iterator[Tensor]:
        """The optimizer's slots, and master copies where there are some."""
        slots = self._slots()
        for name in self.layout.trained:
            for slot, flat in slots.items():
                yield weights.as_tensor(f"{name}.{slot}", flat[name], self.job.optimizer.moments)
        if self._masters:
            exact = self._flat(self.state.exact)
            for name in self.layout.trained:
                yield weights.as_tensor(f"{name}.master", exact[name], "fp32")

    @property
    def _masters(self) -> bool:
        return self._kept_in != "fp32" and self.job.optimizer.low_precision == "master"

    def _slots(self) -> dict[str, Flat]:
        return dict(zip(self.job.optimizer.slots, map(self._flat, self.state.slots), strict=True))

    def _flat(self, part: Array) -> Flat:
        """A buffer of the trained part's length, by parameters' names."""
        return Flat(self.layout, part, self.layout.trained_begin)

    def scalars(self) -> dict[str, Any]:
        """Counts, and the loss scale, which float32 gradients do not need and MLX goes on with."""
        return {"steps": self.steps, "updates": self.updates, "loss_scale": list(self.scale)}

    def restore(self, weights_file: Path, optimizer: Path, scalars: Mapping[str, Any]) -> None:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave, here or on MLX."""
        for name, info in header(weights_file).items():
            weights.fill(self.flat[name], info)
        kept = {**self._slots(), "master": self._flat(self.state.exact)}
        for name, info in header(optimizer).items():
            parameter, _, what = name.rpartition(".")
            weights.fill(kept[what][parameter], info)
        self.steps, self.updates = scalars["steps"], scalars["updates"]
        self.scale = loss_scale.LossScale(*scalars["loss_scale"])

    def memory(self) -> Memory:
        """Bytes of the arrays held. Working memory counts as in use in the peak, and between steps as a cache."""
        if not self.is_prepared:
            return Memory(0, 0, 0)
        held, working = self._held_bytes(), self._working_bytes
        return Memory(held, max(self.peak_bytes, held + working), working)

    def limit(self, memory_bytes: int, cache_bytes: int) -> None:
        """Nothing to set: NumPy takes what its arrays are, and keeps no cache."""

    def close(self) -> None:
        """Nothing to give back."""

    def _held_bytes(self) -> int:
        state = self.state
        arrays = {id(array): array for array in (self.flat.buffer, state.exact, *state.slots, self.gradient.buffer)}
        arrays.pop(id(state.weights), None)  # a part of the flat buffer
        more = 0 if self.gradient_sum is None else self.gradient_sum.nbytes
        return sum(array.nbytes for array in arrays.values()) + more + self.prefix.bytes

    def _note_peak(self) -> None:
        self.peak_bytes = max(self.peak_bytes, self._held_bytes() + self._working_bytes)

    @property
    def _working_bytes(self) -> int:
        return self.model.ws.bytes + self.prefix.working_bytes


def _sums(found: Found, count: int) -> LossSum:
    return LossSum(float(found.loss_sum), count, {name: float(value) for name, value in found.metrics.items()})


def _conversion(sources: Sources, precision: str) -> tuple[str, ...]:
    """A sentence for the panel where 16-bit weights are computed with in 32."""
    stored = {info.dtype for info in sources.values()}
    if precision == "fp32" and stored == {"F32"}:
        return ()
    types = ", ".join(sorted(stored))
    return (f"NumPy computes in float32: weights stored as {types} are converted; what trains is kept as {precision}.",)


def _square_sum(array: Array) -> float:
    """In float64 over blocks: a float32 sum over millions loses digits."""
    blocks = (array[begin : begin + NORM_BLOCK] for begin in range(0, array.size, NORM_BLOCK))
    return sum(float(np.dot(block, block)) for block in blocks)
