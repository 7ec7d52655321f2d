"""Settings and a tokenizer -> the dataset of a run: the rows' tokens, made once (see store/), and a view of them."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mlxtune.data import files, notes, rows, special, urls
from mlxtune.data.counts import Counts, together
from mlxtune.data.dataset import Dataset
from mlxtune.data.faults import Fault, Kinds
from mlxtune.data.files import Sources
from mlxtune.data.folders import Split
from mlxtune.data.refused import RefusedRows
from mlxtune.data.rows import Wanted
from mlxtune.data.settings import DataSettings
from mlxtune.data.split import parted
from mlxtune.data.store.chunks import portions
from mlxtune.data.store.fill import Filling, Tell, Ways, check, limited
from mlxtune.data.store.find import Asked, find_or_make, in_memory
from mlxtune.data.store.making import Making
from mlxtune.data.store.store import Store
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.view import View, view, without_repeated
from mlxtune.errors import BadData, BadSetting, MlxtuneError
from mlxtune.events import Preparing, ignore

TRAINED: tuple[Split, ...] = ("train", "valid")
MEASURED: tuple[Split, ...] = ("test", "valid", "train")  # the first that is there
WAITING = "waiting for another process that makes tokens of the same rows"


class Reader(NamedTuple):
    """What rows are read with. stops: the tokens at which the model stops.

    open_tokenizer: makes the tokenizer in another process; None keeps the rows in the memory of this one.
    """

    tokenizer: Tokenizer
    stops: frozenset[int] = frozenset()
    open_tokenizer: Callable[[], Tokenizer] | None = None


class Examples(NamedTuple):
    """The tokens of all rows that were asked for, however long, and what there is to say of where they are."""

    store: Store
    wanted: Wanted  # with what names the same rows for ever, where they are the hub's
    reader: Reader
    notes: tuple[str, ...]

    def counts(self, splits: Sequence[Split]) -> Counts:
        """Of some splits together."""
        held = self.store.contents.splits
        return together({split: held[split].counts for split in splits})

    def said(self, splits: Sequence[Split]) -> tuple[str, ...]:
        """Sentences on what was read how."""
        counts = self.counts(splits)
        first = [notes.first(counts.examples)] if self.counts(splits[:1]).is_cut else []
        preference = [] if self.wanted.pairs else notes.preference(counts.preferences)
        return (*first, *notes.spellings(counts.spelled), *preference)

    def lost(self, splits: Sequence[Split]) -> tuple[str, ...]:
        """Sentences on text that is there and will not train."""
        counts, tokenizer = self.counts(splits), self.reader.tokenizer
        unread = counts.unread.said(notes.UNREAD, tokenizer)
        unwritten = counts.unwritten.said(notes.UNWRITTEN, tokenizer)
        return (*unread, *unwritten, *notes.beside(self.store.contents.unread), *self.notes)


def load(
    settings: DataSettings, tokenizer: Tokenizer, *, seed: int, stops: Collection[int] = (), pairs: bool = False
) -> Dataset:
    """The training and validation rows, in memory. Raises BadData, BadSetting or Missing; several at once as Faults."""
    reader = Reader(tokenizer, frozenset(stops))
    return prepare(read(settings, reader, pairs=pairs), settings, seed=seed)


def read(settings: DataSettings, reader: Reader, *, pairs: bool = False, tell: Tell = ignore) -> Examples:
    """The tokens of the training and validation rows. Raises for all bad rows at once, unless they are skipped.

    pairs: both answers of preferences are read, and rows without are bad.
    """
    sources, settings = _sources(settings)
    _check_share(settings, given="valid" in sources.splits)
    if "train" not in sources.splits:
        expected, found = "train rows", f"only those of {', '.join(sources.splits)}"
        raise BadData(_where(settings), expected=expected, found=found)
    return _read(sources, TRAINED, Wanted(settings, reader.stops, pairs), reader, tell)


def check_rows(settings: DataSettings, *, pairs: bool = False) -> None:
    """Raise for what is wrong with the files and their rows, as far as no tokenizer is needed to see it."""
    sources, settings = _sources(settings)
    wanted = Wanted(settings, frozenset(), pairs)
    counts, wrong, broken = Counts(), Kinds(), list[MlxtuneError]()
    for split in (split for split in TRAINED if split in sources.splits):
        raws = sources.splits[split]
        try:
            for portion in portions(limited(raws, wanted, counts) if split == "train" else raws):
                found = rows.read(portion, wanted, counts)
                wrong.add(each for each in found if isinstance(each, Fault) and not settings.skip_bad_rows)
        except BadData as error:
            broken.append(error)
    check(wanted, None, counts, wrong, broken)


def _sources(settings: DataSettings) -> tuple[Sources, DataSettings]:
    """The rows, and the settings with the commits of those that are the hub's."""
    sources = files.read(settings.path)
    settings = replace(settings, path=sources.pinned or settings.path)
    if settings.valid is None:
        return sources, settings
    others = files.read(settings.valid)
    return sources.validated_by(others), replace(settings, valid=others.pinned or settings.valid)


def _read(sources: Sources, splits: Sequence[Split], wanted: Wanted, reader: Reader, tell: Tell) -> Examples:
    there = tuple(split for split in splits if split in sources.splits)
    asked = Asked(sources, there, wanted, reader.tokenizer)

    def fill(making: Making) -> None:
        Filling(asked, Ways(reader.open_tokenizer, tell)).all_splits(making)

    if reader.open_tokenizer is None:
        found = in_memory(asked, fill)
    else:
        found = find_or_make(asked, fill, lambda: tell(Preparing(WAITING)))
    return Examples(found.store, wanted, reader, (*found.notes, *sources.notes()))


def prepare(examples: Examples, settings: DataSettings, *, seed: int, context: int = 0) -> Dataset:
    """The rows as the settings want them, split. Raises where no row is left to train on, naming the length that would
    admit some.

    context: the most tokens that the model was made for; 0 where that is not known.
    """
    size, splits = examples.wanted.rows_per_example, tuple(examples.store.contents.splits)
    views = _views(examples, splits, settings, size)
    refused = RefusedRows(left for each in views for left in each.left)
    train, given = views[0].rows, "valid" in splits
    if not len(train):
        raise _nothing_left(views[0], refused, settings, context)
    valid = views[1].rows if given else train.take([])
    if not given:
        train, valid = parted(train, size, share=settings.valid_share, seed=seed)
    counts = len(train) // size, len(valid) // size
    split = notes.split(*counts, given=given, share=settings.valid_share, seed=seed)
    around = special.read(examples.reader.tokenizer, examples.wanted.stops, settings.end_of_turn)
    ends = examples.counts(splits).ends.said(around, settings.end_of_turn)
    skipped = (*notes.skipped(refused.kinds), *_beyond(views, settings, context))
    said = (*ends, split, *examples.said(splits), *skipped, *examples.lost(splits))
    return Dataset(train, valid, refused, said, rows_per_example=size)


def load_for_eval(settings: DataSettings, reader: Reader, context: int = 0, tell: Tell = ignore) -> Dataset:
    """The rows to measure a model on, all in `valid`: the test split, else the validation split, else all there are."""
    sources = files.read(settings.path)
    split = next(split for split in MEASURED if split in sources.splits)
    examples = _read(sources, (split,), Wanted(settings, reader.stops), reader, tell)
    views = _views(examples, (split,), settings, 1)
    refused = RefusedRows(views[0].left)
    measured = views[0].rows
    if not len(measured):
        raise _nothing_left(views[0], refused, settings, context)
    skipped = (*notes.skipped(refused.kinds), *_beyond(views, settings, context))
    said = (*examples.said((split,)), *skipped, *examples.lost((split,)))
    return Dataset(measured.take([]), measured, refused, said, split)


def _views(examples: Examples, splits: Sequence[Split], settings: DataSettings, size: int) -> list[View]:
    if size > 1 and settings.overlong == "split":
        expected = "skip or truncate, as a pair of answers is compared as a whole"
        raise BadSetting("data.overlong", expected=expected, found="split")
    views = [view(examples.store, split, settings, size) for split in splits]
    return without_repeated(views, size) if settings.dedup == "exact" else views


def _where(settings: DataSettings) -> str:
    return urls.shown(settings.path or "the built-in data")


def _beyond(views: Sequence[View], settings: DataSettings, context: int) -> list[str]:
    is_why = settings.longest == context and any(len(each.too_long) for each in views)
    cut, lost = (sum(each.cut[place] for each in views) for place in (0, 1))
    said = [notes.cut(cut, settings.longest, lost)] if cut else []
    return [*said, *([notes.beyond(context)] if is_why else [])]


def _check_share(settings: DataSettings, *, given: bool) -> None:
    if given and settings.valid_share != DataSettings().valid_share:
        raise BadSetting(
            "data.valid_share",
            expected="to be left alone, as the data has validation rows of its own",
            found=f"{settings.valid_share}",
        )


def _nothing_left(view: View, refused: RefusedRows, settings: DataSettings, context: int) -> BadData:
    """Why no row is left: they are too long, or the first reason of those that were refused."""
    where = _where(settings)
    if len(view.too_long):
        least, most = int(np.min(view.too_long)), int(np.max(view.too_long))
        remedy = f"--max-seq-length {least} would admit some, {most} all that are too long."
        if least == most:
            remedy = f"--max-seq-length {most} would admit {'it' if len(view.too_long) == 1 else 'them'}."
        if 0 < context < most:
            remedy = f"The model's context is {context:,} tokens. Shorten the rows, or name a model with a longer one."
        expected = f"at least one row whose supervised tokens end within {settings.longest:,} tokens"
        found = "1 row, which is longer" if len(view.too_long) == 1 else f"{len(view.too_long):,} rows, all longer"
        return BadData(where, expected=expected, found=found, remedy=remedy)
    first = refused[:1]
    found = f"none of {len(refused):,}, the first because: {first[0].source}: {first[0].reason}" if first else "none"
    return BadData(where, expected="at least one row that can be trained on", found=found)
