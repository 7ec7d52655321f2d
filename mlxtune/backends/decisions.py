"""How a model is computed. Each choice is made here, once, from names, shapes and settings, without any weight.

The plan of memory reads what is to be expected, and a learner says with the same words what turned out to be so: a disk
may be full, and the check at the start tries what is expected on the model itself.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mlxtune.format import counted
from mlxtune.models.recurrence import attends_only
from mlxtune.strategies.selection import Anatomy, Selection

PAYS_FROM = 1.2  # passes over the rows that a run makes, for each that the hidden-state cache takes

PrefixCache = Literal["auto", "on", "off"]
About = Literal["prefix", "packed", "gathered", "sharded", "checkpoints"]


class Passes(NamedTuple):
    """How often a run reads its rows."""

    made: int  # of rows, each time counted
    rows: int

    @property
    def pay(self) -> bool:
        """Whether it is faster to keep what they give."""
        return self.made >= PAYS_FROM * self.rows

    @property
    def words(self) -> str:
        """As a note says it."""
        return f"{counted(self.made, 'pass', 'passes')} over {counted(self.rows, 'row')}"


class Decisions(NamedTuple):
    """What is chosen. why: a sentence for the user on what is not as it might be, by what it is about."""

    keeps_prefix: bool  # hidden-state cache: the frozen layers' output is on the disk, and they are not in memory
    packs_rows: bool  # rows lie end to end, without padding
    checkpoints: bool  # activation checkpointing: of a layer its input alone is kept for the backward pass
    why: Mapping[About, str] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences."""
        return tuple(self.why.values())

    def because(self, why: Mapping[About, str]) -> "Decisions":
        """With sentences more, or others in their places."""
        return self._replace(why={**self.why, **why})


def decide(
    anatomy: Anatomy,
    selection: Selection,
    *,
    prefix_cache: PrefixCache,
    checkpoints: bool,
    passes: Passes | None,
) -> Decisions:
    """What is to be expected, of a run whose rows are known or not. Whether the disk has room is not looked at."""
    has_prefix = selection.first_layer > 0 and prefix_cache != "off"
    pays = prefix_cache == "on" or (passes is not None and passes.pay)
    found = Decisions(has_prefix and pays, attends_only(anatomy.parameters), checkpoints)
    if has_prefix and not pays and passes is not None:
        layers = layers_in_words(selection)
        return found.because({"prefix": f"The output of {layers} is not kept: {passes.words} do not pay."})
    return found


def layers_in_words(selection: Selection) -> str:
    """The layers before the first that trains.

    >>> some = Selection("", (), (), 24, untie_head=False, notes=())
    >>> layers_in_words(some), layers_in_words(some._replace(first_layer=1))
    ('the first 24 layers', 'the first layer')
    """
    return f"the first {selection.first_layer:,} layers" if selection.first_layer > 1 else "the first layer"
