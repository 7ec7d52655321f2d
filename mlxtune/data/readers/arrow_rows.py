"""Tables of Arrow by pyarrow, some rows at a time: parquet files and the same tables as Arrow's IPC format has them."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO

from mlxtune.data.faults import Place
from mlxtune.data.readers import compression
from mlxtune.data.readers.raw import Raw, Rows, missing, plain
from mlxtune.data.readers.signatures import ARROW
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData, MlxtuneError
from mlxtune.format import shown

_BATCH = 1024  # rows that are Python objects at once
# Bytes that are read at once, of all columns and at most of one: a row group, which may be a file's only one, is never
# read whole, and yet a part of another machine's file is worth the journey.
_BUFFERS, _BUFFER = 2**23, 2**21
_END = b"\xff\xff\xff\xff\0\0\0\0"  # of an IPC stream; pyarrow takes one that is cut off between two batches as whole


def parquet(file: File) -> Rows:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise missing("pyarrow", f"to read {file}") from None
    with _read_as(file, "a parquet file"), compression.seekable(file) as stream:
        footer = pq.read_metadata(stream)
        buffer = min(_BUFFERS // max(footer.num_columns, 1), _BUFFER)
        with pq.ParquetFile(stream, metadata=footer, buffer_size=max(buffer, 1), pre_buffer=False) as opened:
            batches = opened.iter_batches(_BATCH, use_threads=False)  # threads would hold more of the file
            yield from _rows(file, opened.schema_arrow.names, batches)


def ipc(file: File) -> Rows:
    """The IPC file format, or the IPC stream, as the `datasets` package writes it."""
    try:
        import pyarrow as pa
    except ImportError:
        raise missing("pyarrow", f"to read {file}") from None
    with _read_as(file, "an Arrow file"), compression.seekable(file) as stream:
        is_file = stream.read(len(ARROW)) == ARROW
        if not is_file and not _is_ended(stream):
            raise BadData(str(file), expected="an Arrow file that is whole", found="one without an end")
        stream.seek(0)
        opened = pa.ipc.open_file(stream) if is_file else pa.ipc.open_stream(stream)
        yield from _rows(file, opened.schema.names, _batches(opened, is_file=is_file))


def _is_ended(stream: BinaryIO) -> bool:
    stream.seek(max(stream.seek(0, 2) - len(_END), 0))
    return stream.read() == _END


def _batches(opened: Any, *, is_file: bool) -> Iterator[Any]:
    """Batches of any length, cut. They are checked first: offsets that lead out of a buffer would end the program."""
    batches = map(opened.get_batch, range(opened.num_record_batches)) if is_file else opened
    for batch in batches:
        batch.validate(full=True)
        yield from (batch.slice(start, _BATCH) for start in range(0, batch.num_rows, _BATCH))


def _rows(file: File, names: list[str], batches: Iterator[Any]) -> Rows:
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise BadData(str(file), expected="columns of different names", found=f"{shown(twice)} more than once")
    rows = chain.from_iterable(batch.to_pylist(maps_as_pydicts="strict") for batch in batches)
    for number, row in enumerate(rows, start=1):
        yield Raw(Place(file, number), {key: plain(value) for key, value in row.items()})


@contextmanager
def _read_as(file: File, kind: str) -> Iterator[None]:
    try:
        yield
    except MlxtuneError:
        raise
    except Exception as error:  # pyarrow raises whatever its many decoders raise
        words = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadData(str(file), expected=kind, found=shown(words, 200)) from None
