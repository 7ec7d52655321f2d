"""What a kind of adapter says of itself, as data: its arrays, their shapes, how each starts, and what they add.

I inputs and O outputs of the linear module that an adapter sits on, r rank
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple, Protocol

Shape = tuple[int, ...]


class Settings(NamedTuple):
    """The settings that every kind has, as in mlx-lm's `lora_parameters`."""

    rank: int
    scale: float  # factor of the addition
    dropout: float  # rate, of the adapter's input


class Source(Protocol):
    """What a backend makes the first values of arrays with, in float32."""

    @property
    def weight(self) -> Any:
        """(O, I), of the module that the adapter sits on."""
        ...

    def uniform(self, bound: float, shape: Shape) -> Any:
        """Values drawn evenly between -bound and bound, a function of the run's seed and the adapter's place."""
        ...

    def zeros(self, shape: Shape) -> Any:
        """Zeros."""
        ...


class Start(Protocol):
    """How an array starts."""

    def values(self, source: Source, shape: Shape) -> Any:
        """The array's first values."""
        ...


class Uniform(NamedTuple):
    """Drawn evenly between -bound and bound."""

    bound: float

    def values(self, source: Source, shape: Shape) -> Any:
        return source.uniform(self.bound, shape)


class Zeros(NamedTuple):
    """Zero everywhere."""

    def values(self, source: Source, shape: Shape) -> Any:
        return source.zeros(shape)


class Array(NamedTuple):
    """One array of an adapter. It is float32 whatever the model's precision: it is small, and so every update counts.

    waits: its gradient is zero in the first step, as another array starts at zero.
    """

    name: str  # in the adapter: "lora_a"
    shape: Shape
    start: Start
    waits: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in memory and in files."""
        return 4 * self.size


class Kind(Protocol):
    """A kind of adapter. A file of this package is one, by these names in it."""

    TITLE: str  # "LoRA"
    NAMES: tuple[str, ...]  # of its arrays

    def arrays(self, n_in: int, n_out: int, settings: Settings) -> tuple[Array, ...]:
        """The arrays of an adapter on a module of these widths, in the order of NAMES."""
        ...

    def delta(self, weight_OI: Any, arrays: Sequence[Any], settings: Settings) -> Any:
        """What to add to the module's weight for the same output, in any array library. arrays: as in NAMES."""
        ...

    def kept(self, n_in: int, n_out: int, settings: Settings, n_tokens: int) -> int:
        """Elements that the backward pass wants kept, besides what it wants without the adapter."""
        ...
