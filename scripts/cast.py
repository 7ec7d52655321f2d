"""Who and what the stories and rhymes are about: names with their pronouns, animals, things.

The word lists are one line each, because they are read more often than they are changed.
"""
# ruff: noqa: SIM905

from random import Random
from typing import NamedTuple


class Animal(NamedTuple):
    """Someone in a story. In a template `{hero}` is the name and `{hero.he}` the pronoun.

    >>> mia = Animal("Mia", "otter", she=True)
    >>> "{hero} is {hero.a_kind}. {hero.He} has {hero.his} tail with {hero.him}.".format(hero=mia)
    'Mia is an otter. She has her tail with her.'
    """

    name: str
    kind: str
    she: bool

    def __format__(self, _: str) -> str:
        return self.name

    @property
    def a_kind(self) -> str:
        return with_article(self.kind)

    @property
    def he(self) -> str:
        return "she" if self.she else "he"

    @property
    def him(self) -> str:
        return "her" if self.she else "him"

    @property
    def his(self) -> str:
        return "her" if self.she else "his"

    @property
    def He(self) -> str:  # noqa: N802 - the capital is the point
        return self.he.capitalize()

    @property
    def His(self) -> str:  # noqa: N802
        return self.his.capitalize()


SHE = "Anna Bella Clara Daisy Hazel Ivy Lily Mia Nina Poppy Rosa Zoe".split()
HE = "Ben Felix Gus Hugo Jack Leo Max Noah Oscar Sam Theo Tom".split()
KINDS = "badger bear cat dog duck fox frog mouse otter owl rabbit robin".split()
LOOKS = "blue golden green little old red silver striped".split()
THINGS = "ball bell boat book clock drum flute hat jar key kite lamp map spoon".split()


def with_article(words: str) -> str:
    """The words after "a" or "an".

    >>> with_article("old map"), with_article("red kite")
    ('an old map', 'a red kite')
    """
    return f"{'an' if words[0] in 'aeio' else 'a'} {words}"


def animals(random: Random, count: int) -> list[Animal]:
    """That many animals, no two of one name or kind."""
    names = random.sample(SHE + HE, count)
    kinds = random.sample(KINDS, count)
    return [Animal(name, kind, name in SHE) for name, kind in zip(names, kinds, strict=True)]
