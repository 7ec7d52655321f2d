import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.files import read as read_sources
from mlxtune.data.load import Reader, load_for_eval
from mlxtune.data.readers.raw import Document, Raw
from mlxtune.data.settings import DataSettings
from mlxtune.errors import Faults, Missing, MlxtuneError
from tests.support.data import read as read_examples
from tests.support.data import write

ROWS = [{"text": "one"}, {"text": 'two, "quoted"\nand more'}, {"text": "drei ü"}]


def read(path: str) -> dict[str, list[Any]]:
    return {split: list(rows) for split, rows in read_sources(path).splits.items()}


def values(path: Path) -> list[object]:
    raws = read(str(path))["train"]
    return [raw.value for raw in raws if isinstance(raw, Raw)]


def lines(path: Path) -> list[int]:
    return [raw.place.line for raw in read(str(path))["train"]]


def fault(path: Path, **settings: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        read_examples(DataSettings(path=str(path), **settings))
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    import csv

    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=2))
    write(tmp_path / "lines.json", ROWS)
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text"])
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.json", "lines.json", "a.csv", "a.parquet"):
        assert values(tmp_path / name) == ROWS, name


def test_rows_know_the_line_that_they_begin_on(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"text": "x"}\n\n{"text": "y"}')
    (tmp_path / "a.json").write_text('[\n {"text":\n "x"},\n\n {"text": "y"}]')
    (tmp_path / "a.csv").write_text('text\n"x\n\nx"\ny\n')
    assert lines(tmp_path / "a.jsonl") == [2, 4]
    assert lines(tmp_path / "a.json") == [2, 5]
    assert lines(tmp_path / "a.csv") == [2, 5]


def test_blank_lines_byte_order_marks_and_carriage_returns_are_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n\r\n   \n{"text": "y"}\r\n')
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext\r\nx\r\n\r\ny\r\n")
    assert values(tmp_path / "a.jsonl") == values(tmp_path / "a.csv") == [{"text": "x"}, {"text": "y"}]


def test_a_line_separator_inside_json_text_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "a\u2028b"}, ensure_ascii=False), encoding="utf-8")
    assert values(tmp_path / "a.jsonl") == [{"text": "a\u2028b"}]


def test_text_files_are_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo")
    assert values(tmp_path / "a.txt") == [Document("one\n\ntwo")]


def test_a_cell_of_csv_is_the_text_that_is_written_however_long_and_whatever_it_looks_like(tmp_path: Path) -> None:
    cell = json.dumps({"name": "Ann"})
    (tmp_path / "a.csv").write_text('completion,text\n"{}",{}\n'.format(cell.replace('"', '""'), "x" * 200_000))
    assert values(tmp_path / "a.csv") == [{"completion": cell, "text": "x" * 200_000}]


def test_a_folder_gives_its_splits_in_any_format(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    (tmp_path / "validation.json").write_text(json.dumps(ROWS[:1]))
    (tmp_path / "test.txt").write_text("x")
    (tmp_path / "README.md").write_text("not data")
    assert {split: len(rows) for split, rows in read(str(tmp_path)).items()} == {"train": 3, "valid": 1, "test": 1}


def test_all_bad_rows_are_found_at_once_each_with_its_line(tmp_path: Path) -> None:
    """mlx-lm: blank line, bad JSON, mixed formats, non-string text: tracebacks, wrong line, or mid-training."""
    good = json.dumps({"text": "x"})
    bad = [*([good] * 6), '{"prompt": "x",', "", *([good] * 3), "nonsense", "{", '{"text": 3}', '{"text": null}']
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(bad))
    told = fault(path)
    assert f'{path}:7: expected a JSON object, found `{{"prompt": "x",` (' in told
    assert "2 more rows have the same fault: 12, 13." in told
    assert f"{path}:14: expected text under `text`, found the number 3 at `text`." in told
    assert f"{path}:15: expected a value under `text`, found null." in told
    assert told.count("--skip-bad-rows") == 3


def test_at_most_twenty_bad_rows_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text("bad\n" * 1_500)
    listed = ", ".join(str(line) for line in range(2, 21))
    assert f"1,499 more rows have the same fault: {listed}, ..." in fault(path)


def test_bad_rows_can_be_skipped_and_are_counted_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "x"}\nbad\n{"wrong": 1}\n')
    examples = read_examples(DataSettings(path=str(path), skip_bad_rows=True))
    assert len(examples.splits["train"]) == 1
    assert [each.source for each in examples.refused] == ["train.jsonl:2", "train.jsonl:3"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
@pytest.mark.parametrize("content", [b"", b"\n\n  \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "expected at least one row" in fault(tmp_path / name)


def test_an_empty_list_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[ ]")
    assert "expected at least one row" in fault(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", b'{"text": "\xff"}', "a.jsonl:1: expected UTF-8 text, found the byte 0xff at column 11"),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1: expected JSON objects"),
        ("a.jsonl", b'{"text":' * 100_000, "a.jsonl:1: expected a JSON object"),
        ("a.jsonl", b"[1, 2]", "a.jsonl:1: expected a JSON object, found the number 1"),
        ("a.jsonl", b'{"text": "\\ud800"}', "a.jsonl:1: expected Unicode text"),
        ("a.json", b'[{"text": "x"},\n{"text" "y"}]', "a.json:2: expected JSON objects"),
        ("a.json", b'[{"text": "x"}', "a.json:1: expected JSON objects"),
        ("a.json", b'[{"text": "x"}\n{"text": "y"}]', "a.json:2: expected JSON objects"),
        ("a.txt", b"ok\n\xff", "a.txt:2: expected UTF-8 text"),
        ("a.csv", b"text,id\nx,1\ny\n", "a.csv:3: expected 2 cells, as in the header, found 1"),
        ("a.csv", b'text\nx\n"never closed\n', "a.csv:3: expected a CSV row"),
        ("a.parquet", b"junk that is long enough to have a footer", "expected a parquet file"),
        ("a.xlsx", b"x", "expected a file that ends in one of .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .txt"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert told in fault(tmp_path / name)


def test_a_path_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert "expected a file, a folder or a hub data set, found nothing of that name" in fault(tmp_path / "none.jsonl")


def test_a_folder_without_training_rows_says_what_is_there(tmp_path: Path) -> None:
    for name in ("trian.jsonl", "more.jsonl"):
        (tmp_path / name).write_text("")
    assert "found a folder that holds more.jsonl, trian.jsonl" in fault(tmp_path)


def test_two_files_for_one_split_are_an_error(tmp_path: Path) -> None:
    write(tmp_path / "valid.jsonl", ROWS)
    write(tmp_path / "validation.jsonl", ROWS)
    assert "expected one valid file, found both valid.jsonl and validation.jsonl" in fault(tmp_path)


def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "expected a file that can be read, found Permission denied" in fault(path)


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.parquet").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Missing, match=r'pip install "mlxtune\[data\]"'):
        read(str(tmp_path / "a.parquet"))


def test_faults_of_several_files_are_told_together(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("bad")
    (tmp_path / "valid.jsonl").write_text("bad")
    with pytest.raises(Faults) as caught:
        read_examples(DataSettings(path=str(tmp_path)))
    assert [error.where.rsplit("/", 1)[1] for error in caught.value.faults] == ["train.jsonl:1", "valid.jsonl:1"]


def test_evaluation_takes_the_test_rows_else_validation_else_all(tmp_path: Path) -> None:
    from tests.support.tokenizers import tokenizer

    for split, count in (("train", 3), ("valid", 2), ("test", 1)):
        write(tmp_path / f"{split}.jsonl", ROWS[:count])
    settings = DataSettings(path=str(tmp_path))
    for split, count in (("test", 1), ("valid", 2), ("train", 3)):
        assert len(load_for_eval(settings, Reader(tokenizer())).valid) == count
        (tmp_path / f"{split}.jsonl").unlink()
