"""Weights that are in the model but not in memory: MLX reads an array from its file when it is evaluated.

An array that was evaluated stays for as long as the model holds it. So frozen weights that few passes need are put
back unread: a graph that was built with them reads each when its turn comes, and lets go of it.
"""

from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.backends.mlx.load import load_lazily


class Unread:
    """The parameters of a model under some prefixes of names, to be read and forgotten."""

    def __init__(self, model: nn.Module, folder: Path, precision: str, prefixes: Iterable[str]) -> None:
        self.model, self.folder, self.precision, self.prefixes = model, folder, precision, tuple(prefixes)

    def forget(self) -> None:
        """All of them unread again, in the model."""
        fresh = tree_flatten(load_lazily(self.folder, self.precision).parameters())
        self.model.update(tree_unflatten([(name, array) for name, array in fresh if name.startswith(self.prefixes)]))

    def read(self, prefixes: Iterable[str] | None = None) -> None:
        """Those under the prefixes, or all, into memory, one at a time: casts and their sources never pile up."""
        wanted = self.prefixes if prefixes is None else tuple(prefixes)
        for name, array in tree_flatten(self.model.parameters()):
            if name.startswith(wanted):
                mx.eval(array)
