"""What an optimizer is: settings that name its state, and one step as a pure function of arrays.

The settings object is the optimizer. `slots` names the arrays that it keeps for each parameter: checkpoints, the memory
plan and resuming follow from the names. `update` runs on any array namespace `xp` (mlx.core, numpy), so that both
backends share it. A kind of optimizer is a file like `adamw` and a row in `choose`.
"""

from abc import ABC, abstractmethod
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field

from mlxtune.optim.arrays import Array, Namespace
from mlxtune.settings import section

Slots: TypeAlias = tuple[Array, ...]  # of one parameter, in the order of their names; float32 in every computation
Step: TypeAlias = tuple[Array, Slots]  # the next float32 weight and slots

SLOT_BYTES = {"fp32": 4, "bf16": 2}
MASTER_BYTES = 4  # a float32 copy of a 16-bit weight


@section
class Optimizer(ABC):
    """The settings that every optimizer has.

    weight_decay: each optimizer says how it decays. low_precision: how 16-bit weights are kept exact enough, see
    `rounding`. moments: what the slots are stored in; they are computed with in float32, see `rounding.rounded`.
    """

    name: str
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_norms_and_biases: bool = False
    low_precision: Literal["stochastic", "master"] | None = None  # None: stochastic where weights have 16 bits
    moments: Literal["fp32", "bf16"] = "fp32"

    @property
    @abstractmethod
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays that it keeps for each parameter, of the parameter's shape."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Slots that can become infinite and leave the weight finite. None of them is ever negative."""
        return ()

    @property
    def update_arrays(self) -> float:
        """Arrays of a parameter, float32, that MLX holds in `update` beside weight, gradient and slots: measured."""
        return 2

    @abstractmethod
    def constants(self, step: int, learning_rate: float) -> NamedTuple:
        """The numbers of step `step`, which counts from 1. The arithmetic here is Python's, in float64."""

    @abstractmethod
    def update(self, xp: Namespace, s: Any, weight: Array, gradient: Array, slots: Slots, *, decays: bool) -> Step:
        """The next weight and slots, all float32.

        s: the step's `scalars`. gradient: the weight's shape, already clipped. decays: whether decay applies.
        """

    def scalars(self, xp: Namespace, step: int, learning_rate: float) -> Any:
        """The constants of a step as float32 arrays, made once and used by every parameter."""
        constants = self.constants(step, learning_rate)
        return type(constants)(*(xp.array(value, dtype=xp.float32) for value in constants))

    def init(self, xp: Namespace, shape: tuple[int, ...], dtype: Any = None) -> Slots:
        """Zero slots. dtype: what they are stored in, float32 if not given, whatever the parameter's type."""
        return tuple(xp.zeros(shape, dtype=dtype or xp.float32) for _ in self.slots)

    def decays(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter decays: matrices do, norms and biases (one axis) only by the setting."""
        return self.weight_decay > 0 and (len(shape) > 1 or self.decay_norms_and_biases)

    @property
    def slot_bytes(self) -> int:
        """Of all slots of one element."""
        return len(self.slots) * SLOT_BYTES[self.moments]

    @property
    def master_bytes(self) -> int:
        """Of the master copy of one element of a 16-bit weight; 0 without master copies."""
        return MASTER_BYTES if self.low_precision == "master" else 0
