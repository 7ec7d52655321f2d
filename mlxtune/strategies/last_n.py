"""The last N layers, the final norm, and the head where it is a weight of its own."""

from typing import Literal

from mlxtune.settings import section
from mlxtune.strategies.depth import Depth, last_layers, layers_in_words
from mlxtune.strategies.head import choose_head
from mlxtune.strategies.selection import Anatomy, Selection


@section
class LastN:
    """head: None trains the head where it is its own, True unties a tied one, False freezes it."""

    name: Literal["last-n"] = "last-n"
    last_n: Depth = 4
    head: bool | None = None


def select(settings: LastN, anatomy: Anatomy) -> Selection:
    """The parameters of the last N layers, in the model's order.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> select(LastN(last_n=1), TWO_LAYERS).train
    ('layers.1.q.weight', 'norm.weight', 'head.weight')
    """
    layers = last_layers(anatomy, settings.last_n)
    head = choose_head(settings.head, anatomy)
    chosen = tuple(
        name
        for name in anatomy.parameters
        if name.startswith(layers) or name in anatomy.final_norm or name in head.train
    )
    return Selection(
        words=", ".join([layers_in_words(anatomy, len(layers)), "final norm", *head.words]),
        train=chosen,
        adapters=(),
        first_layer=len(anatomy.layers) - len(layers),
        untie_head=head.untie,
        notes=head.notes,
    )
