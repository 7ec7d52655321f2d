"""LoRA: a low-rank addition beside a linear module, Hu and others, arXiv:2106.09685.

    y = x W' + scale * (dropout(x) a) b        a uniform in +-1/sqrt(I), b zero, so that training starts at the model

I inputs and O outputs of the module, r rank. The arrays have the names and the shapes of mlx-lm's adapters.
"""

from collections.abc import Sequence
from math import sqrt
from typing import Any

from mlxtune.adapters.kind import Array, Settings, Uniform, Zeros

TITLE = "LoRA"
NAMES: tuple[str, ...] = ("lora_a", "lora_b")


def arrays(n_in: int, n_out: int, settings: Settings) -> tuple[Array, ...]:
    """Both, from the widths of the module.

    >>> [(array.name, array.shape) for array in arrays(8, 6, Settings(rank=2, scale=1.0, dropout=0.0))]
    [('lora_a', (8, 2)), ('lora_b', (2, 6))]
    """
    a, b = NAMES
    return (
        Array(a, (n_in, settings.rank), Uniform(1 / sqrt(n_in)), waits=True),
        Array(b, (settings.rank, n_out), Zeros()),
    )


def delta(weight_OI: Any, arrays: Sequence[Any], settings: Settings) -> Any:  # noqa: ARG001 - of no use to LoRA
    """scale * (a b)'"""
    a_Ir, b_rO = arrays
    return (a_Ir @ b_rO).T * settings.scale


def kept(n_in: int, n_out: int, settings: Settings, n_tokens: int) -> int:  # noqa: ARG001
    """x a; with dropout its mask and what is left of x too."""
    return n_tokens * (settings.rank + (2 * n_in if settings.dropout else 0))
