"""What a run tells while it goes. The engine and the run make events; the reports and the log read them.

Bytes are bytes, seconds are seconds, losses are nats a supervised token. A token counts where it carries loss, unless
the name says otherwise.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class Memory:
    """Bytes that the backend holds. Peak counts active memory, never the allocator's cache."""

    active_memory_bytes: int
    peak_memory_bytes: int
    cache_memory_bytes: int


@dataclass(frozen=True)
class Preparing:
    """What is done before the first step, and how far. It comes before Start, and the log does not keep it."""

    kind: ClassVar[str] = "preparing"
    what: str  # "tokenizing 1,000 rows"
    done: int = 0
    total: int = 0  # 0 where it is not known
    unit: str = ""  # what is counted, where its speed says something: "rows"


@dataclass(frozen=True)
class Start:
    """Everything the opening panel says."""

    kind: ClassVar[str] = "start"
    run: str
    model: str
    backend: str  # "mlx" or "numpy"
    device: str  # in words
    precision: str
    strategy: str  # in words: "last 4 of 32 layers, final norm, head"
    trainable_tensors: int
    trainable_parameters: int
    frozen_tensors: int
    frozen_parameters: int
    trainable_bytes: int  # weights that train, adapters included
    frozen_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    full_bytes: int  # weights, gradients and optimizer state if everything trained
    train_rows: int
    valid_rows: int
    skipped_rows: int
    steps: int  # that the run ends at
    first_step: int  # 1, or the step after the checkpoint that the run resumed from
    steps_per_epoch: int
    padding_waste: float  # share of the positions of an epoch's batches that are padding
    memory_limit_bytes: int
    predicted_peak_bytes: int  # of memory, as the plan has it
    memory: Memory  # before the first step
    notes: tuple[str, ...] = ()  # what the user should know: the head is tied, rows skipped, how validation was split
    best_eval_loss: float | None = None  # of the sittings before this one
    best_step: int | None = None
    eval_every: int = 0  # steps between validations; 0: none


@dataclass(frozen=True)
class Step:
    """One optimizer step, all its micro-batches together."""

    kind: ClassVar[str] = "step"
    step: int  # from 1
    epoch: int  # from 1
    loss: float
    tokens: int
    tokens_per_second: float
    learning_rate: float
    grad_norm: float  # before clipping
    memory: Memory
    seconds: float
    skipped: bool = False  # fp16: the scaled gradient overflowed, so nothing was updated
    metrics: Mapping[str, float] = field(default_factory=dict)  # means that the objective gives besides its loss


@dataclass(frozen=True)
class Eval:
    """The validation rows at one step. Step 0 is before training, and never the best: it is no result."""

    kind: ClassVar[str] = "eval"
    step: int
    loss: float
    perplexity: float | None  # None where the loss is no cross-entropy of tokens
    tokens: int
    rows: int
    seconds: float
    best: bool
    memory: Memory
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """What the model says to a prompt, after a step. Step 0 is before training."""

    kind: ClassVar[str] = "sample"
    step: int
    prompt: str
    text: str
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that is on the disk. seconds: that training stood still for it."""

    kind: ClassVar[str] = "checkpoint"
    step: int
    path: str
    bytes: int
    seconds: float
    memory: Memory


@dataclass(frozen=True)
class Notice:
    """A sentence for the user, once."""

    kind: ClassVar[str] = "notice"
    step: int
    text: str


@dataclass(frozen=True)
class End:
    """How it ended.

    status: done, patience (stopped early), interrupted, stopped (by itself: exit code 3), diverged (what was trained is
    clearly worse than what it began with: exit code 3).
    """

    kind: ClassVar[str] = "end"
    status: str
    steps: int
    tokens: int
    final_loss: float | None  # of the last step
    best_eval_loss: float | None
    best_step: int | None
    wall_seconds: float
    memory: Memory
    run: str
    adapter: str | None  # what is offered: the best of what was validated, else the last weights
    message: str = ""
    exit_code: int = field(default=0)
    model: str = ""
    adapter_step: int | None = None  # after which the weights in `adapter` are
    adapter_last: str | None = None  # the last weights, where `adapter` has others
    start_loss: float | None = None  # before training: of the validation, else of the first step's rows
    last_eval_loss: float | None = None  # the same of the last weights
    learned: bool | None = None  # whether anything beat the start; None where it is not known

    @property
    def peak_memory_bytes(self) -> int:
        """The largest active memory of the run."""
        return self.memory.peak_memory_bytes


Event = Preparing | Start | Step | Eval | Sample | Checkpoint | Notice | End


def ignore(_: Event) -> None:
    """A listener that is not interested."""


def as_json(event: Event) -> dict[str, Any]:
    """One flat JSON object, as a line of metrics.jsonl has it.

    >>> as_json(Notice(3, "hello"))
    {'event': 'notice', 'step': 3, 'text': 'hello'}
    """
    fields = asdict(event)
    fields.update(fields.pop("memory", {}))
    fields.update(fields.pop("metrics", {}))
    return {"event": event.kind, **fields}
