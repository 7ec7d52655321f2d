"""What is compressed gives the rows of what it holds, whole, or one message."""

import bz2
import gzip
import json
import lzma
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.files import read
from mlxtune.data.readers import compression
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadData, Missing, MlxtuneError
from tests.support.data import read as read_examples

ROWS = [{"prompt": f"one {place} é", "completion": "x" * (place % 7 + 1)} for place in range(2000)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data))


PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}
MEMORY = {".gz": 2**20, ".bz2": 2**20, ".xz": 2**24, ".zst": 40 * 2**20}  # bytes: xz has a window, zstd a whole piece
every_ending = pytest.mark.parametrize("ending", PACK)


def values(path: Path) -> list[Any]:
    return [raw.value for raw in read(str(path)).splits["train"]]  # type: ignore[union-attr]


def told(path: Path) -> str:
    with pytest.raises(MlxtuneError) as caught:
        read_examples(DataSettings(path=str(path)))
    assert caught.value.exit_code == 2
    assert str(caught.value).count("expected") == 1
    return str(caught.value)


def _table(kind: str) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        with getattr(pa.ipc, f"new_{kind}")(sink, table.schema) as writer:
            writer.write_table(table)
    return bytes(sink.getvalue())


PLAIN: dict[str, Callable[[], bytes]] = {
    "lines.jsonl": lambda: JSONL,
    "list.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "wide.jsonl": lambda: b"\xff\xfe" + JSONL.decode().encode("utf-16-le"),
    "marked.csv": lambda: b"\xef\xbb\xbf" + CSV.encode(),
    "tabs.tsv": lambda: CSV.replace(",", "\t").encode(),
    "text.txt": lambda: "Einmal war eine Maus.\r\nÜber ihr\n".encode() * 5000,
    "table.parquet": lambda: _table("parquet"),
    "file.arrow": lambda: _table("file"),
    "stream.arrow": lambda: _table("stream"),
}


@every_ending
@pytest.mark.parametrize("name", PLAIN)
def test_a_compressed_file_gives_the_rows_of_the_plain_one(name: str, ending: str, tmp_path: Path) -> None:
    data = PLAIN[name]()
    (tmp_path / name).write_bytes(data)
    (tmp_path / f"{name}{ending}").write_bytes(PACK[ending](data))
    assert values(tmp_path / f"{name}{ending}") == values(tmp_path / name)


@every_ending
def test_rows_and_faults_have_the_lines_of_the_text(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](JSONL + b"\nbad\n"))
    assert f"{path}:2002: expected a JSON object, found `bad`" in told(path)


@every_ending
def test_several_streams_in_a_file_are_all_read(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](JSONL[:5000]) + PACK[ending](b"") + PACK[ending](JSONL[5000:]) + bytes(512))
    assert values(path) == ROWS


@every_ending
def test_a_file_that_is_cut_off_is_one_message_and_no_row(ending: str, tmp_path: Path) -> None:
    path, whole = tmp_path / f"rows.jsonl{ending}", PACK[ending](b"bad\n" + JSONL)
    for length in (1, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        found = told(path)
        assert f"{path}: expected {compression.COMPRESSIONS[ending].name}" in found
        assert length < 12 or f"found one that is cut off after {length:,} bytes" in found


@every_ending
def test_a_file_that_is_damaged_is_one_message(ending: str, tmp_path: Path) -> None:
    path, whole = tmp_path / f"rows.jsonl{ending}", PACK[ending](JSONL)
    for place in range(len(whole) // 4, len(whole) - 12, len(whole) // 5):
        path.write_bytes(whole[:place] + bytes(byte ^ 0x55 for byte in whole[place : place + 12]) + whole[place + 12 :])
        assert f"{path}: expected {compression.COMPRESSIONS[ending].name} that is whole, found one" in told(path)


@every_ending
def test_what_stands_behind_the_last_stream_is_never_dropped(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](JSONL) + b'{"text": "more rows, as plain text"}\n')
    assert "that is whole, found one that is damaged near byte" in told(path)


@every_ending
def test_a_file_is_what_its_ending_says(ending: str, tmp_path: Path) -> None:
    path, name = tmp_path / f"rows.jsonl{ending}", compression.COMPRESSIONS[ending].name
    path.write_bytes(JSONL)
    assert f"{path}: expected {name}, found something else.\n  Name the file as what it is." in told(path)
    other = ".bz2" if ending == ".gz" else ".gz"
    path.write_bytes(PACK[other](JSONL))
    assert f"expected {name}, found {compression.COMPRESSIONS[other].name}" in told(path)
    path.write_bytes(b"")
    assert f"expected {name}, found an empty file" in told(path)


def test_what_is_compressed_is_known_as_plain_files_are(tmp_path: Path) -> None:
    for name, data, found in (
        ("a.jsonl.gz", b"%PDF-1.7\n", "expected a data file, found a PDF document"),
        ("a.jsonl.gz", gzip.compress(JSONL), "expected a data file, found a gzip file"),
        ("a.jsonl.gz", b"", "expected at least one row, found a file without any"),
        ("a.xlsx.gz", b"x", "found `.xlsx`"),
        ("a.gz", b"x", "found `a`"),
        ("a.txt.gz", b"ok\n\xff", "a.txt.gz:2: expected UTF-8 text"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(data))
        assert found in told(tmp_path / name)


def test_a_gzip_file_under_the_name_of_a_plain_one_is_told_how_it_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(JSONL))
    assert "found a gzip file.\n  Unpack it first, or let its name end in .gz" in told(tmp_path / "a.jsonl")


@every_ending
def test_a_bomb_is_refused_in_little_memory(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.jsonl{ending}"
    path.write_bytes(PACK[ending](b"{}\n" * 8_000_000))
    tracemalloc.start()
    try:
        found = told(path)
        assert tracemalloc.get_traced_memory()[1] < MEMORY[ending]
    finally:
        tracemalloc.stop()
    assert f"{path}: expected at most " in found
    assert "when unpacked, 100 times its size, found more.\n  Unpack it first" in found


def test_small_files_may_shrink_as_they_like_and_large_ones_by_a_hundred(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"x" * (compression.SLACK - 1)))
    assert len(values(path)[0].text) == compression.SLACK - 1
    path.write_bytes(gzip.compress(b"x" * (2 * compression.SLACK)))
    assert "found more" in told(path)


def test_an_xz_file_that_asks_for_a_huge_window_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    packer = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    (tmp_path / "a.jsonl.xz").write_bytes(packer.compress(JSONL) + packer.flush())
    assert "Memory usage limit exceeded" in told(tmp_path / "a.jsonl.xz")


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python has a module of its own")
def test_without_zstandard_it_is_said_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(40))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(Missing, match=r'package zstandard to read .*a\.jsonl\.zst.*\n.*pip install "mlxtune\[data\]"'):
        values(tmp_path / "a.jsonl.zst")


@every_ending
def test_the_files_of_a_folder_may_be_compressed(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"train.jsonl{ending}").write_bytes(PACK[ending](JSONL))
    (tmp_path / "valid.csv").write_text(CSV)
    splits = read(str(tmp_path)).splits
    assert {split: len(list(rows)) for split, rows in splits.items()} == {"train": 2000, "valid": 2000}


def test_one_split_plain_and_compressed_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(JSONL)
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(JSONL))
    with pytest.raises(BadData, match=r"expected one train file, found both train\.jsonl and train\.jsonl\.gz"):
        read(str(tmp_path))
