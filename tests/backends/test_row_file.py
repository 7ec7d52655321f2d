"""The file of the frozen layers' output: made once, whole or absent, and what is read is what was written."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlxtune.backends import row_file
from mlxtune.backends.row_file import Damaged, RowFile
from mlxtune.data.distinct import Index
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.storage import one_writer
from mlxtune.storage.one_writer import drop_older
from tests.support.checkout import ROOT

WIDTH, TOKENS, STAGE, ROWS = 256, 1024, 2, 4


def index() -> Index:
    """Of rows of which so many tokens are read."""
    generator = np.random.default_rng(0)
    tokens = [generator.integers(0, 1000, TOKENS + 1, dtype=np.int32) for _ in range(ROWS)]
    return Index(listed(TokenRow(each, np.ones(TOKENS + 1, np.bool_), "rows:1") for each in tokens))


def some_rows() -> list[Any]:
    """As they lie in the file."""
    return [row.tokens for row in index().rows]


def opened(folder: Path) -> RowFile:
    return RowFile(folder / "KEY", index(), WIDTH, np.dtype(np.float32))


def states(number: int) -> Any:
    return np.random.default_rng(number).normal(size=(TOKENS, WIDTH)).astype(np.float32)


def never() -> None:
    raise AssertionError("nobody else writes")


def make(folder: Path, wait: Any = never, pause: float = 0.0) -> RowFile:
    """What a run does: look for the file, else make it, or go on with what was begun."""
    file = opened(folder)
    if file.is_whole(STAGE):
        return file
    with file.writing(wait):
        if not file.is_renewed(STAGE):
            stage, done = file.begun()
            for number in range(done, 0 if stage else ROWS):
                file.write(STAGE, number, states(number))
                file.note(0, number + 1)
                time.sleep(pause)
            file.note(STAGE, 0)
            assert file.finish(STAGE)
    return file


def read(file: RowFile, number: int) -> Any:
    out = np.empty((TOKENS, WIDTH), np.float32)
    file.read_into(STAGE, some_rows()[number], out)
    return out


def is_right(file: RowFile) -> bool:
    return all(np.array_equal(read(file, number), states(number)) for number in range(ROWS))


def data(folder: Path) -> Path:
    return next(folder.glob("KEY/hidden-*.bin"))


def flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * TOKENS * WIDTH * 4 + 12345)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 8]))


def make_a_hole(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * TOKENS * WIDTH * 4 + 4096)
        file.write(bytes(4096))


def cut_short(path: Path) -> None:
    os.truncate(path, 3 * TOKENS * WIDTH * 4 - 1)


DAMAGE = [flip_a_bit, make_a_hole, cut_short]


def test_what_is_made_is_found_again(tmp_path: Path) -> None:
    assert is_right(make(tmp_path))
    again = opened(tmp_path)
    assert again.is_whole(STAGE)
    assert is_right(again)
    assert not opened(tmp_path).is_whole(STAGE + 1)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ahead", [False, True])
def test_damage_under_an_open_file_is_seen_in_the_row_that_has_it(tmp_path: Path, damage: Any, ahead: bool) -> None:
    file = make(tmp_path)
    damage(data(tmp_path))
    if ahead:
        file.read_ahead(STAGE, some_rows()[2])
    with pytest.raises(Damaged):
        read(file, 2)
    assert np.array_equal(read(file, 1), states(1))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_made_anew_once(tmp_path: Path, damage: Any) -> None:
    one, other = make(tmp_path), make(tmp_path)
    damage(data(tmp_path))
    for file, makes in ((one, True), (other, False)):
        with pytest.raises(Damaged):
            read(file, 2)
        with file.writing(never):
            assert file.is_renewed(STAGE) == (not makes)
        if makes:
            assert is_right(make(tmp_path))
    assert is_right(other)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "[" * 99_999, '{"stage": 2, "rows": 0, "sums": {}, "check": ""}', None]
)
def test_what_a_folder_says_of_itself_is_checked(tmp_path: Path, text: str | None) -> None:
    make(tmp_path)
    about = tmp_path / "KEY" / "about.json"
    about.write_text(about.read_text().replace("1", "2", 1) if text is None else text)
    assert not opened(tmp_path).is_whole(STAGE)
    assert is_right(make(tmp_path))


def test_a_row_that_was_read_ahead_is_checked_then_and_not_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, rows = make(tmp_path), some_rows()
    file.read_ahead(STAGE, rows[1])
    monkeypatch.setattr(row_file.zlib, "crc32", None)
    assert np.array_equal(read(file, 1), states(1))
    with pytest.raises(TypeError):
        read(file, 1)


def test_an_open_file_stays_readable_whoever_deletes_it(tmp_path: Path) -> None:
    file = make(tmp_path)
    for name in ("a", "b"):
        other = tmp_path / name
        other.mkdir()
        drop_older(other, row_file.KEPT)
    assert not (tmp_path / "KEY").exists()
    assert is_right(file)


def test_a_full_disk_is_an_error_and_has_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(row_file.os, "pwrite", full)
    with pytest.raises(OSError, match="No space"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["KEY.lock"]


def test_who_waits_for_a_process_that_gives_no_sign_of_life_makes_a_file_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_writer, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(one_writer, "POLL_SECONDS", 0.05)
    holder, waited = opened(tmp_path), list[int]()
    with holder.writing(never):
        assert is_right(make(tmp_path, lambda: waited.append(1)))
    assert waited


WRITER = """
import sys, time
from pathlib import Path
from tests.backends import test_row_file as t
t.one_writer.POLL_SECONDS = 0.02
file = t.make(Path(sys.argv[1]), wait=lambda: None, pause=float(sys.argv[2]))
assert t.is_right(file)
print("right")
"""


def writer(folder: Path, pause: float) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITER, str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.slow
def test_three_writers_at_once_all_end_with_the_right_rows(tmp_path: Path) -> None:
    started = [writer(tmp_path, pause=0.1) for _ in range(3)]
    assert [each.communicate()[0] for each in started] == ["right\n"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["KEY", "KEY.lock"]


@pytest.mark.slow
def test_writers_killed_at_any_instant_leave_nothing_that_is_wrong(tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(6):
        started = [writer(tmp_path, pause=0.05) for _ in range(2)]
        time.sleep(chance.uniform(0.3, 1.2))
        for each in started:
            each.send_signal(signal.SIGKILL)
            each.communicate()
        file = opened(tmp_path)
        assert not file.is_whole(STAGE) or is_right(file)
    assert is_right(make(tmp_path))
