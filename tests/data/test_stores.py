"""Files of S3 and Google's storage are read as those of a folder on this machine: the same rows, splits and faults."""

import asyncio
import gzip
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlxtune.data.files import read
from mlxtune.data.remote import file as remote_file
from mlxtune.data.remote import objects
from mlxtune.errors import Missing, MlxtuneError
from tests.support import stores
from tests.support.data import told as message
from tests.support.data import write
from tests.support.http import Site, serve

BUCKET = stores.BUCKET
SHARDS = {
    f"train-{number:05d}-of-00005": "".join(f'{{"text": "{number} {row} é"}}\n' for row in range(40)).encode()
    for number in range(5)
}
KINDS = ("s3", "gs")


def zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor().compress(data))


PACK: dict[str, Any] = {"": bytes, ".gz": gzip.compress, ".zst": zstd}


class Store:
    """One of the two, with a bucket to put files in."""

    def __init__(self, scheme: str) -> None:
        self.scheme, self.system = scheme, objects._made(scheme)
        self.system.mkdir(BUCKET)

    def put(self, name: str, data: bytes) -> None:
        self.system.pipe(f"{BUCKET}/{name}", data)

    def url(self, name: str) -> str:
        return f"{self.scheme}://{BUCKET}/{name}"


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    kept = dict(os.environ)
    with getattr(stores, {"s3": "s3", "gs": "gcs"}[request.param])() as environment:
        os.environ.update(environment)
        objects._made.cache_clear()
        try:
            yield Store(request.param)
        finally:
            objects._made.cache_clear()
            os.environ.clear()
            os.environ.update(kept)


def texts(path: str, split: Any = "train") -> list[str]:
    return [raw.value["text"] for raw in read(path).splits[split]]  # type: ignore[union-attr, index, call-overload]


def told(path: str) -> str:
    said = message(path)
    assert "5eC7e7" not in said
    return said


@pytest.mark.parametrize("ending", PACK)
def test_a_set_of_five_shards_gives_the_same_rows_from_everywhere(ending: str, store: Store, tmp_path: Path) -> None:
    folder = f"set{ending}"
    (tmp_path / folder).mkdir()
    for name, data in SHARDS.items():
        packed = PACK[ending](data)
        (tmp_path / folder / f"{name}.jsonl{ending}").write_bytes(packed)
        store.put(f"{folder}/{name}.jsonl{ending}", packed)
    here = texts(str(tmp_path / folder))
    assert len(here) == 200
    for path in (folder, f"{folder}/", f"{folder}/train-*"):
        assert texts(store.url(path)) == here
    site = Site({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()})
    with serve(site):
        assert [row for name in SHARDS for row in texts(f"{site.url}/{name}.jsonl{ending}")] == here


def test_a_row_has_its_url_and_the_line(store: Store) -> None:
    store.put("place/train.jsonl", b'{"text": "x"}\nbad\n')
    assert [raw.place.short for raw in read(store.url("place")).splits["train"]] == ["train.jsonl:1", "train.jsonl:2"]
    assert f"{store.url('place/train.jsonl')}:2: expected a JSON object, found `bad`" in told(store.url("place"))


def test_splits_and_what_is_beside_them_are_those_of_a_local_folder(store: Store, tmp_path: Path) -> None:
    row = b'{"text": "x"}\n'
    for name in ("train-1.jsonl", "train-2.jsonl", "valid.jsonl", "test.jsonl", "notes.txt", "README.md"):
        store.put(f"splits/{name}", row)
        (tmp_path / name).write_bytes(row)
    there, here = read(store.url("splits")), read(str(tmp_path))
    assert there.unread == here.unread == ("notes.txt",)
    assert {split: len([*rows]) for split, rows in there.splits.items()} == {"train": 2, "valid": 1, "test": 1}
    store.put("hub/data/train.jsonl", row)
    assert texts(store.url("hub")) == ["x"]


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00003.jsonl", "train-00002-of-00003.jsonl"),
        ("train.jsonl", "train-1.jsonl"),
        ("valid.jsonl", "validation.jsonl"),
        ("more.jsonl", "trian.jsonl"),
    ],
)
def test_a_folder_is_refused_as_a_local_one_is(names: tuple[str, ...], store: Store, tmp_path: Path) -> None:
    folder = "-".join(names)
    for name in names:
        store.put(f"{folder}/{name}", b'{"text": "x"}\n')
        write(tmp_path / name, [{"text": "x"}])
    assert told(store.url(folder)) == told(str(tmp_path)).replace(str(tmp_path), store.url(folder))


def test_patterns_match_as_on_this_machine(store: Store) -> None:
    for name in ("p/part-10.jsonl", "p/part-9.jsonl", "p/other.jsonl", "q/part-1.jsonl"):
        store.put(f"patterns/{name}", f'{{"text": "{name}"}}\n'.encode())
    assert texts(store.url("patterns/p/part-*")) == ["p/part-9.jsonl", "p/part-10.jsonl"]
    assert texts(store.url("patterns/*/part-?.jsonl")) == ["p/part-9.jsonl", "q/part-1.jsonl"]
    assert "expected a pattern that matches a file, found no match" in told(store.url("patterns/none-*"))


def test_parquet_is_read_from_its_end_in_parts(store: Store, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"row {number}"} for number in range(5000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    store.put("table/train.parquet", (tmp_path / "train.parquet").read_bytes())
    assert texts(store.url("table")) == [row["text"] for row in rows]


def test_nothing_of_a_name_and_no_bucket_are_one_message(store: Store) -> None:
    assert "expected a file or a folder of files, found nothing of that name" in told(store.url("none.jsonl"))
    assert "found no bucket `nobucket`" in told(f"{store.scheme}://nobucket/x.jsonl")
    store.put("empty.jsonl", b"")
    assert "empty.jsonl: expected at least one row, found an empty file" in told(store.url("empty.jsonl"))


def test_content_is_known_without_reading_it_and_told_apart(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("known/train.jsonl", b'{"text": "x"}\n')
    with monkeypatch.context() as patched:
        patched.setattr(objects._Object, "part", None)
        first = read(store.url("known")).identity()
        assert read(store.url("known/")).identity() == first
    store.put("known/train.jsonl", b'{"text": "y"}\n')
    assert read(store.url("known")).identity() != first
    assert read(store.url("known")).notes() == ()


def test_a_file_that_changes_while_it_is_read_is_refused(store: Store) -> None:
    store.put("changing.jsonl", b'{"text": "x"}\n')
    rows = read(store.url("changing.jsonl")).splits["train"]
    store.put("changing.jsonl", b'{"text": "y"}\n')
    with pytest.raises(MlxtuneError, match="expected a file that stays as it is while it is read"):
        list(rows)


@pytest.mark.parametrize(("scheme", "package", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_store_without_its_package_says_how_to_install_it(
    scheme: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects._made.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.core", None)
    with pytest.raises(Missing, match=rf'the package {package} to read .*\n.*pip install "mlxtune\[{extra}\]"'):
        read(f"{scheme}://bucket/x.jsonl")
    objects._made.cache_clear()


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A store that answers nothing but statuses."""
    pytest.importorskip("s3fs")
    pytest.importorskip("gcsfs")
    monkeypatch.setattr(remote_file, "PAUSES", (0, 0, 0))
    monkeypatch.setattr(objects, "TRIES", 1)
    monkeypatch.setattr(
        "gcsfs.retry.asyncio", SimpleNamespace(sleep=lambda _: asyncio.sleep(0))
    )  # half a minute in all
    with serve(Site()) as site:
        for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
            monkeypatch.setenv(name, site.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "5eC7e7")
        objects._made.cache_clear()
        yield site
        objects._made.cache_clear()


@pytest.mark.parametrize("path", ["x.jsonl", "folder/", "part-*"])
@pytest.mark.parametrize("scheme", KINDS)
def test_a_store_that_refuses_says_where_credentials_come_from(scheme: str, path: str, refusing: Site) -> None:
    refusing.statuses[:] = [403] * 20
    found = told(f"{scheme}://bucket/{path}")
    assert "expected a file or folder that may be read, found that the store refuses it (`" in found
    assert {"s3": "AWS_ACCESS_KEY_ID", "gs": "GOOGLE_APPLICATION_CREDENTIALS"}[scheme] in found


@pytest.mark.slow
@pytest.mark.parametrize("scheme", KINDS)
def test_a_store_that_is_out_of_reach_is_one_message(
    scheme: str, refusing: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing.statuses[:] = [500] * 50
    assert "expected an answer of the store, found " in told(f"{scheme}://bucket/x.jsonl")
    for name in ("AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    objects._made.cache_clear()
    assert "expected an answer of the store, found " in told(f"{scheme}://bucket/x.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", KINDS)
def test_a_store_that_is_silent_is_one_message(scheme: str, refusing: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "SILENCE", 0.2)
    refusing.waits = 0.5
    assert "imeout" in told(f"{scheme}://bucket/x.jsonl")


def test_without_credentials_it_is_said_where_they_come_from(refusing: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = told("s3://bucket/x.jsonl")
    assert "expected credentials for the store, found `Unable to locate credentials`" in found
    assert "FSSPEC_S3_ANON=true" in found
    assert refusing.asked == []
