"""Weights that are in the model but not in memory: MLX reads an array from its file when it is evaluated.

An array that was evaluated stays for as long as the model holds it. So frozen weights that few passes need are put
back unread: a graph that was built with them reads each when its turn comes, and lets go of it.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.backends.mlx.update.finite import not_finite
from mlxtune.models import fit


class Unread:
    """The parameters of a model under some prefixes of names, to be read and forgotten."""

    def __init__(self, model: nn.Module, folder: Path, precision: str, prefixes: Iterable[str]) -> None:
        self.model, self.folder, self.precision, self.prefixes = model, folder, precision, tuple(prefixes)

    def forget(self) -> None:
        """All of them unread again, in the model."""
        fresh = tree_flatten(load_lazily(self.folder, self.precision).parameters())
        self.model.update(tree_unflatten([(name, array) for name, array in fresh if name.startswith(self.prefixes)]))

    def read(self, prefixes: Iterable[str] | None = None) -> None:
        """Those under the prefixes, or all, into memory. Raises BadModel for NaN or infinity in them."""
        wanted = self.prefixes if prefixes is None else tuple(prefixes)
        self._read(lambda name: name.startswith(wanted))

    def read_the_rest(self) -> None:
        """What is under none of the prefixes, as `read`."""
        self._read(lambda name: not name.startswith(self.prefixes))

    def _read(self, wanted: Callable[[str], bool]) -> None:
        """One at a time: casts and their sources never pile up."""
        arrays = {name: array for name, array in tree_flatten(self.model.parameters()) if wanted(name)}
        if bad := not_finite(arrays):
            raise fit.not_finite(self.folder, bad, self.precision)
