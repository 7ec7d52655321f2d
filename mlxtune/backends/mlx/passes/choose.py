"""How a run makes its passes: in the form that the self-check finds, with layers computed again where that is asked."""

from collections.abc import Sequence
from typing import NamedTuple

import mlx.nn as nn

from mlxtune.adapters.adapter import parameters
from mlxtune.backends.decisions import About
from mlxtune.backends.mlx.head import untie as head
from mlxtune.backends.mlx.head.probe import FoundHead
from mlxtune.backends.mlx.model.lazy_weights import Unread
from mlxtune.backends.mlx.passes import recompute
from mlxtune.backends.mlx.passes.forward import Forward
from mlxtune.backends.mlx.passes.self_check import SelfCheck, for_check
from mlxtune.backends.mlx.passes.stand_in import Call
from mlxtune.backends.row_file import Tokens
from mlxtune.data.types import Batch
from mlxtune.strategies.selection import Anatomy, Selection

KEEPS_ALL = "Layers keep all that the backward pass needs"


class RowsToCheck(NamedTuple):
    """The run's longest rows, those of one batch; evaluated: of the validation, where these have more tokens."""

    trained: Sequence[Tokens]
    evaluated: Sequence[Tokens]

    @classmethod
    def of(cls, trained: Batch, evaluated: Batch | None) -> "RowsToCheck":
        """Out of the largest batches."""
        longer = evaluated is not None and int(evaluated.lengths_B.sum()) > int(trained.lengths_B.sum())
        return cls(_rows(trained), _rows(evaluated) if evaluated is not None and longer else ())


def _rows(batch: Batch) -> list[Tokens]:
    return list(batch.tokens)


class Passes(NamedTuple):
    """A model with its adapters, what trains of it, and the rows to try it on."""

    model: nn.Module
    anatomy: Anatomy
    selection: Selection
    rows: RowsToCheck
    weights: Unread

    def forward(self, found: FoundHead | None, *, checkpoints: bool) -> tuple[Forward, dict[About, str]]:
        """The passes, and what the user should know of them."""
        first = self.selection.first_layer
        rows = for_check(self.rows.trained)
        check = SelfCheck(self.model, first, self._earliest, rows, self.weights.forget, found)
        if self.rows.evaluated:
            check = check._replace(evaluated=for_check(self.rows.evaluated))
        if checkpoints:
            check = check._replace(around=self._recomputing)
        form, head_of_form, why = check.best()
        made = Forward(self.model, first, form, head_of_form)
        return made, why | self._recompute(made) if checkpoints else why

    def _recomputing(self, forward: Forward) -> dict[int, Call]:
        """For the self-check: its memory must be the run's, so that what fits can be checked."""
        first = self.selection.first_layer
        checked = self._earliest.removeprefix(self.anatomy.layers[first])
        numbers = range(first, len(self.anatomy.layers))
        return {n: recompute.recomputed([checked] if n == first else [], forward.attending) for n in numbers}

    def _recompute(self, forward: Forward) -> dict[About, str]:
        """Keep of each layer the input alone, where the gradients stay as they are."""
        layers, trains = self.anatomy.layers, names(self.selection)
        numbers = range(self.selection.first_layer, len(layers))
        calls = {n: recompute.recomputed(inside(trains, layers[n]), forward.attending) for n in numbers}
        outside = (self.anatomy.embedding, self.anatomy.head, head.HEAD)  # large, and not what a layer reads
        compared = [name for name in trains if name not in outside]
        fault = recompute.Check(forward, compared, self.rows.trained[-1], self.weights.forget).fault(calls)
        if fault is not None:
            return {"checkpoints": f"{KEEPS_ALL}: for this model, computing it again would not be exact ({fault})."}
        forward.around = calls
        return {}

    @property
    def _earliest(self) -> str:
        """A trained parameter of the first layer that trains: its gradient comes through all that follow."""
        layer, trains = self.anatomy.layers[self.selection.first_layer], names(self.selection)
        waiting = {name for name, array in parameters(self.selection.adapters).items() if array.waits}
        of_layer = [name for name in trains if name.startswith(layer) and name not in waiting]
        return (of_layer or trains)[0]


def names(selection: Selection) -> list[str]:
    """Of all parameters that train, as the model has them once the head is untied and the adapters are attached."""
    untied = [head.HEAD] if selection.untie_head else []
    return [*selection.train, *untied, *parameters(selection.adapters)]


def inside(trains: Sequence[str], prefix: str) -> list[str]:
    """Those of one layer, as it names them itself."""
    return [name.removeprefix(prefix) for name in trains if name.startswith(prefix)]
