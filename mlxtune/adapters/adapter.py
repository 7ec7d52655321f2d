"""An adapter as data, and the table of kinds."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple, get_args

from mlxtune.adapters import lora
from mlxtune.adapters.kind import Array, Kind, Settings

Name = Literal["lora"]  # of a kind, as `fine_tune_type` in adapter_config.json
NAMES: tuple[str, ...] = get_args(Name)
KINDS: Mapping[str, Kind] = {"lora": lora}
FULL = "full"  # the fine_tune_type of whole parameters, which is no kind


class Adapter(NamedTuple):
    """An addition to one linear module."""

    kind: str
    module: str  # "model.layers.3.self_attn.q_proj"
    shape: tuple[int, int]  # (in, out) of the module
    settings: Settings
    arrays: tuple[Array, ...]

    @property
    def size(self) -> int:
        """Number of elements of all arrays."""
        return sum(array.size for array in self.arrays)

    def kept(self, n_tokens: int) -> int:
        """See `Kind.kept`."""
        return KINDS[self.kind].kept(*self.shape, self.settings, n_tokens)


def make(kind: str, module: str, shape: tuple[int, int], settings: Settings) -> Adapter:
    """An adapter on a module of this shape, (in, out).

    >>> make("lora", "layers.0.q", (4, 4), Settings(rank=2, scale=20.0, dropout=0.0)).size
    16
    """
    return Adapter(kind, module, shape, settings, KINDS[kind].arrays(*shape, settings))


def parameters(adapters: Iterable[Adapter]) -> dict[str, Array]:
    """The arrays of all adapters under the names that parameters of a model have, in order."""
    return {f"{adapter.module}.{array.name}": array for adapter in adapters for array in adapter.arrays}
