"""Text of the rows that no one reads: told once, with how much of it there is, so that nothing is lost in silence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mlxtune.data.tokenizer import Tokenizer
from mlxtune.format import counted as how_many
from mlxtune.format import shown

SAMPLE = 4096  # characters of each key that are encoded; the rest is counted at their rate
LISTED = 6  # keys in one sentence
MOST_KEYS = 1000  # that are told apart
_DEEPEST = 8  # of lists and objects whose text is looked for


@dataclass
class Seen:
    """What was seen under one key."""

    rows: int = 0
    characters: int = 0
    sample: list[str] = field(default_factory=list)
    sampled: int = 0  # characters

    def add(self, text: str) -> None:
        self.rows += 1
        self.characters += len(text)
        if part := text[: SAMPLE - self.sampled]:
            self.sample.append(part.encode("utf-8", "replace").decode())  # half a surrogate pair cannot be encoded
            self.sampled += len(part)

    def plus(self, other: "Seen") -> None:
        """Add what was seen in later rows."""
        self.rows += other.rows
        self.characters += other.characters
        for text in other.sample:
            if part := text[: SAMPLE - self.sampled]:
                self.sample.append(part)
                self.sampled += len(part)

    def tokens(self, tokenizer: Tokenizer) -> int:
        """About how many tokens all of it would be."""
        encoded = tokenizer(self.sample, add_special_tokens=False, verbose=False)["input_ids"]
        return max(round(sum(map(len, encoded)) * self.characters / self.sampled), 1)


@dataclass
class Unread:
    """Keys and the text under them, of all rows."""

    seen: dict[str, Seen] = field(default_factory=dict)

    def plus(self, other: "Unread") -> None:
        """Add what was seen in later rows."""
        for key, seen in other.seen.items():
            if key in self.seen or len(self.seen) < MOST_KEYS:
                self.seen.setdefault(key, Seen()).plus(seen)

    def add(self, key: str, value: object) -> None:
        """Count what a row has under a key, if it is text."""
        found = "\n".join(texts(value))
        if found and (key in self.seen or len(self.seen) < MOST_KEYS):
            self.seen.setdefault(key, Seen()).add(found)

    def said(self, before: str, tokenizer: Tokenizer) -> list[str]:
        """One sentence, which begins as given; none where there is nothing to say.

        >>> Unread().said("Not read:", None)
        []
        """
        if not self.seen:
            return []
        counted = sorted(((seen.tokens(tokenizer), key, seen.rows) for key, seen in self.seen.items()), reverse=True)
        listed = [
            f"{shown(key, 40) if key.strip() else 'a key without a name'} "
            f"({rows:,} {'row' if rows == 1 else 'rows'}, about {tokens:,} {'token' if tokens == 1 else 'tokens'})"
            for tokens, key, rows in counted[:LISTED]
        ]
        more = [how_many(len(counted) - LISTED, "more key")] if counted[LISTED:] else []
        return [f"{before} {', '.join([*listed, *more])}."]


def texts(value: Any, depth: int = 0) -> Iterator[str]:
    """The texts in a value, those of lists and objects too, that are not blank."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif depth < _DEEPEST and isinstance(value, dict | list | tuple):
        inner: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for each in inner:
            yield from texts(each, depth + 1)
