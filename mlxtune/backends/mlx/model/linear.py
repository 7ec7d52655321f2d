"""What a linear module can do, asked of it in one place: nothing else in the backend compares its type."""

from typing import NamedTuple

import mlx.nn as nn


class Linear(NamedTuple):
    """takes_adapter: its output is its product with one matrix, which an adapter can add to."""

    n_in: int
    n_out: int
    takes_adapter: bool


def describe(module: nn.Module) -> Linear | None:
    """A linear module's widths; None for a module of another kind.

    What a subclass makes of the product is not known, so that no adapter may sit on it.
    """
    if not isinstance(module, nn.Linear):
        return None
    n_out, n_in = module.weight.shape
    return Linear(n_in, n_out, takes_adapter=type(module) is nn.Linear)


def product(module: nn.Module) -> str | None:
    """The name of the method that is a module's product with its matrix, and nothing else; None where there is none.

    Of a linear module it is its call, of an embedding that serves as a head `as_linear`; a subclass may change them.
    """
    for kind, method in ((nn.Linear, "__call__"), (nn.Embedding, "as_linear")):
        if isinstance(module, kind) and getattr(type(module), method) is getattr(kind, method):
            return method
    return None


def table_rows(module: nn.Module) -> int | None:
    """The rows of an embedding, whose table is a head's matrix where the two are tied; None for other modules."""
    return module.weight.shape[0] if isinstance(module, nn.Embedding) else None


def is_quantised(module: nn.Module) -> bool:
    """Whether its matrix is packed numbers with scales: linear modules, embeddings and experts can be."""
    return hasattr(module, "scales")
