"""Files are read whole, whatever their name says they are, or refused by the kind that they are."""

import bz2
import gzip
import json
import lzma
import os
import socket
import sqlite3
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.files import read
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadData, MlxtuneError
from tests.support.data import chat, loaded, write
from tests.support.data import read as read_examples
from tests.support.slow import all_but
from tests.support.tokenizers import tokenizer

ROWS = [
    {"prompt": "one é 世", "completion": "1"},
    {"prompt": "two", "completion": "2"},
    {"prompt": "3", "completion": "c"},
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
CSV = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)


def values(path: Path) -> list[Any]:
    return [raw.value for raw in read(str(path)).splits["train"]]  # type: ignore[union-attr]


def told(path: Path, **settings: Any) -> str:
    with pytest.raises(MlxtuneError) as caught:
        read_examples(DataSettings(path=str(path), **settings))
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 4000
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.ndjson", "a.csv"])
@pytest.mark.parametrize(
    "text",
    [
        JSONL,
        json.dumps(ROWS, ensure_ascii=False),
        json.dumps(ROWS, ensure_ascii=False, indent=2),
        "\n".join(json.dumps(row, ensure_ascii=False, indent=1) for row in ROWS),
        json.dumps(ROWS[:1]) + "\n" + json.dumps(ROWS[1:]),
        json.dumps(ROWS[:1], indent=1) + "\n\n" + json.dumps(ROWS[1:]) + "\n[]\n",
        "\n \n" + JSONL.replace("\n", "\r\n\r\n"),
    ],
    ids=["lines", "a list", "a list of many lines", "objects of many lines", "two lists", "three lists", "blank lines"],
)
def test_json_is_read_whole_however_it_is_laid_out(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert values(tmp_path / name) == ROWS


def test_one_object_of_many_lines_is_one_row(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json"):
        (tmp_path / name).write_text(json.dumps(ROWS[0], indent=4))
        assert values(tmp_path / name) == ROWS[:1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["bare", "marked"])
@pytest.mark.parametrize(("name", "text"), [("a.jsonl", JSONL), ("a.json", json.dumps(ROWS)), ("a.csv", CSV)])
def test_text_is_read_in_every_unicode_encoding(name: str, text: str, encoding: str, mark: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes((mark + text).encode(encoding))
    assert values(tmp_path / name) == ROWS


def test_text_that_ends_in_half_a_character_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xff\xfe" + JSONL.encode("utf-16-le")[:-1])
    assert f"{path}:3: expected UTF-16-LE text" in told(path)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (json.dumps(ROWS) + " oops {", ":1: expected JSON objects, found `oops {`"),
        (json.dumps(ROWS) + "\n]", ":2: expected JSON objects, found `]`"),
        (json.dumps(ROWS, indent=1)[:-1], ":14: expected JSON objects, found the end of the file"),
        ('[{"text": ' + "1" * 5000 + "}]", ":1: expected JSON objects"),
        ('{"text":\n"x"}\nnonsense', ":3: expected JSON objects, found `nonsense`"),
    ],
)
def test_what_stands_behind_the_rows_is_never_dropped(text: str, where: str, tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(text)
        assert str(tmp_path / name) + where in told(tmp_path / name)


def test_a_key_twice_in_an_object_is_refused_at_any_depth(tmp_path: Path) -> None:
    rows = ['{"text": "x", "text": "y"}', '{"messages": [{"role": "system", "role": "user", "content": "q"}]}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    (tmp_path / "a.json").write_text("[" + ",\n".join(rows) + "]")
    for name in ("a.jsonl", "a.json"):
        found = told(tmp_path / name)
        assert ":1: expected each key once, found `text` twice in one object" in found
        assert "1 more row has the same fault: 2." in found


def test_arguments_of_a_call_that_name_a_key_twice_are_refused(tmp_path: Path) -> None:
    call = {"function": {"name": "f", "arguments": '{"city": "Oslo", "city": "Rome"}'}}
    path = write(
        tmp_path / "a.jsonl", [{"messages": [*chat("q")["messages"], {"role": "assistant", "tool_calls": [call]}]}]
    )
    assert "expected an object as the arguments of each tool call" in told(path)


PACKED = {
    "a gzip file": gzip.compress(JSONL.encode()),
    "a bzip2 file": bz2.compress(JSONL.encode()),
    "an xz file": lzma.compress(JSONL.encode()),
    "a Zstandard file": b"\x28\xb5\x2f\xfd" + bytes(40),
    "a pointer to a file that Git LFS has not fetched": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "a PDF document": b"%PDF-1.7\n",
}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet", "a.arrow", "a"])
@pytest.mark.parametrize(("kind", "data"), PACKED.items(), ids=PACKED)
def test_a_file_of_another_kind_is_named_once(kind: str, data: bytes, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    found = told(tmp_path / name)
    assert f"expected a data file, found {kind}." in found
    assert found.count("expected") == 1


def test_archives_workbooks_and_databases_are_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.jsonl", "w") as file:
        file.writestr("rows.jsonl", JSONL)
    with zipfile.ZipFile(tmp_path / "b.csv", "w") as file:
        file.writestr("[Content_Types].xml", "<Types/>")
    with sqlite3.connect(tmp_path / "c.json") as database:
        database.execute("create table t (a)")
    database.close()
    assert "found a zip archive.\n  Unpack it first." in told(tmp_path / "a.jsonl")
    assert "found an Excel or other Office file.\n  Save it as CSV" in told(tmp_path / "b.csv")
    assert "found an SQLite database" in told(tmp_path / "c.json")


def test_parquet_is_read_under_any_name_and_nothing_else_under_its_own(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in ("a.jsonl", "a.csv", "a.txt", "a.parquet", "a"):
        pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / name)
        assert values(tmp_path / name) == ROWS, name
    (tmp_path / "b.parquet").write_text(JSONL)
    assert "expected a parquet file" in told(tmp_path / "b.parquet")


def test_a_table_named_as_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(CSV)
    assert "expected JSON objects, found a table.\n  Name the file .csv." in told(tmp_path / "a.jsonl")


# tables


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables_may_have_semicolons_or_tabs(mark: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(f' prompt {mark}completion\n"a, b; c\td"{mark}x\n')
    assert values(tmp_path / name) == [{"prompt": "a, b; c\td", "completion": "x"}]


def test_a_name_that_ends_in_tsv_means_tabs(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\none, two; three\n")
    assert values(tmp_path / "a.tsv") == [{"text": "one, two; three"}]
    (tmp_path / "b.tsv").write_text("text\ta, b, c\nx, y\tz\n")
    assert values(tmp_path / "b.tsv") == [{"text": "x, y", "a, b, c": "z"}]


def test_a_header_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\nprompt,completion, completion\nhi,ho,hu\n")
    found = told(tmp_path / "a.csv")
    assert "a.csv:2: expected a header that names each column once, found `completion` more than once" in found


def test_every_row_of_another_width_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion\na,b\n\nc\nd,e,f\n")
    found = told(tmp_path / "a.csv")
    assert "a.csv:4: expected 2 cells, as in the header, found 1" in found
    assert "1 more row has the same fault: 5." in found


def test_bytes_that_are_no_text_in_a_table_are_told_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text\n" + b"x\n" * 5000 + b"\xff\n")
    assert "a.csv:5002: expected UTF-8 text, found the byte 0xff" in told(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_bytes(b"text\nx\n\0\0\0\n")
    assert "b.csv:3: expected text, found a NUL byte" in told(tmp_path / "b.csv")


def test_a_table_of_old_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text\rx\r"y\rz"\r')
    assert values(tmp_path / "a.csv") == [{"text": "x"}, {"text": "y\rz"}]


# parquet


def parquet(path: Path, columns: dict[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


def test_absent_members_of_parquet_do_not_become_null_in_tool_calls(tmp_path: Path) -> None:
    call = [{"function": {"name": name, "arguments": arguments}} for name, arguments in
            (("f", {"city": "Rome"}), ("g", {"day": "Mon"}))]  # fmt: skip
    rows = [[*chat("q")["messages"], {"role": "assistant", "content": "a", "tool_calls": [each]}] for each in call]
    made = read_examples(DataSettings(path=str(parquet(tmp_path / "a.parquet", {"messages": rows})))).splits["train"]
    calls = [row.example.messages[1]["tool_calls"][0]["function"] for row in made]  # type: ignore[union-attr]
    assert calls == [{"name": "f", "arguments": {"city": "Rome"}}, {"name": "g", "arguments": {"day": "Mon"}}]


def test_columns_of_bytes_and_of_dictionaries_are_text(tmp_path: Path) -> None:
    import pyarrow as pa

    columns = {"prompt": pa.array([b"hi", "é".encode()]), "completion": pa.array(["a", "b"]).dictionary_encode()}
    found = values(parquet(tmp_path / "a.parquet", columns))
    assert found == [{"prompt": "hi", "completion": "a"}, {"prompt": "é", "completion": "b"}]
    turns = [[{"role": b"user", "content": b"q"}, {"role": b"assistant", "content": b"a"}]]
    assert values(parquet(tmp_path / "b.parquet", {"messages": turns})) == [chat("q", "a")]


@pytest.mark.parametrize(
    "column",
    [
        [1, 2],
        [1.5, float("nan")],
        [b"\xff", b"\xfe"],
        [[1], [2]],
        [{"a": 1}, {"a": 2}],
        ["2026-01-02", "2026-01-02"],
        [True, False],
    ],
    ids=["numbers", "nan", "bytes", "lists", "objects", "dates", "truth"],
)
def test_columns_that_are_no_text_are_refused(column: list[Any], tmp_path: Path) -> None:
    import pyarrow as pa

    made = pa.array(column).cast(pa.date32()) if isinstance(column[0], str) else pa.array(column)
    found = told(parquet(tmp_path / "a.parquet", {"prompt": ["a", "b"], "completion": made}))
    assert "`completion" in found
    assert "1 more row has the same fault: 2." in found


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"]), tmp_path / "a.parquet")
    assert "expected columns of different names, found `text` more than once" in told(tmp_path / "a.parquet")


# Arrow


def arrow(path: Path, columns: dict[str, Any], write: str, rows_a_batch: int = 2) -> Path:
    import pyarrow as pa

    table = pa.table(columns)
    with getattr(pa.ipc, f"new_{write}")(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return path


COLUMNS = {key: [row[key] for row in ROWS] for key in ROWS[0]}


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_gives_the_rows_of_all_its_batches_each_with_its_number(kind: str, tmp_path: Path) -> None:
    path = arrow(tmp_path / "a.arrow", COLUMNS, kind)
    assert values(path) == ROWS
    assert [str(raw.place) for raw in read(str(path)).splits["train"]] == [f"{path}:{row}" for row in (1, 2, 3)]
    long = arrow(tmp_path / "b.arrow", {"text": [str(row) for row in range(3000)]}, kind, 3000)
    assert [row["text"] for row in values(long)] == [str(row) for row in range(3000)]


def test_an_arrow_file_is_read_under_any_name(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet", "a"):
        assert values(arrow(tmp_path / name, COLUMNS, "file")) == ROWS, name


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_that_is_cut_off_anywhere_is_one_error(kind: str, tmp_path: Path) -> None:
    whole = arrow(tmp_path / "a.arrow", COLUMNS, kind).read_bytes()
    for length in range(1, len(whole), 8 if kind == "file" else 4):
        (tmp_path / "b.arrow").write_bytes(whole[:length])
        found = told(tmp_path / "b.arrow")
        assert f"{tmp_path / 'b.arrow'}: expected an Arrow file" in found, length
        assert found.count("expected") == 1


def test_columns_of_one_name_in_arrow_are_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_arrays([pa.array(["x"])] * 2, names=["text", "text"])
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert "expected columns of different names, found `text` more than once" in told(tmp_path / "a.arrow")


# folders and what is no file


def test_a_folder_with_one_data_file_of_any_name_is_that_file(tmp_path: Path) -> None:
    write(tmp_path / "my rows.JSONL", ROWS)
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "._train.jsonl").write_bytes(b"\0\5\x16\7")  # which macOS leaves on other disks
    assert values(tmp_path) == ROWS


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev", "eval", "Val", "val-00000-of-00001"])
def test_validation_files_are_known_by_every_usual_name(name: str, tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / f"{name}.jsonl", ROWS[:1])
    made = loaded(tmp_path, tokenizer())
    assert (len(made.train), len(made.valid)) == (3, 1)


def test_the_parts_of_a_split_are_read_in_turn_and_all_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for number in range(3):
        write(folder / f"train-{number:05}-of-00003.jsonl", ROWS[number : number + 1])
    assert values(tmp_path) == ROWS
    (folder / "train-00001-of-00003.jsonl").unlink()
    assert "expected every part of the train rows once, found 2 of 3" in told(tmp_path)
    write(folder / "train.jsonl", ROWS)
    assert "expected one train file, found both" in told(tmp_path)


def test_data_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name in ("train", "extra", "more"):
        write(tmp_path / f"{name}.jsonl", ROWS)
    assert "Not read beside the rows: extra.jsonl, more.jsonl." in loaded(tmp_path, tokenizer()).notes


def test_pipes_sockets_devices_and_broken_links_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "ring.jsonl").symlink_to(tmp_path / "ring.jsonl")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "socket.jsonl"))
    listening.close()
    assert "found a pipe.\n  Write the rows to a file" in told(tmp_path / "pipe.jsonl")
    assert "found a socket" in told(tmp_path / "socket.jsonl")
    assert "found a device" in told(Path("/dev/null"))
    for name in ("link.jsonl", "ring.jsonl"):
        assert "found a link to nothing" in told(tmp_path / name)
    folder = tmp_path / "folder"
    folder.mkdir()
    os.mkfifo(folder / "train.jsonl")
    assert "found a pipe" in told(folder)


@pytest.mark.parametrize("path", ["~nosuchuser/rows.jsonl", "x" * 5000, "a\0b.jsonl", "owner/na\nme", "rows.jsonl/x"])
def test_paths_that_cannot_be_are_nothing(path: str) -> None:
    with pytest.raises(BadData, match="found nothing of that name"):
        read(path)


def test_a_broken_training_file_hides_no_fault_of_the_validation_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(gzip.compress(b"x"))
    (tmp_path / "valid.jsonl").write_bytes(b"%PDF-1")
    found = told(tmp_path)
    assert "train.jsonl: expected a data file, found a gzip file" in found
    assert "valid.jsonl: expected a data file, found a PDF document" in found


def test_bad_rows_before_a_fault_of_syntax_are_told_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": 3},\n{"text": "x"},\noops]')
    found = told(tmp_path / "a.json")
    assert "a.json:3: expected JSON objects, found `oops]`" in found
    assert "a.json:1: expected text under `text`, found the number 3" in found


def test_a_text_beside_the_only_data_file_is_its_licence_and_one_with_a_nul_is_none(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "LICENSE.txt").write_text("a licence")
    assert values(tmp_path) == ROWS
    assert "Not read beside the rows: LICENSE.txt." in loaded(tmp_path, tokenizer()).notes
    (tmp_path / "LICENSE.txt").write_text("a\nb\0c")
    assert "LICENSE.txt:2: expected text, found a NUL byte" in told(tmp_path / "LICENSE.txt")


def test_rows_that_share_a_line_are_told_apart_by_their_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "x"}, {"text": "y"}, {"text": 3}, {"text": 4},\n{"text": 5}]')
    found = told(tmp_path / "a.json")
    assert "a.json:1 (row 3): expected text under `text`, found the number 3" in found
    assert "2 more rows have the same fault: 1 (row 4), 2." in found


@pytest.mark.parametrize("text", [JSONL, JSONL.splitlines()[0]])
def test_rows_named_as_text_are_named_and_text_that_begins_like_them_is_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    assert "expected text, found JSON objects.\n  Name the file .jsonl." in told(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_text('{"a": 1}\nis an object', encoding="utf-8")
    assert values(tmp_path / "b.txt")[0].text == '{"a": 1}\nis an object'


LARGE = {
    "a header of spaces": b"a" + b" " * 500_000 + b"!\n",
    "a header of columns": b"a ,b" * 200_000 + b"!\n",
    "very many keys": b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b',"7":0}',
    "very many turns": json.dumps({"prompt": "q", "completion": "", "history": [["q", "a"]] * 50_000}).encode(),
    "very many lines": b"x\n" * 200_000,
    "very many elements": b"[" + b"{}," * 200_000 + b"{}]",
}


@pytest.mark.parametrize("data", all_but(set(LARGE) - {"very many elements", "very many lines"}, LARGE))
def test_no_file_takes_more_than_moments_for_its_size(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    began = time.process_time()
    told(tmp_path / "a.jsonl")
    assert time.process_time() - began < 10


def test_a_key_twice_in_a_row_that_is_no_json_is_a_fault_of_syntax(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": {"a": 1, "a": 2},\n oops}]')
    assert "a.json:2: expected JSON objects, found `oops}]`" in told(tmp_path / "a.json")
