"""The MLX Learner: a model, what trains of it, and the optimizer's state; one `mx.eval` a step.

B rows, T tokens
"""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlxtune.backends import loss_scale
from mlxtune.backends.base import LossSum, Sampling, StepResult
from mlxtune.backends.loss_scale import LossScale
from mlxtune.backends.mlx import device
from mlxtune.backends.mlx.assemble import Parts, assemble
from mlxtune.backends.mlx.generating import generate
from mlxtune.backends.mlx.model import lora
from mlxtune.backends.mlx.prefix import keeping
from mlxtune.backends.mlx.update import parameters, tensors
from mlxtune.backends.mlx.update.finite import Watch
from mlxtune.backends.mlx.update.parameters import Arrays, Rule, Trained
from mlxtune.backends.references import References, row_sums
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory, Notice, ignore
from mlxtune.objectives.base import Found, Targets
from mlxtune.optim import clip
from mlxtune.storage.files import Tensor

OTHER_FORM = "The run goes on in another form: its numbers agree with those of an unbroken run, though not to the bit."
STREAMS_PER_SEED = 1 << 31  # steps of one seed that cannot meet those of the next


class MlxLearner:
    """See `backends.base.Learner`. Raises BadModel for weights that are not finite, and BadSetting."""

    def __init__(self, parts: Parts, tell: Callable[[Event], None] = ignore) -> None:
        self.parts, self.job, self.tell = parts, parts.job, tell
        self.device, self.steps, self.updates = device.name(), 0, 0
        self.scale = LossScale(loss_scale.START, 0) if self.job.precision == "fp16" else loss_scale.ONE
        self.network, self.unread, self.decisions = assemble(parts, tell, self._say)
        self.model = self.network.model
        self.trained = parameters.begin(self.network.take(), self.job.optimizer)
        self.references = self._compared_with_the_start(parts) if self.job.objective.needs_reference else None

    def _compared_with_the_start(self, parts: Parts) -> References:
        """What the untrained model makes of every row, before anything is trained or restored."""
        assert parts.work is not None, "an objective that compares with the start has rows"
        references, words = References(parts.work.rows), f"{self.job.precision}, {self.network.words}"
        file = keeping.references_file(self.job, parts.work, references, words)
        references.find_or_make(file, parts.work.batch_tokens, self.row_log_probabilities, self.tell)
        return references

    def _say(self, text: str) -> None:
        self.tell(Notice(self.steps, text))

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
        if self.job.precision == "fp16":
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
        skipped = self.job.precision == "fp16" and not _finite(norm) and _finite(loss.loss_sum)
        if self.job.precision == "fp16":
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

    def row_log_probabilities(self, batch: Batch) -> NDArray[np.float32]:
        """Of each row, its supervised tokens' summed, (B,)."""
        self.model.eval()
        logps_N = np.array(self.network.log_probabilities(batch, self.trained.weights), np.float32)
        return row_sums(batch, logps_N)

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt. Frozen layers that are not in memory are there for as long as it takes."""
        self.model.eval()
        try:
            with self.network.head_in_one_piece(self.trained.weights):
                yield from generate(self.model, prompt, sampling, stop)
        finally:
            if self.network.prefix.file is not None:
                self.unread.forget()

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

    def restore(self, weights: Path, optimizer: Path, scalars: Mapping[str, Any]) -> tuple[str, ...]:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave."""
        self._set(tensors.from_files(self.trained, self.job.optimizer, _load(weights), _load(optimizer)))
        self.steps, self.updates = scalars["steps"], scalars["updates"]
        self.scale = LossScale(*scalars["loss_scale"])
        if scalars.get("form", self.network.words) == self.network.words:
            return ()
        return (f"{OTHER_FORM} Before: {scalars['form']}; now: {self.network.words}.",)

    def memory(self) -> Memory:
        """What MLX holds now, and held at most since `prepare`."""
        return device.memory()


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
