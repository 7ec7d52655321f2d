"""What the opening panel says of the data, in sentences."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mlxtune.data.types import Refused
from mlxtune.format import shown

SILENT = "no token of it carries loss"
EQUAL = "both answers have the same tokens"
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


def preference(count: int) -> list[str]:
    """That the rejected answers are left out, where there are any."""
    return (
        [f"{_rows(count)} of preferences: the chosen answer is trained, the rejected one is not used."] if count else []
    )


def first(taken: int) -> str:
    """That only the first examples are taken, where there are more.

    >>> first(10)
    'The first 10 rows are taken; those behind them are not read.'
    """
    which = "row is" if taken == 1 else f"{taken:,} rows are"
    return f"The first {which} taken; those behind {'it' if taken == 1 else 'them'} are not read."


def spellings(spelled: Mapping[str, int]) -> list[str]:
    """Which keys are read as those of a form, of how many rows.

    >>> spellings({"question, answer are read as prompt, completion": 2})
    ['question, answer are read as prompt, completion (2 rows).']
    """
    most_first = sorted(spelled.items(), key=lambda each: (-each[1], each[0]))
    return [f"{words} ({_rows(count)})." for words, count in most_first]


def beside(names: Sequence[str]) -> list[str]:
    """The data files and splits that are not read.

    >>> beside(["extra.jsonl", "more.csv"])
    ['Not read beside the rows: extra.jsonl, more.csv.']
    """
    listed = [shown(name, 40)[1:-1] for name in names[:LISTED]]
    more = [f"{len(names) - LISTED:,} more"] if names[LISTED:] else []
    return [f"Not read beside the rows: {', '.join([*listed, *more])}."] if names else []


def skipped(kinds: Mapping[str, int]) -> list[str]:
    """How many rows were skipped and why.

    >>> skipped({"longer than 8 tokens": 2})
    ['2 rows skipped: 2 longer than 8 tokens.']
    """
    if not kinds:
        return []
    reasons = "; ".join(f"{count:,} {reason}" for reason, count in Counter(kinds).most_common())
    return [f"{_rows(sum(kinds.values()))} skipped: {reasons}."]


def cut(rows: int, longest: int, lost: int) -> str:
    """That rows were truncated, and what goes by it.

    >>> cut(2, 2048, 1500)
    '2 rows are cut at 2,048 tokens: 1,500 tokens that carry loss are left out.'
    """
    are, tokens = "is" if rows == 1 else "are", "token that carries" if lost == 1 else "tokens that carry"
    gone = f"{lost:,} {tokens} loss {'is' if lost == 1 else 'are'} left out"
    return f"{_rows(rows)} {are} cut at {longest:,} tokens: {gone}."


def beyond(context: int) -> str:
    """Why rows were too long, where the model is the reason."""
    return f"The model's context is {context:,} tokens: it was not made for longer rows."


def kind(refused: Refused) -> str:
    """The reason, of a row that no length would admit, without what belongs to one row alone."""
    if refused.reason == SILENT:
        return "without a token that carries loss"
    if not refused.reason.startswith("expected "):
        return refused.reason
    return "not " + refused.reason.removeprefix("expected ").partition(", found ")[0].partition(" (")[0]


def _rows(count: int) -> str:
    return f"{count:,} {'row' if count == 1 else 'rows'}"
