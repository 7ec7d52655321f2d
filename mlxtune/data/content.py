"""What the content of files is known by: the bytes of those on this machine, what servers say of others."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mlxtune.data.folders import Split
from mlxtune.data.remote.file import File
from mlxtune.errors import BadData

_blake2b = partial(hashlib.blake2b, digest_size=16)


def identity(splits: Mapping[Split, Sequence[File]]) -> str:
    """One number, in hex, for the files of each split in their order. A file's own name takes part, as it says how the
    file is read and is told with each row; its folder does not."""
    digest = _blake2b()
    for split, files in splits.items():
        for file in files:
            digest.update(json.dumps([split, file.name, *_known_by(file)]).encode() + b"\n")
    return digest.hexdigest()


def _known_by(file: File) -> Sequence[str]:
    if not isinstance(file, Path):
        return file.known_by()
    try:
        with file.open("rb") as stream:
            return [hashlib.file_digest(stream, _blake2b).hexdigest()]
    except OSError as error:
        raise unreadable(file, error) from None


def unreadable(file: File, error: OSError) -> BadData:
    return BadData(str(file), expected="a file that can be read", found=str(error.strerror or error))
