"""What the engine asks of a backend: the Learner protocol. It is all that the engine knows of arrays and models."""

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import Field

from mlxtune.data.types import Batch, TokenRow
from mlxtune.events import Event, Memory
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
    prefix_cache: Literal["auto", "on", "off"] = "auto"
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
    prefix_cache: str = "auto"
    grad_checkpoint: bool = False
    batch_rows: int = 1  # of a micro-batch; the last of an epoch may have fewer
    objective: Objective = SFT


class Work(NamedTuple):
    """What a run is going to ask of its Learner."""

    rows: Sequence[TokenRow]  # all that are trained on and evaluated
    largest: Batch  # the micro-batch with the most tokens, of those that are trained on
    evaluated: Batch | None  # the same of the validation
    batch_tokens: int  # the most of any batch, of the whole first epoch however short the run
    row_passes: int  # how many rows are read until the end, each time counted
    model_fingerprint: str


def ignore(event: Event) -> None:
    """A listener that is not interested."""


class Learner(Protocol):
    """A model, its Selection and its optimizer state.

    Made from a Job, it knows names and shapes only, so that what cannot be is refused before weights are read;
    `prepare` reads them.
    """

    backend: str
    device: str  # in words
    precision: str
    anatomy: Anatomy
    selection: Selection
    memory_limit_bytes: int
    on_gpu: bool
    keeps_prefix: bool  # the frozen layers' output, so that they are not in memory; known after `plan`
    packs_rows: bool  # end to end, without padding; what is likely, and after `prepare` what is so
    notes: tuple[str, ...]  # what the user should know, after `plan` and again after `prepare`

    def plan(self, work: Work) -> None:
        """Decide what is computed once and kept. Raises BadSetting for what cannot be. Without it nothing is kept."""
        ...

    def prepare(self, tell: Callable[[Event], None] = ignore) -> None:
        """Read the weights, compute once what can be kept, make the optimizer's state; `tell` hears how far it is."""
        ...

    def read_ahead(self, batches: Sequence[Batch]) -> None:
        """Bring near what the next step reads from a disk. Called in a thread during the step before."""
        ...

    def step(self, batches: Sequence[Batch], learning_rate: float) -> StepResult:
        """One optimizer step on the micro-batches, as if they were one batch."""
        ...

    def evaluate(self, batch: Batch) -> LossSum:
        """The loss with dropout off; changes nothing."""
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

    def restore(self, weights: Path, optimizer: Path, scalars: Mapping[str, Any]) -> None:
        """Continue from what `weights`, `optimizer_state` and `scalars` gave."""
        ...

    def memory(self) -> Memory:
        """What the backend holds."""
        ...

    def limit(self, memory_bytes: int, cache_bytes: int) -> None:
        """Hold memory to so much, and what is kept to be used again to so much, until `close`."""
        ...

    def close(self) -> None:
        """Give back what was limited."""
        ...


class Sampling(NamedTuple):
    """How tokens are chosen. temperature 0 is greedy."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int


class Speaker(Protocol):
    """A model, with its adapter if it has one, that is read and not changed."""

    device: str

    def evaluate(self, batch: Batch) -> LossSum:
        """The summed loss of a batch."""
        ...

    def generate(self, prompt: Sequence[int], sampling: Sampling, stop: Set[int]) -> Iterator[int]:
        """The tokens that follow the prompt, one at a time, up to and without the first of `stop`."""
        ...
