"""The NumPy Learner: a decoder, what trains of it, and the optimizer's state.

All arithmetic is float32. A precision of 16 bits says what the weights are kept in, as on MLX: they are rounded to it
when they are read and after each update, so that a checkpoint of 16 bits holds them exactly.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.adapters.adapter import parameters
from mlxtune.backends import loss_scale
from mlxtune.backends.base import Job, LossSum, Sampling, StepResult, Work
from mlxtune.backends.decisions import Decisions
from mlxtune.backends.numpy import adapter, device, layout, weights
from mlxtune.backends.numpy.arrays import Array, Flat, Workspace, is_finite
from mlxtune.backends.numpy.config import Decoder
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.generating import cache_bytes, generate
from mlxtune.backends.numpy.kernels.cross_entropy import Worth
from mlxtune.backends.numpy.layout import Layout
from mlxtune.backends.numpy.model import Model
from mlxtune.backends.numpy.prefix import Prefix
from mlxtune.backends.numpy.update import Noise, Rule, State, update
from mlxtune.backends.numpy.weights import Sources
from mlxtune.backends.references import References, row_sums
from mlxtune.data.packed import pack
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory, ignore
from mlxtune.models.shapes import EMBEDDING, HEAD
from mlxtune.models.shapes import shapes as base_shapes
from mlxtune.models.weights import header
from mlxtune.objectives.base import Found, Targets
from mlxtune.optim import clip
from mlxtune.storage.files import Tensor
from mlxtune.strategies.selection import Anatomy, Selection

NORM_BLOCK = 1 << 15
SLOT_TYPES = {"fp32": np.float32, "bf16": np.uint16}  # bfloat16 in words


class Parts(NamedTuple):
    """What a learner is made of, by names and shapes."""

    job: Job
    decoder: Decoder
    sources: Sources
    anatomy: Anatomy
    selection: Selection
    work: Work | None
    decisions: Decisions

    @property
    def layout(self) -> Layout:
        """Where each parameter lies, those that are added to the model included."""
        adapters = {name: array.shape for name, array in parameters(self.selection.adapters).items()}
        shapes = base_shapes(self.decoder)
        if self.selection.untie_head:
            shapes[HEAD] = shapes[EMBEDDING]
            return layout.lay_out(shapes, [*self.selection.train, HEAD])
        return layout.lay_out({**shapes, **adapters}, [*self.selection.train, *adapters])


class NumpyLearner:
    """See `backends.base.Learner`. Raises BadModel for weights that are not finite."""

    def __init__(self, parts: Parts, tell: Callable[[Event], None] = ignore) -> None:
        self.parts, self.job, self.decisions = parts, parts.job, parts.decisions
        self.device, self.steps, self.updates, self.peak_bytes = device.name(), 0, 0, 0
        self.scale = loss_scale.LossScale(loss_scale.START, 0) if self.job.precision == "fp16" else loss_scale.ONE
        self.layout = parts.layout
        self.flat = self._read(parts)
        begin = self.layout.trained_begin
        trained = self.flat.buffer[begin:]
        exact = trained.copy() if self._masters else trained
        slots = self.job.optimizer.init(np, trained.shape, SLOT_TYPES[self.job.optimizer.moments])
        self.state = State(trained, exact, slots)
        self.gradient = Flat(self.layout, np.zeros_like(trained), begin)
        self.gradient_sum: Array | None = None  # of the micro-batches, where there are several
        self.model = Model(parts.decoder, self.flat, self.gradient, self.parts.selection.adapters, Workspace())
        self.model.recomputes = self.decisions.checkpoints
        limit_bytes = device.prefix_bytes(self.job.prefix_cache)
        n_threads = device.row_threads(self.job.batch_rows, self.job.prefix_cache)
        self.prefix = Prefix(self.model, self.parts.selection.first_layer, limit_bytes, n_threads)
        self.references = self._compared_with_the_start(parts, tell) if self.job.objective.needs_reference else None

    def _read(self, parts: Parts) -> Flat:
        """The weights, and what the Selection adds to them."""
        flat = Flat(self.layout, np.zeros(self.layout.size, np.float32))
        weights.read(parts.sources, flat, self.job.precision)
        if self.parts.selection.untie_head:
            flat[HEAD][...] = flat[EMBEDDING]
        adapter.begin(self.parts.selection.adapters, flat, self.job.seed)
        return flat

    def _compared_with_the_start(self, parts: Parts, tell: Callable[[Event], None]) -> References:
        """What the untrained model makes of every row, before anything is trained or restored."""
        assert parts.work is not None, "an objective that compares with the start has rows"
        references = References(parts.work.rows)
        references.find_or_make(None, parts.work.batch_tokens, self.row_log_probabilities, tell)
        return references

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
        return "fp32" if self.parts.selection.adapters else self.job.precision

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

    @np.errstate(all="ignore")
    def row_log_probabilities(self, batch: Batch) -> NDArray[np.float32]:
        """Of each row, its supervised tokens' summed, (B,)."""
        return row_sums(batch, self._log_probabilities(batch))

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, up to and without the first of `stop`."""
        try:
            yield from generate(self.model, prompt, sampling, stop)
        finally:
            self._note_peak(cache_bytes(self.model, len(prompt) + sampling.max_tokens))

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

    def restore(self, weights_file: Path, optimizer: Path, scalars: Mapping[str, Any]) -> tuple[str, ...]:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave, here or on MLX."""
        for name, info in header(weights_file).items():
            weights.fill(self.flat[name], info)
        kept = {**self._slots(), "master": self._flat(self.state.exact)}
        for name, info in header(optimizer).items():
            parameter, _, what = name.rpartition(".")
            weights.fill(kept[what][parameter], info)
        self.steps, self.updates = scalars["steps"], scalars["updates"]
        self.scale = loss_scale.LossScale(*scalars["loss_scale"])
        return ()

    def memory(self) -> Memory:
        """Bytes of the arrays held. Working memory counts as in use in the peak, and between steps as a cache."""
        held, working = self._held_bytes(), self._working_bytes
        return Memory(held, max(self.peak_bytes, held + working), working)

    def _held_bytes(self) -> int:
        state = self.state
        arrays = {id(array): array for array in (self.flat.buffer, state.exact, *state.slots, self.gradient.buffer)}
        arrays.pop(id(state.weights), None)  # a part of the flat buffer
        more = 0 if self.gradient_sum is None else self.gradient_sum.nbytes
        return sum(array.nbytes for array in arrays.values()) + more + self.prefix.bytes

    def _note_peak(self, more_bytes: int = 0) -> None:
        self.peak_bytes = max(self.peak_bytes, self._held_bytes() + self._working_bytes + more_bytes)

    @property
    def _working_bytes(self) -> int:
        return self.model.ws.bytes + self.prefix.working_bytes


def _sums(found: Found, count: int) -> LossSum:
    return LossSum(float(found.loss_sum), count, {name: float(value) for name, value in found.metrics.items()})


def _square_sum(array: Array) -> float:
    """In float64 over blocks: a float32 sum over millions loses digits."""
    blocks = (array[begin : begin + NORM_BLOCK] for begin in range(0, array.size, NORM_BLOCK))
    return sum(float(np.dot(block, block)) for block in blocks)
