"""Everything trains; a tied head trains with its embedding, as one matrix, unless the user says otherwise."""

from typing import Literal

from mlxtune.settings import section
from mlxtune.strategies.head import untie_cost
from mlxtune.strategies.selection import Anatomy, Selection


@section
class Full:
    """head: None trains it as it is, True unties a tied one, False freezes it (and the embedding it is tied to)."""

    name: Literal["full"] = "full"
    head: bool | None = None


def select(settings: Full, anatomy: Anatomy) -> Selection:
    """All parameters, or all but the head.

    >>> from mlxtune.strategies.example import TWO_LAYERS
    >>> len(select(Full(), TWO_LAYERS).train) == len(TWO_LAYERS.parameters)
    True
    >>> "head.weight" in select(Full(head=False), TWO_LAYERS).train
    False
    """
    if settings.head is False:
        frozen = anatomy.head or anatomy.embedding
        train = tuple(name for name in anatomy.parameters if name != frozen)
        return Selection(f"everything but {frozen}", train, (), 0, False, (f"{frozen} is frozen (--no-head).",))
    untie = settings.head is True and anatomy.head is None
    words = "everything, untied head" if untie else "everything"
    return Selection(words, tuple(anatomy.parameters), (), 0, untie, _notes(settings, anatomy))


def _notes(settings: Full, anatomy: Anatomy) -> tuple[str, ...]:
    if anatomy.head is not None:
        return ()
    if settings.head:
        return (untie_cost(anatomy),)
    return ("The head is tied to the embedding: they train as one matrix.",)
