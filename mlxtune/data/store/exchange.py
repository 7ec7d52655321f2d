"""What a process is asked and what it answers where rows are made by several: pickles with their lengths."""

import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from mlxtune.data.faults import Fault
from mlxtune.data.rows import Maker, Wanted
from mlxtune.data.store.chunks import Portion
from mlxtune.data.store.columns import packed
from mlxtune.data.store.making import Chunk
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.errors import MlxtuneError

_LENGTH = struct.Struct("<Q")


class Job(NamedTuple):
    """What every portion needs. open_tokenizer: makes the tokenizer, in any process."""

    wanted: Wanted
    open_tokenizer: Callable[[], Tokenizer]
    dtype: str  # of tokens


class Answer(NamedTuple):
    """What became of a portion."""

    chunk: Chunk
    faults: list[Fault]
    n_unreadable: int  # of the faults, see rows.Made


class Failed(NamedTuple):
    """An error of ours that ended a portion."""

    error: MlxtuneError


def answer(maker: Maker, portion: Portion, dtype: np.dtype[Any]) -> Answer:
    """Make a portion. Raises MlxtuneError for what is wrong with all rows."""
    made = maker.make(portion.raws, is_first=portion.number == 0, only_check=portion.only_check)
    chunk = Chunk(packed(made.rows, dtype), list(made.refused), made.counts, len(portion.raws))
    return Answer(chunk, list(made.faults), made.n_unreadable)


def send(stream: BinaryIO, value: object) -> None:
    """Raises OSError where nobody reads."""
    content = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """The next value. Raises EOFError where there is none: only processes of one program talk so."""
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError
    content = stream.read(_LENGTH.unpack(head)[0])
    return pickle.loads(content)  # written by the process that started this one
