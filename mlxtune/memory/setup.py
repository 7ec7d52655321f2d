"""What memory depends on: the model's shapes, what trains of it, how it computes, and the rows of a micro-batch.

S places that are read (of all rows, padding included), N tokens that carry loss
"""

from collections.abc import Sequence
from typing import NamedTuple

from mlxtune.backends.decisions import Decisions
from mlxtune.models.dimensions import Dimensions
from mlxtune.optim.optimizer import Optimizer
from mlxtune.strategies.selection import Anatomy, Selection


class Setup(NamedTuple):
    """A run, but for its rows."""

    backend: str  # "mlx" or "numpy"
    gpu: bool  # norms, rotation and the gated product are one kernel each there, and keep less
    anatomy: Anatomy  # bytes as stored for this run
    selection: Selection
    dimensions: Dimensions
    element_bytes: int  # of a hidden state
    optimizer: Optimizer
    accumulates: bool
    decisions: Decisions
    sampled_tokens: int = 0  # of a prompt and its answer while the run trains; 0 where nothing is asked
    row_threads: int | None = 1  # on NumPy, see `backends.numpy.device`
    is_known_family: bool = True  # else its layers are taken to be Llama's

    @property
    def cached_elements(self) -> int:
        """Keys and values of a prompt and its answer, in all layers."""
        d = self.dimensions
        return 2 * len(self.anatomy.layers) * d.n_kv_heads * d.head_dim * self.sampled_tokens


class Rows(NamedTuple):
    """A micro-batch. lengths: tokens that are read of each row, one less than it has."""

    lengths: tuple[int, ...]
    padded: int  # places of each row where they are not packed
    n_supervised: int

    def places(self, *, packed: bool) -> int:
        """How many tokens go through the layers.

        >>> Rows((7, 3), 8, 5).places(packed=True), Rows((7, 3), 8, 5).places(packed=False)
        (10, 16)
        """
        return sum(self.lengths) if packed else len(self.lengths) * self.padded

    def squares(self, *, packed: bool) -> int:
        """How many pairs of places have an attention score, of one head."""
        return sum(n * n for n in self.lengths) if packed else len(self.lengths) * self.padded**2

    def largest_square(self, *, packed: bool) -> int:
        """Those of the longest row; padded rows are computed together."""
        return max(self.lengths) ** 2 if packed else self.squares(packed=False)

    def grows_with(self, *, packed: bool) -> tuple[int, ...]:
        """What memory grows with: rows with less of all of it take less."""
        squares = self.squares(packed=packed), self.largest_square(packed=packed)
        return (self.places(packed=packed), *squares, self.n_supervised)


def rows_of(lengths: Sequence[int], n_supervised: int, multiple: int) -> Rows:
    """Rows with so many tokens each, of which the last is only predicted."""
    read = tuple(length - 1 for length in lengths)
    return Rows(read, -(-max(lengths) // multiple) * multiple - 1, n_supervised)
