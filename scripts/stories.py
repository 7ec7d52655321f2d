"""Little stories for the built-in model: a grammar of plots, drawn from a seed, with nothing read from anywhere else.

`plots.txt` holds the plots. A plot is a row of beats ("* "), and a beat is a choice of sentences ("| "). The slots of
a sentence are filled from one cast, so that names, pronouns and things stay the same from the first sentence to the
last. Thirteen plots, two or three choices a beat and the cast give far more stories than half a million weights hold.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from random import Random

from scripts.cast import LOOKS, THINGS, animals, with_article

PLOTS = Path(__file__).with_name("plots.txt")

Beats = list[list[str]]

WORDS: Mapping[str, tuple[str, ...]] = {
    "place": ("by the river", "in the forest", "on a hill", "near the sea", "in a quiet valley", "beside a field"),
    "home": ("a small house", "a warm burrow", "a hollow tree", "a cosy hut", "a house with a round door"),
    "weather": ("the sun was shining", "it was raining", "the wind was blowing", "snow was falling", "it was very hot"),
    "spot": ("in the tall grass", "under a bush", "beside the old well", "behind a big stone", "at the foot of a tree"),
    "food": ("apples", "berries", "nuts", "pancakes", "plums", "honey cakes", "pears", "cherries"),
    "skill": ("swim", "whistle", "dance", "climb", "skate", "juggle", "sing"),
    "mood": ("kind", "brave", "curious", "shy", "cheerful", "clever", "gentle"),
    "flower": ("a rose", "a daisy", "a pumpkin", "a sunflower", "a bean plant", "a tulip"),
    "building": ("a tower of stones", "a bridge of sticks", "a snow house", "a raft of logs", "a tree house"),
    "small": ("bird", "snail", "ladybird", "butterfly", "bee", "beetle"),
    "dark": ("the moon", "a bright star", "one small candle", "a cloud of fireflies"),
    "days": ("two days", "three days", "a week", "many days"),
}


def stories(seed: int) -> Iterator[str]:
    """Stories without end, the same ones for the same seed.

    >>> first = next(stories(1))
    >>> first == next(stories(1)), first == next(stories(2))
    (True, False)
    """
    random = Random(seed)
    while True:
        yield story(random)


def story(random: Random) -> str:
    """One story: an opening, the beats of a plot, an ending; three of four have their subject for a title."""
    plots = dict(read_plots())
    opening, ending = plots.pop("opening"), plots.pop("ending")
    beats = opening + random.choice(list(plots.values())) + ending
    sentences = [random.choice(beat) for beat in beats]
    cast = draw_cast(random)
    cast["subject"] = subject(sentences).format_map(cast)
    body = " ".join(sentence_case(sentence.format_map(cast)) for sentence in sentences)
    return f"{cast['subject']}\n{body}" if random.random() < 0.75 else body


def subject(sentences: list[str]) -> str:
    """Who and what the story is about. Said at the start or the end, it teaches a model to keep to what it is given."""
    things = any("{a_thing}" in sentence or "{look}" in sentence for sentence in sentences)
    return "{hero} the {hero.kind} and " + ("{a_thing}" if things else "{friend} the {friend.kind}")


@cache
def read_plots() -> Mapping[str, Beats]:
    """The beats of each plot by its name, with "opening" and "ending"."""
    blocks = (block.split("\n* ") for block in PLOTS.read_text().strip().split("\n\n"))
    return {title.removeprefix("# "): [beat.split("\n| ") for beat in beats] for title, *beats in blocks}


def draw_cast(random: Random) -> dict[str, object]:
    """What fills the slots: two animals, a thing and its look, and two words of each list (`{food}` and `{food2}`)."""
    hero, friend = animals(random, 2)
    look, thing = random.choice(LOOKS), random.choice(THINGS)
    cast: dict[str, object] = {"hero": hero, "friend": friend, "look": look, "thing": thing}
    cast["a_thing"] = with_article(f"{look} {thing}")
    for slot, words in WORDS.items():
        cast[slot], cast[f"{slot}2"] = random.sample(words, 2)
    return cast


def sentence_case(text: str) -> str:
    """Capitalise the first letter, also behind an opening quotation mark.

    >>> sentence_case('"a red kite!" cried Mia.')
    '"A red kite!" cried Mia.'
    """
    return re.sub(r'^"?[a-z]', lambda start: start[0].upper(), text)
