"""`mlxtune cache` says what is kept and deletes what it is asked to, and nothing that is in use."""

import json
import os
import time
from pathlib import Path

import filelock
import pytest

from mlxtune.storage import cache
from tests.support.cli import TEXT_ROWS, write

DAY = 86_400


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with tokens of two data sets, one old, and a file."""
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    for place, age in (("tokens/a.jsonl-1/KEY", 40), ("tokens/b.jsonl-2/KEY", 1), ("prefix/model-3/KEY", 1)):
        path = tmp_path / "cache" / place
        path.mkdir(parents=True)
        (path / "rows.bin").write_bytes(b"x" * 1000)
        os.utime(path, (time.time() - age * DAY,) * 2)
    (tmp_path / "cache" / "fingerprints").mkdir()
    (tmp_path / "cache" / "fingerprints" / "one.json").write_text("{}")
    return tmp_path / "cache"


def test_what_is_kept_is_listed_with_its_owner_and_its_bytes(folder: Path, mlxtune) -> None:
    found = json.loads(mlxtune("cache", "--json").stdout)
    assert found["folder"] == str(folder)
    assert [(each["kind"], each["owner"], each["bytes"]) for each in found["kept"]] == [
        ("tokens", "a.jsonl", 1000),
        ("tokens", "b.jsonl", 1000),
        ("prefix", "model", 1000),
        ("fingerprints", "", 2),
    ]
    said = mlxtune("cache").stdout
    assert "a.jsonl" in said
    assert "40 days ago" in said


def test_only_what_was_not_used_for_so_long_is_deleted(folder: Path, mlxtune) -> None:
    assert mlxtune("cache", "clear", "--older", "30d").stdout == "Deleted 1 thing, 1.0 kB.\n"
    assert sorted(path.name for path in (folder / "tokens").iterdir()) == ["b.jsonl-2"]
    assert (folder / "prefix" / "model-3" / "KEY" / "rows.bin").exists()


def test_everything_is_deleted_but_what_is_being_made(folder: Path, mlxtune) -> None:
    lock = filelock.FileLock(folder / "tokens" / "b.jsonl-2" / "KEY.lock")
    with lock:
        found = json.loads(mlxtune("cache", "clear", "--json").stdout)
        assert [each["owner"] for each in found["left"]["kept"]] == ["b.jsonl"]
        assert (folder / "tokens" / "b.jsonl-2" / "KEY" / "rows.bin").exists()
    assert not (folder / "prefix" / "model-3").exists()
    assert [each.owner for each in cache.kept()] == ["b.jsonl"]
    assert mlxtune("cache", "clear").stdout.startswith("Deleted 1 thing")
    assert mlxtune("cache").stdout.startswith("Nothing is kept in ")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("age", ["30", "d", "-1d", "1.5d", "3q", ""])
def test_an_age_that_cannot_be_read_is_one_message(mlxtune, age: str) -> None:
    found = mlxtune("cache", "clear", f"--older={age}")
    assert (found.returncode, found.stderr.count("error:")) == (2, 1)
    assert "--older: expected hours, days or weeks, like 12h, 30d or 2w" in found.stderr
    assert len(cache.kept()) == 4


def test_what_a_verb_keeps_is_listed_and_made_again_after_it_is_deleted(tmp_path, monkeypatch, mlxtune) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    rows = write(tmp_path / "rows.jsonl", TEXT_ROWS)
    first = mlxtune("data", "--data", rows).stdout
    assert [each.owner for each in cache.kept()] == ["rows.jsonl"]
    mlxtune("cache", "clear")
    assert cache.kept() == []
    assert mlxtune("data", "--data", rows).stdout == first
    assert len(cache.kept()) == 1
