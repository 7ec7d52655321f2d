"""Settings and a tokenizer -> the dataset of a run. `read` needs no tokenizer and finds all that is wrong with the
files, quickly; `prepare` tokenizes what was read; `load` is both."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from mlxtune.data import files, forms, notes, special, urls
from mlxtune.data.answers import Answers
from mlxtune.data.faults import Fault, refuse_or_raise
from mlxtune.data.folders import Split
from mlxtune.data.forms import Row
from mlxtune.data.renaming import Renaming
from mlxtune.data.rows import Tokenized, tokenize
from mlxtune.data.settings import DataSettings
from mlxtune.data.sifting import first, sifted
from mlxtune.data.special import Special
from mlxtune.data.split import batched, part
from mlxtune.data.system import instructed
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.types import Dataset, Refused
from mlxtune.data.unread import Unread
from mlxtune.errors import BadData, BadSetting


@dataclass(frozen=True)
class Examples:
    """What the files hold: the rows of each split that can be read, and those that were skipped."""

    splits: Mapping[Split, tuple[Row, ...]]
    refused: tuple[Refused, ...]
    unread: Unread  # text of the rows that no form reads
    beside: tuple[str, ...]  # names of data files or splits that are not read
    pairs: bool = False  # each row is a pair of answers


def load(
    settings: DataSettings, tokenizer: Tokenizer, *, seed: int, stops: Collection[int] = (), pairs: bool = False
) -> Dataset:
    """The training and validation rows. Every fault of the files is found before anything is tokenized.

    Raises BadData, BadSetting or Missing; several at once as Faults.
    """
    return prepare(read(settings, pairs=pairs), settings, tokenizer, seed=seed, stops=stops)


def read(settings: DataSettings, *, pairs: bool = False) -> Examples:
    """The rows of the files, without a tokenizer. Raises for all bad rows at once, unless they are skipped.

    pairs: both answers of preferences are read, and rows without are bad.
    """
    sources, unread = files.read(settings.path), Unread()
    renaming = Renaming(settings.columns, unread) if settings.columns else None
    splits: dict[Split, tuple[Row, ...]] = {}
    faults: list[Fault] = []
    marked: list[Refused] = []
    broken: list[BadData] = []
    for split, raws in sources.splits.items():
        raws = renaming(raws) if renaming else raws
        found = forms.rows(raws, unread, pairs=pairs, named=settings.columns or ())
        splits[split] = found.right
        faults += found.wrong
        marked += found.marked
        broken += found.broken
    if renaming and not broken and (renaming.rows or not faults):
        renaming.check()
    refused = refuse_or_raise(faults, skip=settings.skip_bad_rows, broken=broken)
    return Examples(splits, (*refused, *marked), unread, sources.unread, pairs)


def prepare(
    examples: Examples,
    settings: DataSettings,
    tokenizer: Tokenizer,
    *,
    seed: int,
    context: int = 0,
    stops: Collection[int] = (),
) -> Dataset:
    """Tokenized rows, split. Raises where no row is left to train on, naming the length that would admit some.

    context: the most tokens that the model was made for; 0 where that is not known. stops: those at which it stops.
    """
    given = "valid" in examples.splits
    _check_share(settings, given=given)
    unwritten, answers = Unread(), _answers(settings, tokenizer, stops)
    written = _written(examples, ("train", "valid"), settings, tokenizer, answers.special)
    made = [tokenize(rows, settings, tokenizer, unwritten, answers) for rows in written]
    size = 2 if examples.pairs else 1
    made = sifted(made, settings, size=size)
    refused = examples.refused + _refused(made, settings)
    train, valid = made[0].rows, made[1].rows
    if not train:
        raise _nothing_left(examples, "train", made[0], refused, settings, context)
    if not given:
        parts = part(list(batched(train, size)), share=settings.valid_share, seed=seed)
        train, valid = (tuple(chain.from_iterable(each)) for each in parts)
    rows = tuple(chain.from_iterable(written))
    counts = len(train) // size, len(valid) // size
    split = notes.split(*counts, given=given, share=settings.valid_share, seed=seed)
    skipped = (*notes.skipped(refused), *_beyond(made, settings, context))
    preference = () if examples.pairs else notes.preference(rows)
    taken = notes.first(len(written[0]), len(examples.splits.get("train", ())))
    said = (*answers.said(), *taken, split, *notes.spellings(rows), *preference, *skipped)
    return Dataset(train, valid, refused, (*said, *_lost(examples, unwritten, tokenizer)), rows_per_example=size)


def load_for_eval(
    settings: DataSettings, tokenizer: Tokenizer, context: int = 0, stops: Collection[int] = ()
) -> Dataset:
    """The rows to measure a model on, all in `valid`: the test split, else the validation split, else all there are."""
    examples = read(settings)
    order: tuple[Split, ...] = ("test", "valid", "train")
    split = next(split for split in order if split in examples.splits)
    unwritten, answers = Unread(), _answers(settings, tokenizer, stops)
    [rows] = _written(examples, (split,), settings, tokenizer, answers.special)
    [made] = sifted([tokenize(rows, settings, tokenizer, unwritten, answers)], settings, size=1)
    refused = examples.refused + _refused([made], settings)
    if not made.rows:
        raise _nothing_left(examples, split, made, refused, settings, context)
    skipped = (*notes.skipped(refused), *_beyond([made], settings, context))
    taken = notes.first(len(rows), len(examples.splits[split]))
    said = (*taken, *notes.spellings(rows), *notes.preference(rows), *skipped)
    return Dataset((), made.rows, refused, (*said, *_lost(examples, unwritten, tokenizer)), split)


def _written(
    examples: Examples, splits: Sequence[Split], settings: DataSettings, tokenizer: Tokenizer, special: Special
) -> list[tuple[Row, ...]]:
    """The rows of each split as they will be tokenized; of the first split the first so many, where so is set."""
    rows = [examples.splits.get(split, ()) for split in splits]
    rows[0] = first(rows[0], settings.max_rows)
    if settings.system is None:
        return rows
    every = iter(instructed(tuple(chain.from_iterable(rows)), settings.system, tokenizer, special))
    return [tuple(islice(every, len(each))) for each in rows]


def _beyond(parts: Sequence[Tokenized], settings: DataSettings, context: int) -> list[str]:
    is_why = settings.longest == context and any(part.too_long for part in parts)
    return [notes.beyond(context)] if is_why else []


def _answers(settings: DataSettings, tokenizer: Tokenizer, stops: Collection[int]) -> Answers:
    return Answers(special.read(tokenizer, stops, settings.end_of_turn), settings.end_of_turn)


def _lost(examples: Examples, unwritten: Unread, tokenizer: Tokenizer) -> tuple[str, ...]:
    """What is said of text that is there and will not train."""
    unread = examples.unread.said(notes.UNREAD, tokenizer)
    return (*unread, *unwritten.said(notes.UNWRITTEN, tokenizer), *notes.beside(examples.beside))


def _check_share(settings: DataSettings, *, given: bool) -> None:
    if given and settings.valid_share != DataSettings().valid_share:
        raise BadSetting(
            "data.valid_share",
            expected="to be left alone, as the data has validation rows of its own",
            found=f"{settings.valid_share}",
        )


def _refused(parts: Sequence[Tokenized], settings: DataSettings) -> tuple[Refused, ...]:
    """Rows that will not train, by split and reason. Raises for faults, unless bad rows are skipped."""
    limit = settings.longest
    refused = refuse_or_raise([each for part in parts for each in part.faults], skip=settings.skip_bad_rows)
    for made in parts:
        refused += tuple(
            Refused(row.place.short, f"{row.needs:,} tokens, longer than {limit:,}") for row in made.too_long
        )
        refused += made.idle
    return refused


def _nothing_left(
    examples: Examples,
    split: Split,
    made: Tokenized,
    refused: Sequence[Refused],
    settings: DataSettings,
    context: int,
) -> BadData:
    """Why no row is left: they are too long, or the first reason of those that were refused."""
    where = urls.shown(settings.path or "the built-in data")
    if split not in examples.splits:
        return BadData(where, expected=f"{split} rows", found=f"only those of {', '.join(examples.splits)}")
    if made.too_long:
        needs = [row.needs for row in made.too_long]
        remedy = f"--max-seq-length {min(needs)} would admit some, {max(needs)} all that are too long."
        if min(needs) == max(needs):
            remedy = f"--max-seq-length {max(needs)} would admit {'it' if len(needs) == 1 else 'them'}."
        if 0 < context < max(needs):
            remedy = f"The model's context is {context:,} tokens. Shorten the rows, or name a model with a longer one."
        expected = f"at least one row whose supervised tokens end within {settings.longest:,} tokens"
        found = "1 row, which is longer" if len(needs) == 1 else f"{len(needs):,} rows, all longer"
        return BadData(where, expected=expected, found=found, remedy=remedy)
    found = (
        f"none of {len(refused):,}, the first because: {refused[0].source}: {refused[0].reason}" if refused else "none"
    )
    return BadData(where, expected="at least one row that can be trained on", found=found)
