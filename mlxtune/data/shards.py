"""Rows of one split in several files: train-00000-of-00005.jsonl as on the hub, or train-1.jsonl, train-2.jsonl."""

import re
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from mlxtune.data.paths import LISTED, first_names, natural
from mlxtune.data.readers.compression import bare
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData

_SHARD = re.compile(r"(\w+?)-(.*[0-9].*)")
_PART = re.compile(r"([0-9]+)-of-([0-9]+)(?:-[0-9a-f]+)?")


class Named(NamedTuple):
    """What a file's name says. shard: "" for a split's only file. part, parts: of a set, its number and how many."""

    stem: str
    shard: str = ""
    part: int = 0
    parts: int = 0


def named(file: File) -> Named:
    """A name is that of a shard if a number follows its hyphen.

    >>> from pathlib import Path
    >>> named(Path("train-00001-of-00003.jsonl.gz"))
    Named(stem='train', shard='00001-of-00003', part=1, parts=3)
    >>> named(Path("Valid.csv")).stem, named(Path("train-old.csv")).stem
    ('valid', 'train-old')
    """
    name = bare(file).stem.lower()
    if (shard := _SHARD.fullmatch(name)) is None:
        return Named(name)
    part = _PART.fullmatch(shard[2])
    return Named(shard[1], shard[2], int(part[1]), int(part[2])) if part else Named(shard[1], shard[2])


def one_source(folder: str, split: str, files: Sequence[File]) -> list[File]:
    """The only file of a split, or all its shards, in natural order. Two sources of one split are an error: which of
    them was meant?"""
    files = sorted(files, key=lambda file: natural(file.name.lower()))
    names = [named(file) for file in files]
    sources = [(*_set(name), _endings(file)) for name, file in zip(names, files, strict=True)]
    if len(set(sources)) > 1 or (len(files) > 1 and not names[0].shard):
        other = next((file for file, source in zip(files, sources, strict=True) if source != sources[0]), files[1])
        more = f" and {len(files) - 2:,} more" if files[2:] else ""
        found, remedy = f"both {files[0].name} and {other.name}{more}", "Remove or rename all but one."
        raise BadData(folder, expected=f"one {split} file", found=found, remedy=remedy)
    if _PART.fullmatch(names[0].shard):
        _check_whole(folder, split, files, names)
    return files


def _set(name: Named) -> tuple[str, bool, int]:
    """Which shards belong together."""
    return name.stem, bool(name.shard), name.parts


def _endings(file: File) -> str:
    return file.name.lower()[len(bare(file).stem) :]


def _check_whole(folder: str, split: str, files: Sequence[File], names: Sequence[Named]) -> None:
    """Numbers begin at 0, or at 1 where the last is that of the count."""
    numbers, count = {name.part for name in names}, names[0].parts
    wanted = range(1, count + 1) if count in numbers and 0 not in numbers else range(count)
    expected = f"every part of the {split} rows once"
    width = len(names[0].shard.partition("-")[0])
    if missing := [f"{n:0{width}}" for n in islice((n for n in wanted if n not in numbers), LISTED + 1)]:
        found = f"{len(numbers):,} of {count:,}, without {first_names(missing)}"
        raise BadData(folder, expected=expected, found=found)
    if len(files) > count:
        found = f"{len(files):,} of {count:,}: {first_names(file.name for file in files)}"
        raise BadData(folder, expected=expected, found=found)
