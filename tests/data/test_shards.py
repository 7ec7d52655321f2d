"""Rows in several files: the shards of a split, and the files that match a pattern."""

import gzip
import os
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.files import read
from mlxtune.data.settings import DataSettings
from mlxtune.errors import MlxtuneError
from tests.support.data import loaded, write
from tests.support.data import read as read_examples
from tests.support.tokenizers import tokenizer


def texts(path: Path, split: Any = "train") -> list[str]:
    return [raw.value["text"] for raw in read(str(path)).splits[split]]  # type: ignore[union-attr, index, call-overload]


def told(path: Path | str) -> str:
    with pytest.raises(MlxtuneError) as caught:
        read_examples(DataSettings(path=str(path)))
    assert caught.value.exit_code == 2
    assert str(caught.value).count("expected") == 1
    assert len(str(caught.value)) < 2000
    return str(caught.value)


def put(folder: Path, *names: str) -> None:
    """Files of one row, their own name."""
    for name in names:
        path = write(folder / name, [{"text": name}])
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(path.read_bytes()))


@pytest.mark.parametrize(
    "names",
    [
        ("train-9.jsonl", "train-10.jsonl", "train-100.jsonl"),
        ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"),
        ("train-1-of-2.jsonl", "train-2-of-2.jsonl"),
        ("train-00000-of-00002-2aff.jsonl", "train-00001-of-00002-01b.jsonl"),
        ("train-part2.jsonl.gz", "train-part11.jsonl.gz"),
        ("training-9.ndjson", "Training-10.ndjson"),
        ("train-2026-1-9.jsonl", "train-2026-1-10.jsonl"),
    ],
)
def test_shards_are_read_in_the_order_of_their_numbers(names: tuple[str, ...], tmp_path: Path) -> None:
    put(tmp_path, *names[::-1])
    assert texts(tmp_path) == list(names)


@pytest.mark.parametrize("stem", ["validation", "valid", "dev", "val", "eval"])
def test_each_split_may_be_shards_or_one_file(stem: str, tmp_path: Path) -> None:
    put(tmp_path, "train.jsonl", f"{stem}-1.jsonl", f"{stem}-2.jsonl", "test-0-of-1.jsonl.gz")
    found = read(str(tmp_path))
    assert {split: len(list(rows)) for split, rows in found.splits.items()} == {"train": 1, "valid": 2, "test": 1}
    assert found.unread == ()


def test_a_name_without_a_number_is_no_shard(tmp_path: Path) -> None:
    put(tmp_path, "train.jsonl", "train-old.jsonl", "dev-notes.txt")
    assert texts(tmp_path) == ["train.jsonl"]
    assert "Not read beside the rows: dev-notes.txt, train-old.jsonl." in loaded(tmp_path, tokenizer()).notes


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("00000", "00002", "00004"), "3 of 5, without 00001, 00003"),
        (("00001", "00005"), "2 of 5, without 00002, 00003, 00004"),
        (("00001", "00002", "00003", "00004"), "4 of 5, without 00000"),
    ],
)
def test_missing_shards_are_refused_by_their_numbers(names: tuple[str, ...], found: str, tmp_path: Path) -> None:
    put(tmp_path, *(f"train-{name}-of-00005.jsonl" for name in names))
    assert f"{tmp_path}: expected every part of the train rows once, found {found}." in told(tmp_path)


def test_a_set_of_very_many_shards_is_refused_at_once(tmp_path: Path) -> None:
    put(tmp_path, f"train-0-of-{'9' * 40}.jsonl")
    assert "without 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ..." in told(tmp_path)


def test_a_shard_that_is_there_twice_or_beyond_the_set_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a", "train-0-of-2.jsonl", "train-00-of-2.jsonl", "train-1-of-2.jsonl")
    assert "once, found 3 of 2: train-0-of-2.jsonl, train-00-of-2.jsonl, train-1-of-2.jsonl" in told(tmp_path / "a")
    put(tmp_path / "b", "train-0-of-1.jsonl", "train-1-of-1.jsonl")
    assert "once, found 2 of 1: " in told(tmp_path / "b")
    put(tmp_path / "c", "train-0-of-0.jsonl")
    assert "once, found 1 of 0: " in told(tmp_path / "c")


@pytest.mark.parametrize(
    "names",
    [
        ("train.jsonl", "train-1.jsonl"),
        ("train-1.jsonl", "train-1.jsonl.gz"),
        ("train-1.csv", "train-2.jsonl"),
        ("train-1.jsonl", "training-2.jsonl"),
        ("train-0-of-1.jsonl", "train-0-of-2.jsonl", "train-1-of-2.jsonl"),
        ("train-0-of-1.jsonl", "train-2.jsonl"),
    ],
)
def test_two_sources_of_one_split_are_an_error(names: tuple[str, ...], tmp_path: Path) -> None:
    put(tmp_path, *names)
    found = told(tmp_path)
    assert "expected one train file, found both train" in found
    assert sum(name in found for name in names) >= 2


def test_a_row_of_a_shard_has_the_file_and_the_line_of_its_own(tmp_path: Path) -> None:
    put(tmp_path, "train-1.jsonl.gz", "train-2.jsonl.gz")
    (tmp_path / "train-2.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x"}\nbad\n'))
    assert f"{tmp_path}/train-2.jsonl.gz:2: expected a JSON object, found `bad`" in told(tmp_path)


# patterns


def test_all_files_that_match_a_pattern_are_the_training_rows_in_natural_order(tmp_path: Path) -> None:
    put(tmp_path, "part-10.jsonl", "part-9.jsonl", "part-1.jsonl.gz", "valid.jsonl", "other.jsonl")
    assert texts(tmp_path / "part-*") == ["part-1.jsonl.gz", "part-9.jsonl", "part-10.jsonl"]
    assert texts(tmp_path / "part-?.jsonl") == ["part-9.jsonl"]
    assert texts(tmp_path / "part-[0-9]*.jsonl") == ["part-9.jsonl", "part-10.jsonl"]
    assert set(read(str(tmp_path / "*.jsonl")).splits) == {"train"}


def test_a_pattern_may_name_folders_and_takes_files_alone(tmp_path: Path) -> None:
    put(tmp_path, "a/x.jsonl", "a/b/x.jsonl", "c/x.jsonl")
    assert texts(tmp_path / "*" / "x.jsonl") == ["a/x.jsonl", "c/x.jsonl"]
    assert texts(tmp_path / "a" / "*") == ["a/x.jsonl"]
    assert sorted(texts(tmp_path / "**" / "**" / "x.jsonl")) == ["a/b/x.jsonl", "a/x.jsonl", "c/x.jsonl"]


def test_a_pattern_begins_where_the_program_runs_or_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "part-1.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert texts(Path("part-*")) == texts(Path("~/part-*")) == ["part-1.jsonl"]


@pytest.mark.parametrize("name", ["none-*.jsonl", "owner/na*me", "[", "a\0*", "x" * 5000 + "*"])
def test_a_pattern_that_matches_nothing_is_one_message(name: str, tmp_path: Path) -> None:
    assert "expected a pattern that matches a file, found no match" in told(f"{tmp_path}/{name}")


def test_a_pattern_that_matches_folders_alone_says_so(tmp_path: Path) -> None:
    (tmp_path / "part-1").mkdir()
    assert "expected a pattern that matches a file, found folders alone" in told(tmp_path / "part-*")


def test_whatever_a_pattern_matches_is_read_or_refused(tmp_path: Path) -> None:
    put(tmp_path, "part-1.jsonl", "part-2.md")
    assert f"{tmp_path}/part-2.md: expected a file that ends in one of .jsonl" in told(tmp_path / "part-*")
    (tmp_path / "part-2.md").unlink()
    os.mkfifo(tmp_path / "part-3.jsonl")
    assert "part-3.jsonl: expected a file, a folder or a hub data set, found a pipe" in told(tmp_path / "part-*")


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path: Path) -> None:
    put(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert texts(tmp_path / "a[1].jsonl") == ["a[1].jsonl"]
