"""Parquet files by pyarrow, some rows at a time."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlxtune.data.faults import Place
from mlxtune.data.readers.raw import Raw, Rows, missing, plain
from mlxtune.errors import BadData
from mlxtune.format import shown

_BATCH = 1024  # rows that are Python objects at once


def rows(file: Path) -> Rows:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise missing("pyarrow", f"to read {file}") from None
    try:
        with pq.ParquetFile(file) as opened:
            _check_names(file, opened.schema_arrow.names)
            for number, row in enumerate(_rows(opened), start=1):
                yield Raw(Place(file, number), {key: plain(value) for key, value in row.items()})
    except BadData:
        raise
    except Exception as error:  # pyarrow raises whatever its many decoders raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadData(str(file), expected="a parquet file", found=shown(words, 200)) from None


def _rows(opened: Any) -> Iterator[dict[str, Any]]:
    for batch in opened.iter_batches(_BATCH):
        yield from batch.to_pylist(maps_as_pydicts="strict")


def _check_names(file: Path, names: list[str]) -> None:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise BadData(str(file), expected="columns of different names", found=f"{shown(twice)} more than once")
