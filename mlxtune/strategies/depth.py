"""How many of the model's layers train: a number, counted from the end, or "all"."""

from typing import Annotated, Literal

from pydantic import Field

from mlxtune.errors import BadSetting
from mlxtune.format import counted
from mlxtune.strategies.selection import Anatomy

Depth = Annotated[int, Field(ge=1)] | Literal["all"]


def check_depth(last_n: Depth, n_layers: int) -> int:
    """The number of layers meant. Raises BadSetting where the model has fewer."""
    if last_n == "all":
        return n_layers
    if last_n > n_layers:
        raise BadSetting(
            "strategy.last_n",
            expected=f"at most the model's {counted(n_layers, 'layer')}",
            found=f"{last_n}",
            remedy=f"Give --last-n {n_layers}, or --last-n all.",
        )
    return last_n


def last_layers(anatomy: Anatomy, last_n: Depth) -> tuple[str, ...]:
    """The prefixes of the parameters of the last N layers."""
    return anatomy.layers[len(anatomy.layers) - check_depth(last_n, len(anatomy.layers)) :]


def layers_in_words(anatomy: Anatomy, count: int) -> str:
    """As the panel says it: last 4 of 32 layers, or all 5 layers."""
    total = len(anatomy.layers)
    return f"all {total} layers" if count == total else f"last {count} of {total} layers"
