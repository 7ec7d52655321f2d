"""What the opening panel says of the data, in sentences."""

from collections import Counter
from collections.abc import Iterable, Sequence

from mlxtune.data.forms import Row
from mlxtune.data.renames import Renamed
from mlxtune.data.types import Refused
from mlxtune.format import shown

SILENT = "no token of it carries loss"
EQUAL = "both answers have the same tokens"
SHORT = " tokens, fewer than "
REPEATED = "the same tokens as "
UNREAD = "Not read in the rows:"
UNWRITTEN = "The chat template leaves out, of messages:"
LISTED = 5  # names of files


def split(train: int, valid: int, *, given: bool, share: float, seed: int) -> str:
    """How validation came about.

    >>> split(95, 5, given=False, share=0.05, seed=0)
    'No validation file: 5 of 100 rows (5%), drawn with seed 0, are held out for validation.'
    """
    if given:
        refused = "No validation: every validation row was refused."
        return f"The data has {_rows(valid)} for validation." if valid else refused
    if share == 0:
        return "No validation: there is no validation file, and the share to hold out is 0."
    if not valid:
        return "No validation: there is no validation file, and a single row cannot be split."
    total = train + valid
    return (
        f"No validation file: {valid:,} of {total:,} rows ({valid / total:.0%}), drawn with seed {seed}, "
        f"{'is' if valid == 1 else 'are'} held out for validation."
    )


def preference(rows: Iterable[Row]) -> list[str]:
    """That the rejected answers are left out, where there are any."""
    count = sum(row.form == "preference" for row in rows)
    return (
        [f"{_rows(count)} of preferences: the chosen answer is trained, the rejected one is not used."] if count else []
    )


def first(taken: int, of: int) -> list[str]:
    """That only the first examples are taken, where there are more.

    >>> first(10, 12)
    ['The first 10 of 12 rows are taken: 2 are left out.']
    """
    left = of - taken
    return (
        [f"The first {taken:,} of {_rows(of)} are taken: {left:,} {'is' if left == 1 else 'are'} left out."]
        if left
        else []
    )


def spellings(rows: Iterable[Row]) -> list[str]:
    """Which keys are read as those of a form."""
    counted = Counter(row.renamed for row in rows if row.renamed)
    return [_spelling(renamed, count) for renamed, count in counted.most_common()]


def _spelling(renamed: Renamed, count: int) -> str:
    """Of the rows that are spelled alike.

    >>> _spelling((("question", "prompt"), ("answer", "completion")), 2)
    'question, answer are read as prompt, completion (2 rows).'
    """
    old, new = (", ".join(names) for names in zip(*renamed, strict=True))
    return f"{old} {'is' if len(renamed) == 1 else 'are'} read as {new} ({_rows(count)})."


def beside(names: Sequence[str]) -> list[str]:
    """The data files and splits that are not read.

    >>> beside(["extra.jsonl", "more.csv"])
    ['Not read beside the rows: extra.jsonl, more.csv.']
    """
    listed = [shown(name, 40)[1:-1] for name in names[:LISTED]]
    more = [f"{len(names) - LISTED:,} more"] if names[LISTED:] else []
    return [f"Not read beside the rows: {', '.join([*listed, *more])}."] if names else []


def skipped(refused: Sequence[Refused]) -> list[str]:
    """How many rows were skipped and why.

    >>> skipped([Refused("a:1", "9 tokens, longer than 8"), Refused("a:2", "12 tokens, longer than 8")])
    ['2 rows skipped: 2 longer than 8 tokens.']
    """
    if not refused:
        return []
    kinds = Counter(kind(each) for each in refused)
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in kinds.most_common())
    return [f"{_rows(len(refused))} skipped: {reasons}."]


def beyond(context: int) -> str:
    """Why rows were too long, where the model is the reason."""
    return f"The model's context is {context:,} tokens: it was not made for longer rows."


def kind(refused: Refused) -> str:
    """The reason without what belongs to one row alone."""
    _, comma, limit = refused.reason.partition(" tokens, longer than ")
    if comma:
        return f"longer than {limit} tokens"
    _, comma, least = refused.reason.partition(SHORT)
    if comma:
        return f"shorter than {least} tokens"
    if refused.reason.startswith(REPEATED):
        return "with the tokens of another before"
    if refused.reason == SILENT:
        return "without a token that carries loss"
    if not refused.reason.startswith("expected "):
        return refused.reason
    return "not " + refused.reason.removeprefix("expected ").partition(", found ")[0].partition(" (")[0]


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
