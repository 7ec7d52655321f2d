"""What is said of rows besides their tokens: counts that add up over parts of the data, in the order of the rows."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from mlxtune.data.answers import Answers
from mlxtune.data.forms import Row
from mlxtune.data.renames import Renamed
from mlxtune.data.renaming import Found
from mlxtune.data.special import Special
from mlxtune.data.unread import Unread


@dataclass
class Ends:
    """How answers end, and whether their text comes back: the counts of `Answers`."""

    answers: int = 0
    stopped: int = 0
    texts: int = 0
    stopped_texts: int = 0
    textual: int = 0
    sampled: int = 0
    lost: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, answers: Answers) -> "Ends":
        """Those of the rows that it was given."""
        return cls(**{each.name: getattr(answers, each.name) for each in fields(cls)})

    def plus(self, other: "Ends") -> None:
        """Add those of later rows."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))
        del self.lost[1:]  # the first is told

    def said(self, special: Special, end_of_turn: str | None) -> list[str]:
        """Sentences for the opening panel."""
        return Answers(special, end_of_turn, **asdict(self)).said()


@dataclass
class Counts:
    """Of the rows of one split. examples: that could be read. spelled: by the words that say how keys were read."""

    examples: int = 0
    is_cut: bool = False  # there are more, which no one asked for
    preferences: int = 0
    spelled: dict[str, int] = field(default_factory=dict)
    instructed: int = 0  # that got a system message
    chats: int = 0
    first_chat: str = ""  # where it is
    first_text: str = ""
    ends: Ends = field(default_factory=Ends)
    unread: Unread = field(default_factory=Unread)  # text of keys that no form reads
    unwritten: Unread = field(default_factory=Unread)  # and of what the chat template leaves out
    found: Found = field(default_factory=Found)  # of columns that were asked for

    def see(self, rows: Sequence[Row]) -> None:
        """Count rows that could be read."""
        self.examples += len(rows)
        self.preferences += sum(row.form == "preference" for row in rows)
        for renamed, count in Counter(row.renamed for row in rows if row.renamed).items():
            self.spelled[_words(renamed)] = self.spelled.get(_words(renamed), 0) + count

    def plus(self, other: "Counts") -> None:
        """Add those of later rows."""
        for name in ("examples", "preferences", "instructed", "chats"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.is_cut |= other.is_cut
        self.first_chat, self.first_text = self.first_chat or other.first_chat, self.first_text or other.first_text
        for words, count in other.spelled.items():
            self.spelled[words] = self.spelled.get(words, 0) + count
        for mine, others in ((self.unread, other.unread), (self.unwritten, other.unwritten)):
            mine.plus(others)
        self.ends.plus(other.ends)
        self.found.plus(other.found)


def _words(renamed: Renamed) -> str:
    """How the keys of a row are read.

    >>> _words((("question", "prompt"), ("answer", "completion")))
    'question, answer are read as prompt, completion'
    """
    old, new = (", ".join(names) for names in zip(*renamed, strict=True))
    return f"{old} {'is' if len(renamed) == 1 else 'are'} read as {new}"


def together(counts: Mapping[str, Counts]) -> Counts:
    """The counts of several splits."""
    total = Counts()
    for each in counts.values():
        total.plus(each)
    return total
