"""A Selection says what trains, as data: names of parameters and adapters to add. Nothing here touches an array.

The idea is equinox's `partition(tree, mask)`: the model is split by a description, not by subclassing.
"""

from collections.abc import Mapping
from typing import NamedTuple

from mlxtune.adapters.adapter import Adapter


class Parameter(NamedTuple):
    """One parameter of the base model."""

    shape: tuple[int, ...]
    bytes: int  # as stored for this run

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


class Anatomy(NamedTuple):
    """What a strategy has to know of a model: names and shapes, never values."""

    parameters: Mapping[str, Parameter]  # in the model's order
    linears: Mapping[str, tuple[int, int]]  # module name -> (in, out) of each linear layer
    layers: tuple[str, ...]  # the prefix of each decoder layer's parameters: "model.layers.0."
    head: str | None  # the head's weight where it is its own ("lm_head.weight"); None where tied
    embedding: str  # the token embedding's weight
    final_norm: tuple[str, ...]  # parameters between the last layer and the head


class Selection(NamedTuple):
    """What trains."""

    words: str  # "last 4 of 32 layers, final norm, head"
    train: tuple[str, ...]  # names of base parameters that train, in the model's order
    adapters: tuple[Adapter, ...]
    first_layer: int  # the first layer with anything that trains; all before it is a frozen prefix
    untie_head: bool  # the tied head becomes a copy that trains on its own
    notes: tuple[str, ...]  # what the user should know about the choice
