"""What a worker is asked and what it answers, as JSON on its standard input and the last line of its output."""

import json
from typing import Any, NamedTuple

SEED = 0
RATE = 1e-4  # learning rate
LORA_SCALE = 20.0  # the default of both
ADAPTERS = "start.safetensors"  # in the model's folder: what LoRA starts from, on both sides


class Case(NamedTuple):
    """One fine-tuning: a Llama with random weights, random rows, and what trains."""

    name: str  # what --case takes
    words: str
    vocabulary: int
    last_n: int  # layers that train, or that have adapters
    head: bool = False  # whether the head trains
    lora_rank: int = 0  # 0: the layers' own weights train, and the final norm with them
    row_tokens: int = 0  # every row is that long and carries loss throughout; 0: ragged rows, loss at their ends
    as_it_is: bool = False  # whether mlx-lm is run once more as its command line would, with head and norm frozen
    layers: int = 16
    hidden: int = 256
    inner: int = 768
    heads: int = 8
    kv_heads: int = 4
    rows: int = 120
    batch_size: int = 4
    epochs: int = 3

    @property
    def steps_per_epoch(self) -> int:
        """Both drop a last batch that is not full; the cases have none."""
        return self.rows // self.batch_size


class Spec(NamedTuple):
    """work: "make" writes the model; "ours" and "theirs" train it."""

    work: str
    case: Case
    folder: str  # of the model
    precision: str = "fp32"
    equal_work: bool = True  # theirs: whether the head and the final norm train where ours do
    techniques: tuple[str, ...] | None = None  # ours: those in use, by name; None: as a run has it


class Result(NamedTuple):
    """One training. Times are from after the imports on; counts are of all epochs."""

    losses: list[float]  # mean of each step's supervised tokens, nats
    before_seconds: float  # until the first step: loading, checks, and what is computed once
    first_step_seconds: float  # a part of the first epoch's
    epoch_seconds: list[float]
    real_tokens: int  # that are read
    supervised_tokens: int
    positions: int  # that the layers compute: real tokens and padding
    step_flops: float  # mean of an epoch after the first: see `flops`
    peak_bytes: int  # that MLX held at once, from the start of the process
    resident_bytes: int  # of the process, at most
    imported_bytes: int  # the same, after the imports
    matrix_flops: float  # a second: see `measure.matrix_rate`
    device: str
    blas: str
    used: list[str]  # ours: the techniques in use
    import_seconds: float = 0.0  # before all other times

    @property
    def whole_seconds(self) -> float:
        return self.before_seconds + sum(self.epoch_seconds)


def spec_to_json(spec: Spec) -> str:
    return json.dumps(spec._asdict() | {"case": spec.case._asdict()})


def spec_from_json(text: str) -> Spec:
    """The inverse of `spec_to_json`.

    >>> spec = Spec("ours", Case("a", "A case", 64, 2), "model", techniques=("split",))
    >>> spec_from_json(spec_to_json(spec)) == spec
    True
    """
    fields: dict[str, Any] = json.loads(text)
    used = fields["techniques"]
    fields |= {"case": Case(**fields["case"]), "techniques": None if used is None else tuple(used)}
    return Spec(**fields)
