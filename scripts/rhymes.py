"""The built-in data: someone asks for a rhyme about an animal and a thing, and gets four lines that rhyme.

The built-in model tells stories in prose and has never seen a chat. The data teaches it two habits at once: to answer
what was asked, and to answer in verse. Each thing has a second line of its own; each rhyme ends with one of six
couplets.
"""

from itertools import product
from random import Random

from scripts.cast import LOOKS, Animal, animals, with_article

ASKED = (
    "Tell me a rhyme about {hero} the {hero.kind} and {a_thing}.",
    "Please write a rhyme about {hero} the {hero.kind} and {a_thing}.",
    "{hero} the {hero.kind} has {a_thing}. Make a rhyme of it!",
)

SECOND_LINES = {
    "ball": "It bounces high above the wall.",
    "bell": "It sings a song that all know well.",
    "boat": "On every pond it likes to float.",
    "book": "It sleeps beside the babbling brook.",
    "clock": "It says good night: tick tock, tick tock.",
    "drum": "It calls to all the others: come!",
    "flute": "It makes the owls go hoot, hoot, hoot.",
    "hat": "A bird lives there, just think of that!",
    "jar": "And in it sleeps a tiny star.",
    "key": "It opens up the old oak tree.",
    "kite": "It dances with the stars at night.",
    "lamp": "It shines when nights are cold and damp.",
    "map": "{hero.He} keeps it folded in {hero.his} lap.",
    "spoon": "It glitters like the summer moon.",
}

COUPLETS = (
    "And if you ask, {hero.he} lets you play,\nfor sharing makes a better day.",
    "{hero.He} lends it when you ask {hero.him} to,\nand that is what good friends will do.",
    "So if you meet {hero.him}, say hello,\nand off the two of you will go.",
    "At night {hero.he} puts it by {hero.his} bed,\nand happy dreams fill up {hero.his} head.",
    "{hero.He} shows it to the young and old,\nand would not sell it, not for gold.",
    "The wind may howl, the snow may fall,\nbut {hero} does not mind at all.",
)

Row = dict[str, list[dict[str, str]]]


def rows(seed: int, train: int, valid: int) -> tuple[list[Row], list[Row]]:
    """Chat rows for training and for validation: no look and thing, and so no rhyme, is in both.

    >>> train, valid = rows(seed=0, train=3, valid=1)
    >>> [turn["role"] for turn in valid[0]["messages"]]
    ['user', 'assistant']
    """
    random = Random(seed)
    pairs = list(product(LOOKS, SECOND_LINES))
    random.shuffle(pairs)
    held_out, kept = pairs[: len(pairs) // 8], pairs[len(pairs) // 8 :]
    return [row(random, kept) for _ in range(train)], [row(random, held_out) for _ in range(valid)]


def row(random: Random, pairs: list[tuple[str, str]]) -> Row:
    """One request and its rhyme."""
    (hero,) = animals(random, 1)
    look, thing = random.choice(pairs)
    asked = random.choice(ASKED).format(hero=hero, a_thing=with_article(f"{look} {thing}"))
    turns = [("user", asked), ("assistant", rhyme(random, hero, look, thing))]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def rhyme(random: Random, hero: Animal, look: str, thing: str) -> str:
    r"""Four lines.

    >>> print(rhyme(Random(4), Animal("Mia", "otter", she=True), "old", "key").split("\n")[0])
    Mia the otter has an old key.
    """
    first = f"{hero} the {hero.kind} has {with_article(f'{look} {thing}')}."
    return "\n".join(line.format(hero=hero) for line in (first, SECOND_LINES[thing], random.choice(COUPLETS)))
