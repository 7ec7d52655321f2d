"""What tokens make of answers: whether each ends in something to stop at, and whether text comes back from its tokens.

Both are counted while rows are tokenized, and told once: a model that never learns to stop, or whose tokenizer loses
characters, trains without a fault.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from mlxtune.data.encoding import decoded, same
from mlxtune.data.special import NONE, Special
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.tokens import Marked, Tokens
from mlxtune.format import shown

SAMPLED = 32  # rows whose tokens are decoded
LONGEST = 20_000  # characters of them


@dataclass
class Answers:
    """Answers, and texts without turns, and how many of each end in a token that generation stops at."""

    special: Special
    end_of_turn: str | None = None  # as the user says it
    answers: int = 0
    stopped: int = 0
    texts: int = 0
    stopped_texts: int = 0
    textual: int = 0  # answers that end in a text of several tokens alone
    sampled: int = 0
    lost: list[str] = field(default_factory=list)  # of sampled rows, what does not come back

    def add(self, text: Marked, made: Tokens, source: str, tokenizer: Tokenizer) -> None:
        """Count the answers of a row, and look at whether its text comes back."""
        stopped = [self._is_stopped(text, made, place) for place in range(len(text.spans))]
        if text.plain and text.spans[0].start == 0:
            self.texts, self.stopped_texts = self.texts + 1, self.stopped_texts + all(stopped)
        else:
            self.answers, self.stopped = self.answers + len(stopped), self.stopped + sum(stopped)
        if self.sampled < SAMPLED and len(text.text) <= LONGEST:
            self.sampled += 1
            self.lost += _lost(text, made, source, tokenizer, self.special.added.values())

    def _is_stopped(self, text: Marked, made: Tokens, place: int) -> bool:
        start, end = text.spans[place]
        after = text.spans[place + 1].start if text.spans[place + 1 :] else end + 1
        within = made.tokens[made.supervised & (made.starts >= start) & (made.starts < after)]
        if not self.special.marks.keys().isdisjoint(within.tolist()):
            return True
        ended = text.text[start:end].rstrip().endswith(self.special.texts)
        self.textual += ended
        return ended

    def said(self) -> list[str]:
        """Sentences for the opening panel: what will not be learnt or not be read, with the remedy."""
        counts = (("answer", self.answers, self.stopped), ("text", self.texts, self.stopped_texts))
        said = [self._endless(*each) for each in counts if each[1] != each[2] and self.end_of_turn != NONE]
        if self.textual:
            words = f"the text {shown(self.special.texts[0], 40)}, which is several tokens here"
            said.append(f"Answers end in {words}: mlxtune stops at it, other programs may not.")
        if self.lost:
            said.append(f"The tokenizer does not give back the text of all rows: {self.lost[0]}.")
        return said

    def _endless(self, what: str, count: int, stopped: int) -> str:
        which = f"Of {count:,} {what}s only {stopped:,}" if stopped else f"None of {count:,} {what}s"
        if count == 1:
            which = f"The {what} does not end, with loss,"
        else:
            which = f"{which} {'ends' if stopped < 2 else 'end'}, with loss,"
        token = shown(next(iter(self.special.words), "TEXT"), 40)[1:-1]
        return (
            f"THE MODEL DOES NOT LEARN TO STOP. {which} in a token that generation stops at. "
            f"--end-of-turn {token!r} writes that after each {what}, --end-of-turn {NONE} says that it is meant."
        )


def _lost(text: Marked, made: Tokens, source: str, tokenizer: Tokenizer, added: Collection[str]) -> list[str]:
    """Where a row reads otherwise from its tokens. Blanks beside special tokens are a matter of style."""
    marks = sorted(added, key=len, reverse=True)
    pattern = r"\s*(?:" + "|".join(map(re.escape, marks)) + r")\s*" if marks else r"(?!)"
    read = re.sub(pattern, "\0", decoded(made.tokens, tokenizer)).strip("\0 ")
    meant = re.sub(pattern, "\0", text.text).strip("\0 ")
    if same(read, meant):
        return []
    at = next((place for place, (one, two) in enumerate(zip(read, meant, strict=False)) if one != two), len(read))
    begin = max(at - 10, 0)
    return [f"{shown(meant[begin : at + 20])} of {source} reads as {shown(read[begin : at + 20])}"]
