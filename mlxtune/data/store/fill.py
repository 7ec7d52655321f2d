"""From raw rows to a store: read in portions, made by several processes, appended in order, checked as a whole."""

import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mlxtune.data import forms
from mlxtune.data.counts import Counts, together
from mlxtune.data.faults import BadRow, Fault, Kinds
from mlxtune.data.folders import Split
from mlxtune.data.readers.raw import Document, Raw
from mlxtune.data.renaming import Renaming
from mlxtune.data.rows import Maker, Wanted
from mlxtune.data.store.chunks import Portion, portions
from mlxtune.data.store.exchange import Answer, Job
from mlxtune.data.store.find import Asked
from mlxtune.data.store.making import Making
from mlxtune.data.store.workers import made
from mlxtune.data.system import needless
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.data.unread import Unread
from mlxtune.errors import BadData, BadSetting, MlxtuneError, raise_all
from mlxtune.events import Preparing
from mlxtune.format import counted

TELL_SECONDS = 0.2
WHAT = "tokenizing the rows"
Tell = Callable[[Preparing], None]


class Ways(NamedTuple):
    """How a store is filled. open_tokenizer: makes the tokenizer in another process; None where none is to be asked."""

    open_tokenizer: Callable[[], Tokenizer] | None
    tell: Tell
    n_processes: int | None = None  # as many as there are cores


class Filling:
    """Fills a store, and gathers what is wrong on the way."""

    def __init__(self, asked: Asked, ways: Ways) -> None:
        self.asked, self.ways = asked, ways
        self.maker = Maker(asked.wanted, asked.tokenizer)
        self.wrong, self.broken, self.is_unreadable = Kinds(), list[MlxtuneError](), False
        self.rows, self.total, self.told = 0, _total(asked), time.monotonic()

    def all_splits(self, making: Making) -> None:
        """Raises for all that is wrong with the rows at once."""
        making.about.unread = self.asked.sources.unread
        for split in self.asked.splits:
            self._fill(making, split)
        counts = together({name: part.counts for name, part in making.about.splits.items()})
        check(self.asked.wanted, self.asked.tokenizer, counts, self.wrong, self.broken)

    def _fill(self, making: Making, split: Split) -> None:
        taken, counts = making.taken(split), making.about.splits[split].counts
        raws = self.asked.sources.splits[split]
        if split == self.asked.splits[0]:
            raws = limited(raws, self.asked.wanted, counts)
        try:
            for _ in islice(raws, taken):
                pass
        except BadData as error:  # a file that changed
            self.broken.append(error)
            return
        number = 0 if not taken and split == self.asked.splits[0] else 1
        for answer in self._answers(self._portions(raws, number), making):
            self._take(making, split, answer)

    def _portions(self, raws: Iterator[Raw | Fault], number: int) -> Iterator[Portion]:
        """What is wrong with a file ends it. Of rows behind wrong ones it is only asked whether they can be read."""
        try:
            for place, each in enumerate(portions(raws), start=number):
                yield Portion(place, each, only_check=self.is_unreadable)
        except BadData as error:
            self.broken.append(error)

    def _answers(self, asked: Iterator[Portion], making: Making) -> Iterator[Answer]:
        job = Job(self.maker.wanted, self.ways.open_tokenizer or _none, making.about.dtype)
        n_processes = self.ways.n_processes if self.ways.open_tokenizer else 1
        return made(asked, job, self.maker, n_processes)

    def _take(self, making: Making, split: Split, answer: Answer) -> None:
        chunk = answer.chunk
        if self.asked.wanted.settings.skip_bad_rows:
            chunk = chunk._replace(refused=[*(fault.refused for fault in answer.faults), *chunk.refused])
        else:
            self.wrong.add(answer.faults)
            self.is_unreadable |= answer.n_unreadable > 0
            making.is_sound = not self.wrong
        making.add(split, chunk)
        self.rows += chunk.taken
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            self.ways.tell(Preparing(WHAT, self.rows, self.total, "rows"))


def _total(asked: Asked) -> int:
    """How many rows there are, where counting them takes no time: the lines of plain files of lines; else 0."""
    files = [file for split in asked.splits for file in asked.sources.files.get(split, ())]
    if asked.wanted.settings.max_rows is not None:
        return 0
    local = [file for file in files if isinstance(file, Path) and file.suffix.lower() == ".jsonl"]
    try:
        return sum(map(_lines, local)) if len(local) == len(files) else 0
    except OSError:
        return 0  # whoever reads it will say so


def _lines(file: Path) -> int:
    with file.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _none() -> Tokenizer:
    raise NotImplementedError


def limited(raws: Iterator[Raw | Fault], wanted: Wanted, counts: Counts) -> Iterator[Raw | Fault]:
    """Rows up to the first so many that can be read; those behind them are not looked at."""
    most = wanted.settings.max_rows
    if most is None:
        yield from raws
        return
    left = most
    for raw in raws:
        if left == 0:
            counts.is_cut = True
            return
        if isinstance(raw, Raw) and isinstance(raw.value, Document):
            found, remedy = f"{most:,}, and {raw.place.file} is plain text", "Give a shorter text instead."
            raise BadSetting("data.max_rows", expected="a file of rows", found=found, remedy=remedy)
        left -= isinstance(raw, Raw) and _can_be_read(raw, wanted)
        yield raw


def _can_be_read(raw: Raw, wanted: Wanted) -> bool:
    columns, unread = wanted.settings.columns, Unread()
    try:
        [renamed] = Renaming(columns, unread)([raw]) if columns else [raw]
        found = isinstance(renamed, Raw) and forms.row(renamed, unread, pairs=wanted.pairs, named=columns or ())
    except BadRow:
        return False
    return isinstance(found, forms.Row)


def check(
    wanted: Wanted, tokenizer: Tokenizer | None, counts: Counts, wrong: Kinds, broken: list[MlxtuneError]
) -> None:
    """Raise for what is wrong with rows, and with settings that have no effect on any of them. tokenizer: if known."""
    settings = wanted.settings
    if settings.columns and not broken and (counts.found.rows or not wrong):
        counts.found.check(settings.columns)
    raise_all([*broken, *wrong.errors()])
    if counts.first_text:
        expected = "auto or all where rows are text, which has no turns"
        found = f"{settings.loss_on}, and {counts.first_text} is text"
        raise BadSetting("data.loss_on", expected=expected, found=found)
    if tokenizer is None:
        return
    if settings.system is not None and counts.examples and not counts.instructed:
        raise needless(has_template=bool(tokenizer.chat_template))
    if counts.chats:
        raise _no_template(counts, tokenizer)


def _no_template(counts: Counts, tokenizer: Tokenizer) -> BadData:
    return BadData(
        counts.first_chat,
        expected="a tokenizer with a chat template, as this row is a chat",
        found=f"none in {tokenizer.name_or_path or 'the model'} ({counted(counts.chats, 'such row')})",
        remedy="Name a model that has one, usually the -Instruct one of its family;"
        " prompt/completion rows and text rows need none.",
    )
