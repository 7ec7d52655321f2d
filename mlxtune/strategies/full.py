"""Everything trains; a tied head trains with its embedding, as one matrix."""

from typing import Literal

from mlxtune.settings import section
from mlxtune.strategies.selection import Anatomy, Selection


@section
class Full:
    name: Literal["full"] = "full"


def select(settings: Full, anatomy: Anatomy) -> Selection:  # noqa: ARG001 - each strategy is select(settings, anatomy)
    """All parameters.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> len(select(Full(), TWO_LAYERS).train) == len(TWO_LAYERS.parameters)
    True
    """
    notes = ("The head is tied to the embedding: they train as one matrix.",) if anatomy.head is None else ()
    return Selection("everything", tuple(anatomy.parameters), (), 0, False, notes)
