"""What a backend is: a Blueprint that makes a Learner, and a Speaker. It is all that the house knows of arrays."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mlxtune.backends.decisions import Decisions, Passes, PrefixCache
from mlxtune.data.token_rows import TokenRows
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory, ignore
from mlxtune.objectives.choose import SFT, Objective
from mlxtune.optim.optimizer import Optimizer
from mlxtune.settings import section
from mlxtune.storage.files import Tensor
from mlxtune.strategies.choose import Strategy
from mlxtune.strategies.selection import Anatomy, Selection


@section
class BackendSettings:
    """Where and in which number format the run computes. system_blas: see `backends.blas`.

    prefix_cache: whether the frozen layers' output is kept over epochs and runs; auto: where that saves passes.
    grad_checkpoint: of each layer only the input is kept for the backward pass, which computes the inside again: a
    forward pass more. 8 layers of 128, full, 512 tokens, on one core: MLX 34 MB a step instead of 104 in 1.6 times the
    time, NumPy 21 MB of working memory instead of 57 in 1.3 times.
    memory_limit_bytes: what the run may take; None is what the device can give.
    """

    name: Literal["auto", "mlx", "numpy"] = "auto"
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    system_blas: bool = True
    prefix_cache: PrefixCache = "auto"
    grad_checkpoint: bool = False
    memory_limit_bytes: Annotated[int, Field(ge=1)] | None = None


class LossSum(NamedTuple):
    """Loss as it is kept everywhere: sums and a count, divided once, at the end."""

    loss_sum: float  # nats
    counted: int  # supervised tokens or examples, as the objective says
    metrics: Mapping[str, float] = {}  # sums over the same

    @property
    def mean(self) -> float:
        """Nats for each that is counted."""
        return self.loss_sum / self.counted

    @property
    def means(self) -> dict[str, float]:
        """The metrics, for each that is counted."""
        return {name: value / self.counted for name, value in self.metrics.items()}

    def plus(self, other: "LossSum") -> "LossSum":
        """The sums over both."""
        metrics = {name: self.metrics.get(name, 0.0) + value for name, value in other.metrics.items()}
        return LossSum(self.loss_sum + other.loss_sum, self.counted + other.counted, metrics)


class StepResult(NamedTuple):
    loss: LossSum
    grad_norm: float  # of the mean gradient, before clipping
    skipped: bool  # fp16: the scaled gradient overflowed and nothing was updated
    not_finite: tuple[str, ...] = ()  # names of weights and slots that hold NaN or infinity after the step


class Job(NamedTuple):
    """What a backend needs to make a Learner."""

    folder: Path  # a checked model folder
    precision: str
    strategy: Strategy
    optimizer: Optimizer
    clip_norm: float | None
    seed: int
    prefix_cache: PrefixCache = "auto"
    grad_checkpoint: bool = False
    batch_rows: int = 1  # of a micro-batch; the last of an epoch may have fewer
    objective: Objective = SFT


class Work(NamedTuple):
    """What a run is going to ask of its Learner."""

    rows: TokenRows  # all that are trained on and evaluated
    largest: Batch  # the micro-batch with the most tokens, of those that are trained on
    evaluated: Batch | None  # the same of the validation
    batch_tokens: int  # the most of any batch, of the whole first epoch however short the run
    passes: Passes
    model_fingerprint: str


class Sampling(NamedTuple):
    """How tokens are chosen. temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


class Speaker(Protocol):
    """A model that is ready to be asked."""

    device: str  # in words

    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch, with dropout off; changes nothing."""
        ...

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, one at a time, up to and without the first of `stop`; changes nothing."""
        ...


class Learner(Speaker, Protocol):
    """A model with its weights in memory, what trains of it, and its optimizer state. It is always ready to step."""

    decisions: Decisions  # what turned out to be so

    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """Bring near what the next step reads from a disk. Called in a thread during the step before."""
        ...

    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """One optimizer step on the micro-batches, as if they were one batch."""
        ...

    def row_log_probabilities(self, batch: Batch) -> NDArray[np.float32]:
        """Of each row of a batch, the log-probability of its supervised tokens, summed, (B,)."""
        ...

    def weights(self) -> Iterator[Tensor]:
        """The tensors that train, in the model's order."""
        ...

    def optimizer_state(self) -> Iterator[Tensor]:
        """The optimizer's slots and master copies, in a fixed order."""
        ...

    def scalars(self) -> dict[str, Any]:
        """What else must be kept to continue bit for bit, as JSON: counts, the loss scale."""
        ...

    def restore(self, weights: Path, optimizer: Path, scalars: Mapping[str, Any]) -> tuple[str, ...]:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave. Gives what the user should know of it."""
        ...

    def memory(self) -> Memory:
        """What the backend holds."""
        ...


class Blueprint(Protocol):
    """A model and a Job, by names and shapes: what cannot be is refused, and planned, before a weight is read."""

    backend: str
    device: str  # in words
    precision: str
    anatomy: Anatomy
    selection: Selection
    memory_limit_bytes: int
    on_gpu: bool
    notes: tuple[str, ...]  # what the user should know, besides those of the selection and the decisions

    def decide(self, work: Work) -> Decisions:
        """How this work is to be computed. Raises BadSetting for what was asked for and cannot be."""
        ...

    def learner(self, work: Work | None = None, tell: Callable[[Event], None] = ignore) -> Learner:
        """Read the weights, compute once what can be kept, make the optimizer's state; `tell` hears how far it is.

        Without work nothing is kept of the frozen layers.
        """
        ...

    def limited(self, memory_bytes: int, cache_bytes: int) -> AbstractContextManager[None]:
        """Within the block, memory is held to so much, and what is kept to be used again to so much."""
        ...
