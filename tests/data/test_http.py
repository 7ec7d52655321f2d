"""Files by HTTP: the same rows, or one message that says what became of the connection and never a secret."""

import gzip
import io
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.files import Sources, read
from mlxtune.data.remote import file as remote_file
from mlxtune.data.remote import http
from mlxtune.data.settings import DataSettings
from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.recipe.recipe import as_yaml, build
from tests.support.data import told
from tests.support.http import Site, serve
from tests.support.token_store import kept
from tests.support.tokenizers import tokenizer

ROWS = [{"prompt": f"row {number} é", "completion": "x" * (number % 70 + 1)} for number in range(4000)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
assert len(JSONL) > 3 * remote_file.HEAD


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A server with one file, whose faults are tried again without waiting."""
    monkeypatch.setattr(remote_file, "PAUSES", (0, 0, 0))
    with serve(Site({"rows.jsonl": JSONL})) as there:
        yield there


@contextmanager
def a_new_client() -> Iterator[None]:
    """With the settings that stand now, for the block alone."""
    http._client().close()
    http._client.cache_clear()
    try:
        yield
    finally:
        http._client().close()
        http._client.cache_clear()


def values(source: Sources) -> list[Any]:
    return [raw.value for raw in source.splits["train"]]  # type: ignore[union-attr]


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), sink, row_group_size=1000)
    return sink.getvalue()


def test_a_file_gives_its_rows_in_one_request(site: Site) -> None:
    source = read(f"{site.url}/rows.jsonl")
    [*rows] = source.splits["train"]
    assert [raw.value for raw in rows] == ROWS  # type: ignore[union-attr]
    assert str(rows[2].place) == f"{site.url}/rows.jsonl:3"
    assert rows[2].place.short == "rows.jsonl:3"
    assert site.asked == [("/rows.jsonl", "")]


def test_rows_come_before_the_file_has_ended(site: Site) -> None:
    site.files["rows.jsonl"] = JSONL * 100
    assert next(read(f"{site.url}/rows.jsonl").splits["train"]).value == ROWS[0]  # type: ignore[union-attr]
    assert site.sent < len(JSONL) * 100


@pytest.mark.parametrize("knows_ranges", [True, False])
@pytest.mark.parametrize("ending", ["", ".gz"])
@pytest.mark.parametrize("name", ["a.parquet", "a.json", "a.csv", "a.txt"])
def test_every_format_is_read_whatever_the_server_knows(
    name: str, ending: str, knows_ranges: bool, site: Site, tmp_path: Path
) -> None:
    site.knows_ranges = knows_ranges
    table = "prompt,completion\n" + "".join(f"{row['prompt']},{row['completion']}\n" for row in ROWS)
    data = {".parquet": parquet(), ".json": json.dumps(ROWS).encode(), ".csv": table.encode(), ".txt": table.encode()}
    body = data[Path(name).suffix]
    site.files[name + ending] = gzip.compress(body) if ending else body
    (tmp_path / name).write_bytes(body)
    assert values(read(f"{site.url}/{name}{ending}")) == values(read(str(tmp_path / name)))


@pytest.mark.parametrize("cuts", [[10], [remote_file.HEAD], [100_000, 3], [200_000, 0, 5, 7]])
def test_a_connection_that_is_cut_goes_on_from_where_it_was(cuts: list[int], site: Site) -> None:
    site.cuts[:] = cuts
    assert values(read(f"{site.url}/rows.jsonl")) == ROWS
    assert len(site.asked) > 1
    if cuts[0] >= remote_file.HEAD:
        assert site.asked[1][1] == f"bytes={cuts[0]}-"


def test_a_connection_that_is_cut_again_and_again_is_one_message_with_both_sizes(site: Site) -> None:
    site.cuts[:] = [100_000] + [0] * 10
    found = told(f"{site.url}/rows.jsonl")
    assert (
        f"{site.url}/rows.jsonl: expected {len(JSONL):,} bytes, found 100,000 and then the connection was cut.\n"
        in found
    )
    assert "Try again later, or fetch the file first and name the copy." in found
    assert len(site.asked) == 4


@pytest.mark.parametrize("cuts", [[0] * 9, [remote_file.HEAD, *[0] * 9], [remote_file.HEAD, 10_000, *[0] * 9]])
def test_a_table_whose_parts_do_not_come_is_one_message(cuts: list[int], site: Site) -> None:
    site.files["a.parquet"] = parquet() * 8  # more than its head
    site.cuts[:] = cuts
    assert "a.parquet: expected" in (found := told(f"{site.url}/a.parquet"))
    assert "the connection was cut" in found


def test_a_server_that_cannot_go_on_from_the_middle_is_told_so(site: Site) -> None:
    site.knows_ranges, site.cuts[:] = False, [100_000]
    found = told(f"{site.url}/rows.jsonl")
    assert f"expected {len(JSONL):,} bytes, found 100,000 and then" in found
    assert "the server cannot go on from there" in found


def test_a_file_that_changes_between_two_connections_is_no_file(site: Site) -> None:
    site.cuts[:] = [100_000]
    rows = read(f"{site.url}/rows.jsonl").splits["train"]
    next(rows)
    site.files["rows.jsonl"] = JSONL[:-10] + b"          "
    with pytest.raises(MlxtuneError, match="expected a file that stays as it is while it is read"):
        list(rows)


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "expected a file that may be read, found that the server refuses it (HTTP status 401)"),
        (403, "expected a file that may be read, found that the server refuses it (HTTP status 403)"),
        (404, "expected a file, found nothing of that name (HTTP status 404)"),
        (410, "expected a file, found nothing of that name (HTTP status 410)"),
        (418, "expected a file that can be read, found HTTP status 418"),
    ],
)
def test_a_refusal_is_one_message(status: int, words: str, site: Site) -> None:
    site.statuses[:] = [status]
    assert words in told(f"{site.url}/rows.jsonl")
    assert len(site.asked) == 1


def test_a_busy_server_is_asked_again(site: Site) -> None:
    site.statuses[:] = [503, 429, 500]
    assert values(read(f"{site.url}/rows.jsonl")) == ROWS
    site.statuses[:] = [503] * 10
    assert "found a server that cannot answer now (HTTP status 503)" in told(f"{site.url}/rows.jsonl")


def test_no_connection_and_no_such_host_are_one_message(site: Site) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/rows.jsonl"
    assert "expected a file that can be read, found no connection (" in told(nobody)
    assert "expected a file that can be read, found no connection (" in told("http://no-such-host.invalid/rows.jsonl")
    assert site.asked == []


def test_a_server_that_is_silent_is_told_with_how_long_was_waited(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SILENCE", 0.05)
    site.waits = 0.5
    with a_new_client():
        assert "expected a file that can be read, found no answer for 0 s" in told(f"{site.url}/rows.jsonl")


@pytest.mark.parametrize("path", ["", "/", "/folder/", "/part-*.jsonl"])
def test_what_http_cannot_list_is_refused(path: str, site: Site) -> None:
    assert "expected a file's URL, found" in told(site.url + path)
    assert site.asked == []


def test_an_empty_file_and_a_page_that_is_no_data_are_told(site: Site) -> None:
    site.files.update({"empty.jsonl": b"", "a.jsonl": b"<!DOCTYPE html>\n<p>Log in", "a.bin": b"x"})
    assert "empty.jsonl: expected at least one row, found an empty file" in told(f"{site.url}/empty.jsonl")
    assert "a.jsonl: expected a data file, found a page of HTML" in told(f"{site.url}/a.jsonl")
    assert "a.bin: expected a file that ends in one of .jsonl" in told(f"{site.url}/a.bin")


def test_a_compressed_file_that_is_cut_off_is_one_message(site: Site) -> None:
    site.files["a.jsonl.gz"] = gzip.compress(JSONL)[:-100]
    assert "a.jsonl.gz: expected a gzip file that is whole, found one that is cut off" in told(f"{site.url}/a.jsonl.gz")


# secrets

SIGNED = "X-Amz-Signature=5eC7e7&X-Amz-Credential=5eC7e7%2Fus&sig=5eC7e7&token=5eC7e7&Signature=5eC7e7&Policy=5eC7e7"


def test_a_signature_is_sent_and_never_shown(site: Site) -> None:
    url = f"{site.url}/rows.jsonl?day=3&{SIGNED}"
    source = read(url)
    assert str(next(source.splits["train"]).place) == f"{site.url}/rows.jsonl?day=3:1"
    assert site.asked[0][0] == f"/rows.jsonl?day=3&{SIGNED}"
    site.statuses[:] = [403]
    assert "5eC7e7" not in told(url)
    site.files["rows.jsonl"] = b"bad\n"
    assert "5eC7e7" not in told(url)
    assert f"{site.url}/rows.jsonl?day=3:1: expected a JSON object" in told(url)


@pytest.mark.parametrize(
    "url", ["http://me:5eC7e7@HOST/rows.jsonl", "s3://5eC7e7:x@bucket/a.csv", "http://5eC7e7@h/a.csv"]
)
def test_a_user_and_a_password_in_a_url_are_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="without a user and a password") as caught:
        DataSettings(path=url)
    assert "5eC7e7" not in str(caught.value)
    with pytest.raises(BadSetting, match="without a user and a password") as refused:
        read(url)
    assert "5eC7e7" not in str(refused.value)


def test_a_password_of_netrc_is_for_its_host_alone(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password pw\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    with a_new_client():
        assert values(read(f"{site.url}/rows.jsonl")) == ROWS
        assert "Authorization" in site.headers[-1]
        assert values(read(f"{site.url.replace('127.0.0.1', 'localhost')}/rows.jsonl")) == ROWS
        assert "Authorization" not in site.headers[-1]


def test_a_token_is_not_sent_on_to_another_server(site: Site) -> None:
    with serve(Site(sends_to=site.url)) as first:
        url, headers = f"{first.url}/rows.jsonl", {"Authorization": "Bearer 5eC7e7"}
        file = remote_file.Remote(url, "rows.jsonl", http.Http(url, url, lambda: headers))
        with file.open() as stream:
            assert stream.read() == JSONL
        assert first.headers[0]["Authorization"] == "Bearer 5eC7e7"
        assert "Authorization" not in site.headers[0]


# identity


def test_a_file_is_known_by_its_etag_else_by_when_it_changed_else_by_its_bytes(site: Site) -> None:
    url = f"{site.url}/rows.jsonl"
    found = []
    for site.says_etag, site.says_changed in ((True, True), (False, True), (False, False)):
        source = read(url)
        found.append(source.identity())
        assert read(url).identity() == found[-1]
        assert values(source) == ROWS
        assert bool(source.notes()) == (not site.says_changed)
    assert len(set(found)) == 3
    site.files["rows.jsonl"] = JSONL.replace(b"row 7 ", b"row 8 ")
    for site.says_etag, number in ((True, 0), (False, 2)):
        assert read(url).identity() != found[number]


def test_a_file_of_unknown_size_is_read_to_its_end(site: Site) -> None:
    site.says_length = False
    site.files["a.parquet"] = parquet()
    assert values(read(f"{site.url}/rows.jsonl")) == values(read(f"{site.url}/a.parquet")) == ROWS


def test_what_has_no_name_for_its_content_is_fetched_once_and_leaves_nothing(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path))
    site.says_etag = False
    source = read(f"{site.url}/rows.jsonl")
    source.identity()
    assert values(source) == ROWS
    assert source.notes() == (
        f"{site.url}/rows.jsonl: the server does not say when it changes, so it was fetched whole, and hashed.",
    )
    assert len(site.asked) == 2  # for what it says, and for the file
    assert list(tmp_path.iterdir()) == []


def test_a_signature_is_in_no_name_and_no_file_of_the_cache(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    signed = f"{site.url}/rows.jsonl?X-Amz-Signature=5eC7e7&day=3"
    store = kept(DataSettings(path=signed, max_rows=9), tokenizer()).store
    assert len(store) == 9
    everything = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert everything
    assert not any("5eC7e7" in str(path) or b"5eC7e7" in path.read_bytes() for path in everything)


@pytest.mark.parametrize("key", ["data.path", "data.valid"])
def test_a_signature_is_in_no_recipe_that_is_written(key: str, site: Site) -> None:
    recipe = build({}, {key: f"{site.url}/rows.jsonl?X-Amz-Signature=5eC7e7"})
    assert f"{site.url}/rows.jsonl" in as_yaml(recipe)
    assert "5eC7e7" not in as_yaml(recipe)


def test_a_url_with_a_password_is_refused_under_the_setting_that_has_it() -> None:
    with pytest.raises(BadSetting, match=r"^data\.valid: expected a URL without a user and a password"):
        build({}, {"data.valid": "https://me:5eC7e7@host/a.jsonl"})
