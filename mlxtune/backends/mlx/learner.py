"""The MLX Learner: a model, what trains of it, and the optimizer's state; one `mx.eval` a step.

B rows, T tokens
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from numpy.typing import NDArray

from mlxtune.backends import loss_scale
from mlxtune.backends.base import Job, LossSum, StepResult, Work, ignore
from mlxtune.backends.loss_scale import LossScale
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.head import untie as head
from mlxtune.backends.mlx.head.probe import probe
from mlxtune.backends.mlx.model import anatomy, lora
from mlxtune.backends.mlx.model.lazy_weights import Unread
from mlxtune.backends.mlx.model.load import PRECISIONS, corrected, load_lazily
from mlxtune.backends.mlx.passes.choose import Passes, RowsToCheck, names
from mlxtune.backends.mlx.passes.network import Network
from mlxtune.backends.mlx.passes.self_check import some_rows
from mlxtune.backends.mlx.prefix import keeping
from mlxtune.backends.mlx.prefix.keeping import Keeping, not_kept
from mlxtune.backends.mlx.prefix.prefix import Kept, Prefix
from mlxtune.backends.mlx.update import parameters, tensors
from mlxtune.backends.mlx.update.finite import Watch
from mlxtune.backends.mlx.update.parameters import Arrays, Rule, Trained
from mlxtune.backends.references import References
from mlxtune.backends.row_file import drop_older
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory, Notice
from mlxtune.objectives.base import Found, Targets
from mlxtune.optim import clip
from mlxtune.storage.files import Tensor
from mlxtune.strategies.choose import select

OTHER_FORM = "The run goes on in another form: its numbers agree with those of an unbroken run, though not to the bit."
STREAMS_PER_SEED = 1 << 31  # steps of one seed that cannot meet those of the next


class MlxLearner:
    """See `backends.base.Learner`. Raises BadModel and BadSetting before any weight is read.

    notes: sentences for the panel besides those of the selection.
    """

    backend = "mlx"

    def __init__(self, job: Job, notes: tuple[str, ...] = ()) -> None:
        self.job = job
        self.model = load_lazily(job.folder, job.precision)
        self.anatomy = anatomy.describe(self.model)
        self.selection = select(job.strategy, self.anatomy)
        if self.selection.untie_head:
            head.check_can_untie(self.model)
        self.names = names(self.selection)
        self.precision, self.device, self.notes = job.precision, device.name(), (*notes, *corrected(self.model))
        self.memory_limit_bytes = device.memory_limit_bytes()
        self.checked = RowsToCheck(some_rows(self.anatomy.parameters[self.anatomy.embedding].shape[0]), ())
        self.work: Work | None = None
        self.references: References | None = None
        self.keeping: Keeping | None = None
        self.keeps_prefix, self.packs_rows = False, True
        self.on_gpu, self.limits = not device.is_processor(), device.Limits()
        self.steps, self.updates = 0, 0
        self.scale = LossScale(loss_scale.START, 0) if job.precision == "fp16" else loss_scale.ONE

    def plan(self, work: Work) -> None:
        """Decide whether the frozen layers' output is kept. Raises BadSetting for a disk that cannot hold it."""
        self.work, self.checked = work, RowsToCheck.of(work.largest, work.evaluated)
        width = self.anatomy.parameters[self.anatomy.embedding].shape[1]
        dtype = PRECISIONS[self.precision]
        found = keeping.decide(self.job, work, self.selection.first_layer, width, dtype)
        self.keeping = found if isinstance(found, Keeping) else None
        if found is not None:
            self.notes = (*self.notes, found if isinstance(found, str) else found.note)
        self.keeps_prefix = self.keeping is not None

    def prepare(self, tell: Callable[[Event], None] = ignore) -> None:
        """Read the weights, add what the Selection adds, compute once what is kept, make the optimizer's state."""
        device.hold_in_memory()
        device.forget_peak()
        weights = self._read_what_trains()
        if self.selection.untie_head:
            head.untie(self.model, self.anatomy)
        found = probe(self.model)
        lora.attach(self.model, self.selection.adapters, self.job.seed)
        passes = Passes(self.model, self.anatomy, self.selection, self.checked, weights)
        forward, told = passes.forward(found, grad_checkpoint=self.job.grad_checkpoint)
        self.notes = (*self.notes, *told)
        prefix = Prefix(forward, PRECISIONS[self.precision])
        if self.keeping is not None and not forward.form.split:
            self.notes = tuple(note for note in self.notes if note != self.keeping.note)
            self.keeping, self.keeps_prefix = None, False
        if self.keeping is not None:
            self._keep(self.keeping, prefix, weights, tell)
        else:
            weights.read()
        self.packs_rows = forward.form.packed
        self.network = Network(self.model, forward, prefix, self.names)
        every = dict(tree_flatten(self.model.parameters()))
        trains = self.network.take({name: every[name] for name in self.names})
        del every
        self.trained = parameters.begin(trains, self.job.optimizer)
        if self.job.objective.needs_reference:
            self._compare_with_the_start(tell)

    def _compare_with_the_start(self, tell: Callable[[Event], None]) -> None:
        """Take what the untrained model makes of every row, before anything is trained or restored."""
        assert self.work is not None
        self.references = References(self.work.rows)
        file = keeping.references_file(self.job, self.work, self.references, f"{self.precision}, {self.network.words}")
        self.model.eval()

        def compute(batch: Batch) -> NDArray[Any]:
            return np.array(self.network.log_probabilities(batch, self.trained.weights))

        self.references.find_or_make(file, self.work.batch_tokens, compute, tell)

    def _keep(self, keeping: Keeping, prefix: Prefix, weights: Unread, tell: Callable[[Event], None]) -> None:
        """Make or find what is kept; where it cannot be written, each step computes it."""
        file, rows, batch_tokens, note = keeping
        try:
            prefix.keep_in(Kept(file, rows, batch_tokens, weights, tell, lambda text: tell(Notice(self.steps, text))))
            drop_older(file.folder)
        except OSError as fault:
            found = fault.strerror or str(fault)
            if self.job.prefix_cache == "on":
                raise not_kept(file, found) from fault
            lost = f"The frozen layers' output is not kept in {file.folder.parent} ({found}): each step computes it."
            self.notes = tuple(lost if each == note else each for each in self.notes)
            self.keeping, self.keeps_prefix = None, False
            weights.read()

    def _read_what_trains(self) -> Unread:
        """Everything from the first trained layer on, into memory; the rest stays unread."""
        before = [*self.anatomy.layers[: self.selection.first_layer]]
        if before:
            before.append(self.anatomy.embedding)  # a tied head reads it in its first pass
        weights = Unread(self.model, self.job.folder, self.precision, before)
        weights.read_the_rest()
        return weights

    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """The kept hidden states of the batches' rows, into memory."""
        for batch in batches:
            self.network.prefix.read_ahead(batch)

    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """One optimizer step on the micro-batches, as if they were one batch."""
        count = sum(self.job.objective.count(len(batch.rows), batch.n_supervised) for batch in batches)
        rounding_key = mx.random.key(2 * (self.job.seed * STREAMS_PER_SEED + self.steps) + 1)
        self.model.train()
        scalars = self.job.optimizer.scalars(mx, self.updates + 1, learning_rate)
        rule = Rule.of_step(self.trained, self.job.optimizer, scalars, rounding_key)
        found, gradients = self.gradients(batches, self.scale.value / count)
        norm, after = self._updated(gradients, rule)
        del gradients  # each is then let go of when its parameter is updated
        self._set(after)
        watch = Watch(after, self.job.optimizer)
        mx.eval(*found.arrays(), norm, *after.arrays(), *watch.arrays())
        return self._result(_sums(found, count), _number(norm), watch.not_finite())

    def _updated(self, gradients: Arrays, rule: Rule) -> tuple[mx.array, Trained]:
        """The gradients' norm, and then all updates."""
        norm = clip.global_norm(mx, gradients.values()) / self.scale.value
        factor = clip.clip_factor(mx, norm, self.job.clip_norm) / self.scale.value
        after = parameters.stepped(self.trained, gradients, factor, rule)
        if self.precision == "fp16":
            after = parameters.where(mx.isfinite(norm), after, self.trained)
        return norm, after

    def gradients(self, batches: Sequence[Batch], scale: float) -> tuple[Found, Arrays]:
        """What the objective makes of the micro-batches, and the gradient of `scale` times its summed loss.

        A micro-batch starts when the loss and the gradients of those before it are done, so that the activations of
        one at a time are held: MLX orders the graph from its outputs and would run all forward passes first, and
        without the loss among them it would keep the logits of every micro-batch until the end.
        """
        found: Found | None = None
        gradients: Arrays = {}
        for number, batch in enumerate(batches):
            lora.seed_dropout(self.job.seed, self.steps, number)
            gradients = {name: gradient.astype(mx.float32) for name, gradient in gradients.items()}
            after = () if found is None else (*found.arrays(), *gradients.values())
            judge, weights = self._judging(batch), self.trained.weights
            more, those = self.network.found_and_gradients(batch, weights, judge, scale, after)
            found = more if found is None else found.plus(more)
            gradients = {name: gradients[name] + each for name, each in those.items()} if gradients else those
        assert found is not None, "a step has a batch"
        return found, gradients

    def _judging(self, batch: Batch) -> Callable[[mx.array], Found]:
        """The objective as a function of a batch's log-probabilities."""
        reference = None if self.references is None else mx.array(self.references.of(batch))
        targets = Targets(mx.array(batch.supervised_rows), len(batch.rows), reference)
        return lambda logps_N: self.job.objective.loss(mx, logps_N, targets)

    def _set(self, trained: Trained) -> None:
        self.trained = trained
        self.network.put(trained.weights)

    def _result(self, loss: LossSum, norm: float, not_finite: tuple[str, ...]) -> StepResult:
        skipped = self.precision == "fp16" and not _finite(norm) and _finite(loss.loss_sum)
        if self.precision == "fp16":
            self.scale = self.scale.after(finite=not skipped)
        self.steps += 1
        self.updates += not skipped
        return StepResult(loss, norm, skipped and not self.scale.exhausted, not_finite)

    def evaluate(self, batch: Batch) -> LossSum:
        """The loss with dropout off; changes nothing."""
        self.model.eval()
        found = self._judging(batch)(self.network.log_probabilities(batch, self.trained.weights))
        mx.eval(*found.arrays())
        return _sums(found, self.job.objective.count(len(batch.rows), batch.n_supervised))

    def weights(self) -> Iterator[Tensor]:
        """The tensors that train, in the model's order."""
        return tensors.weight_tensors(self.trained)

    def optimizer_state(self) -> Iterator[Tensor]:
        """The optimizer's slots and master copies."""
        return tensors.optimizer_tensors(self.trained, self.job.optimizer)

    def scalars(self) -> dict[str, Any]:
        """Counts, the loss scale, and the form of the passes, on which the last bits depend."""
        return {
            "steps": self.steps,
            "updates": self.updates,
            "loss_scale": list(self.scale),
            "form": self.network.words,
        }

    def restore(self, weights: Path, optimizer: Path, scalars: Mapping[str, Any]) -> None:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave."""
        self._set(tensors.from_files(self.trained, self.job.optimizer, _load(weights), _load(optimizer)))
        self.steps, self.updates = scalars["steps"], scalars["updates"]
        self.scale = LossScale(*scalars["loss_scale"])
        if scalars.get("form", self.network.words) != self.network.words:
            self.notes = (*self.notes, f"{OTHER_FORM} Before: {scalars['form']}; now: {self.network.words}.")

    def memory(self) -> Memory:
        """What MLX holds now, and held at most since `prepare`."""
        return device.memory()

    def limit(self, memory_bytes: int, cache_bytes: int) -> None:
        """MLX waits for work to be done before it takes more memory, and keeps so much of what was given back."""
        self.limits.set(memory_bytes, cache_bytes)

    def close(self) -> None:
        """MLX's limits as they were."""
        self.limits.restore()


def _sums(found: Found, count: int) -> LossSum:
    metrics = {name: _number(array) for name, array in found.metrics.items()}
    return LossSum(_number(found.loss_sum), count, metrics)


def _load(path: Path) -> dict[str, mx.array]:
    arrays = mx.load(str(path))
    assert isinstance(arrays, dict)
    return arrays


def _number(array: mx.array) -> float:
    return float(array.item())  # type: ignore[arg-type]  # a real scalar here; item() may be complex elsewhere


def _finite(number: float) -> bool:
    return abs(number) < float("inf")
