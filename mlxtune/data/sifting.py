"""Rows that the settings leave out: examples after the first so many, rows of few tokens, rows that repeat another."""

from collections.abc import Sequence

from mlxtune.data.digest import digest
from mlxtune.data.forms import Row
from mlxtune.data.notes import REPEATED, SHORT
from mlxtune.data.readers.raw import Document
from mlxtune.data.rows import Tokenized
from mlxtune.data.settings import DataSettings
from mlxtune.data.split import batched
from mlxtune.data.types import Refused, TokenRow
from mlxtune.errors import BadSetting


def first(rows: Sequence[Row], count: int | None) -> tuple[Row, ...]:
    """The first examples; all where no count is given. Raises BadSetting for the text of a file, which is one alone."""
    if count is not None and (texts := [row for row in rows if isinstance(row.example, Document)]):
        found = f"{count:,}, and {texts[0].place.file} is plain text"
        raise BadSetting("data.max_rows", expected="a file of rows", found=found, remedy="Give a shorter text instead.")
    return tuple(rows[:count])


def sifted(parts: Sequence[Tokenized], settings: DataSettings, *, size: int) -> list[Tokenized]:
    """The rows of each split without short ones and those that repeat one before them, of an earlier split too.

    size: rows of an example, which stay or go together.
    """
    if settings.min_tokens is None and settings.dedup == "off":
        return list(parts)
    seen: dict[bytes, str] = {}
    return [_sifted(part, settings, size, seen) for part in parts]


def _sifted(part: Tokenized, settings: DataSettings, size: int, seen: dict[bytes, str]) -> Tokenized:
    """seen: the digests of each example that stays, and its source."""
    kept: list[TokenRow] = []
    left: list[Refused] = []
    for example in batched(part.rows, size):
        reason = _short(example, settings.min_tokens) or (settings.dedup == "exact" and _repeated(example, seen))
        if reason:
            left.append(Refused(example[0].source, reason))
        else:
            kept += example
    return part._replace(rows=tuple(kept), idle=(*part.idle, *left))


def _short(example: Sequence[TokenRow], least: int | None) -> str:
    shortest = min(len(row.tokens) for row in example)
    return f"{shortest:,}{SHORT}{least:,}" if least is not None and shortest < least else ""


def _repeated(example: Sequence[TokenRow], seen: dict[bytes, str]) -> str:
    """Why it is left out, if it is not the first of its kind."""
    key = b"".join(digest(row.tokens, row.supervised) for row in example)
    if key in seen:
        return f"{REPEATED}{seen[key]}"
    seen[key] = example[0].source
    return ""
