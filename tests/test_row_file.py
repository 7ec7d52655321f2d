"""The file of the frozen layers' output: what is read ahead is in memory when it is wanted."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from mlxtune.backends.row_file import RowFile

WIDTH, TOKENS, STAGE = 256, 1024, 2


@pytest.fixture
def rows():
    random = np.random.default_rng(0)
    return [random.integers(0, 1000, TOKENS, dtype=np.int32) for _ in range(4)]


def opened(folder, rows):
    return RowFile(folder, rows, WIDTH, np.dtype(np.float32))


def mapped_bytes(folder):
    """Of the folder's files, what of their mappings is in this process's memory."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    found = [re.search(r"^Rss: +(\d+) kB", part, flags=re.MULTILINE) for part in parts if str(folder) in part]
    return sum(1024 * int(match[1]) for match in found if match)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says what is mapped")
def test_rows_read_ahead_are_in_memory_and_others_are_not(tmp_path, rows):
    written = opened(tmp_path, rows)
    for number in range(len(rows)):
        written.write(STAGE, number, np.full((TOKENS, WIDTH), number, np.float32))
    written.note(STAGE, 0)
    del written
    file, row_bytes = opened(tmp_path, rows), 4 * TOKENS * WIDTH
    assert file.read(STAGE, rows[1]).shape == (TOKENS, WIDTH)  # a view: nothing is read yet
    assert mapped_bytes(tmp_path) < row_bytes / 4
    file.read_ahead(STAGE, rows[1])
    assert row_bytes <= mapped_bytes(tmp_path) < 1.5 * row_bytes
    assert (file.read(STAGE, rows[1]) == 1).all()
