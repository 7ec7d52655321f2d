"""Data sets of the hub: the files of a repository at one commit, by the card's patterns or by their names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mlxtune.data.files import read
from mlxtune.data.load import Reader
from mlxtune.data.load import read as read_rows
from mlxtune.data.remote import file as remote_file
from mlxtune.data.settings import DataSettings
from mlxtune.errors import MlxtuneError
from tests.support.data import told, write
from tests.support.hub import COMMIT, Hub, place_in_cache, serve, use, use_cache
from tests.support.tokenizers import tokenizer

NAME = "org/rows"
PINNED = f"hf://datasets/{NAME}@{COMMIT}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for each test, and no hub beyond this machine."""
    return use_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(remote_file, "PAUSES", ())
    (tmp_path / "repo").mkdir()
    with serve(Hub(NAME, tmp_path / "repo", "datasets")) as there:
        use(there, monkeypatch)
        yield there


def put(hub: Hub, *names: str) -> None:
    """Files of one row, their own name."""
    for name in names:
        write(hub.folder / name, [{"text": name}])


def card(hub: Hub, configs: Any) -> None:
    header = json.dumps({"license": "mit", "configs": configs})  # which is YAML
    (hub.folder / "README.md").write_text(f"---\n{header}\n---\n# Rows\n", encoding="utf-8")


def texts(path: str) -> dict[str, list[str]]:
    splits = read(path).splits
    return {split: [raw.value["text"] for raw in rows] for split, rows in splits.items()}  # type: ignore[union-attr, index, call-overload]


@pytest.mark.parametrize("path", [NAME, f"hf://datasets/{NAME}", f"hf://datasets/{NAME}@main", f"{PINNED}/", PINNED])
def test_shards_are_found_by_their_names_as_in_a_folder(path: str, hub: Hub) -> None:
    names = ["data/train-00000-of-00002.jsonl", "data/train-00001-of-00002.jsonl"]
    put(hub, *names, "data/validation-00000-of-00001.jsonl", "data/extra.jsonl", "dataset_infos.json", "README.md")
    source = read(path)
    assert texts(path) == {"train": names, "valid": ["data/validation-00000-of-00001.jsonl"]}
    assert source.unread == ("extra.jsonl",)
    assert source.pinned == PINNED


def test_rows_know_their_file_and_the_pinned_path_gives_them_again(hub: Hub) -> None:
    put(hub, "train.jsonl", "more/x.jsonl")
    source = read(f"hf://datasets/{NAME}/more")
    [raw] = source.splits["train"]
    assert (str(raw.place), raw.place.short) == (f"hf://datasets/{NAME}/more/x.jsonl:1", "x.jsonl:1")
    assert source.pinned == f"{PINNED}/more"
    assert texts(source.pinned) == texts(f"hf://datasets/{NAME}/more")


def test_parquet_is_read_in_parts(hub: Hub) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"row {number} {'x' * 8000}"} for number in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), hub.folder / "train.parquet", compression="none", use_dictionary=False)
    source = read(NAME)
    assert next(source.splits["train"]).value == rows[0]  # type: ignore[union-attr]
    size = (hub.folder / "train.parquet").stat().st_size
    assert hub.sent_bytes["train.parquet"] < 1.6 * size  # the whole, which was left at its head, and some parts
    assert [raw.value for raw in read(NAME).splits["train"]] == rows  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ("a/*.jsonl", {"train": ["a/1.jsonl", "a/2.jsonl", "a/10.jsonl"]}),
        (["a/1*.jsonl", "b/x.jsonl"], {"train": ["a/1.jsonl", "a/10.jsonl", "b/x.jsonl"]}),
        ({"train": "a/1.jsonl", "test": ["b/*"]}, {"train": ["a/1.jsonl"], "test": ["b/x.jsonl"]}),
        ([{"split": "train", "path": "**/x.jsonl"}], {"train": ["b/x.jsonl"]}),
        (
            [{"split": "train", "path": ["a/2.jsonl"]}, {"split": "validation", "path": "b/[x-z].{csv,jsonl}"}],
            {"train": ["a/2.jsonl"], "valid": ["b/x.jsonl"]},
        ),
    ],
)
def test_a_card_says_which_files_are_of_which_split(files: Any, expected: dict[str, list[str]], hub: Hub) -> None:
    put(hub, "a/1.jsonl", "a/2.jsonl", "a/10.jsonl", "b/x.jsonl")
    card(hub, [{"config_name": "default", "data_files": files}])
    assert texts(NAME) == expected


def test_of_several_configurations_one_is_named_or_the_default(hub: Hub) -> None:
    put(hub, "en/x.jsonl", "de/y.jsonl")
    german, english = ({"config_name": name, "data_files": f"{name}/*"} for name in ("de", "en"))
    card(hub, [german, english])
    found = told(NAME)
    assert f"hf://datasets/{NAME}: expected one of its configurations, found de, en." in found
    assert f"Name one: hf://datasets/{NAME}/de" in found
    assert texts(f"hf://datasets/{NAME}/en") == {"train": ["en/x.jsonl"]}
    card(hub, [german, {**english, "default": True}])
    assert texts(NAME) == {"train": ["en/x.jsonl"]}
    card(hub, [german, {**english, "data_dir": "en", "data_files": "*"}])
    assert texts(f"hf://datasets/{NAME}/en") == {"train": ["en/x.jsonl"]}


def test_splits_of_other_names_are_named_by_their_files(hub: Hub) -> None:
    put(hub, "data/train_sft-0.jsonl", "data/test_sft-0.jsonl")
    card(hub, [{"data_files": [{"split": f"{name}_sft", "path": f"data/{name}_sft-*"} for name in ("train", "test")]}])
    found = told(NAME)
    assert "expected one split of each kind, named train" in found
    assert "found train_sft, test_sft" in found
    assert f"Name the files of one: hf://datasets/{NAME}/data/train_sft-*" in found
    assert texts(f"hf://datasets/{NAME}/data/train_sft-*") == {"train": ["data/train_sft-0.jsonl"]}


def test_two_splits_of_one_kind_are_refused(hub: Hub) -> None:
    put(hub, "a.jsonl")
    card(hub, [{"data_files": {"valid": "a.jsonl", "validation": "a.jsonl"}}])
    assert "expected one split of each kind" in told(NAME)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("---\nconfigs: [\n---\n", "README.md:3: expected a card whose header is YAML"),
        (
            "---\nconfigs:\n- data_files: none/*\n---\n",
            "expected the files of train that its card names, found none that",
        ),
        ("---\nconfigs:\n- data_files: 3\n---\n", "expected one split of each kind"),
    ],
)
def test_a_card_that_is_no_good_is_one_message(header: str, words: str, hub: Hub) -> None:
    put(hub, "train.jsonl")
    (hub.folder / "README.md").write_text(header)
    assert words in told(NAME)


@pytest.mark.parametrize(
    "header", ["", "# Rows", "---\n- a\n---\n", "---\nconfigs: x\n---\n", "---\nconfigs: [x]\n---\n"]
)
def test_a_card_that_names_no_files_leaves_it_to_their_names(header: str, hub: Hub) -> None:
    put(hub, "train.jsonl")
    (hub.folder / "README.md").write_text(header)
    assert texts(NAME) == {"train": ["train.jsonl"]}


def test_what_is_not_there_is_told_with_what_is(hub: Hub) -> None:
    put(hub, "data/train.jsonl", "en/x.jsonl")
    found = told(f"hf://datasets/{NAME}/none")
    assert f"hf://datasets/{NAME}/none: expected a configuration, a file, a folder or a pattern of files in it" in found
    assert "it has data, en" in found
    assert "found train.txt" not in told(f"hf://datasets/{NAME}/none-*")


@pytest.mark.parametrize("path", ["hf://models/a/b", "hf://org/rows", "hf://datasets/rows", "hf://"])
def test_a_url_that_is_no_data_set_s_is_refused_before_the_hub_is_asked(path: str, hub: Hub) -> None:
    assert "expected hf://datasets/OWNER/NAME" in told(path)
    assert hub.asked == []


@pytest.mark.parametrize(
    ("refuses", "words", "remedy"),
    [
        ("RepoNotFound", "no data set of that name", "Check the spelling."),
        ("RevisionNotFound", "no such branch, tag or commit", "Leave the revision out"),
        ("GatedRepo", "that the hub refuses it", "Accept its terms"),
        (500, "", "HF_HUB_OFFLINE=1"),
    ],
)
def test_a_refusal_of_the_hub_is_one_message(refuses: str | int, words: str, remedy: str, hub: Hub) -> None:
    hub.refuses = refuses
    found = told(f"hf://datasets/{NAME}@v2")
    assert f"hf://datasets/{NAME}@v2: expected a data set of the hub, found {words}" in found
    assert remedy in found
    assert f"{NAME}: expected a file, a folder or a hub data set, found nothing of that name here" in told(NAME)


def test_no_network_is_one_message(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    assert "HF_HUB_OFFLINE=1 takes what is in the local cache" in told(NAME)
    assert hub.asked == []


def test_offline_the_copy_of_the_cache_is_read_and_has_the_same_identity(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(hub, "data/train.jsonl")
    online = read(NAME).identity()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "found nothing of that name here, and of the hub: no copy in the local cache" in told(NAME)
    write(place_in_cache(cache, NAME, "datasets") / "data" / "train.jsonl", [{"text": "data/train.jsonl"}])
    assert texts(NAME) == {"train": ["data/train.jsonl"]}
    assert (read(NAME).pinned, read(NAME).identity()) == (PINNED, online)


def test_content_is_known_by_the_commit_and_nothing_is_fetched_for_it(hub: Hub) -> None:
    put(hub, "train.jsonl", "other.jsonl")
    first = read(NAME).identity()
    assert hub.fetched == set()
    assert read(f"{PINNED}/train.jsonl").identity() == first
    assert read(f"{PINNED}/other.jsonl").identity() != first


def test_a_token_is_sent_to_the_hub_and_shown_nowhere(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    put(hub, "train.jsonl")
    monkeypatch.setenv("HF_TOKEN", "hf_5eC7e7")
    assert texts(NAME)
    source = read(NAME)
    hub.refuses = 403
    with pytest.raises(MlxtuneError) as caught:
        next(source.splits["train"])
    assert "that the server refuses it (HTTP status 403)" in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    assert "5eC7e7" not in str(caught.value)


def test_the_settings_of_what_was_read_name_the_commit(hub: Hub, tmp_path: Path) -> None:
    put(hub, "train.jsonl")
    other = str(write(tmp_path / "valid.jsonl", [{"text": "here"}]))
    reader = Reader(tokenizer())
    assert read_rows(DataSettings(path=NAME, valid=other), reader).wanted.settings.path == PINNED
    assert read_rows(DataSettings(path=other, valid=NAME), reader).wanted.settings.valid == PINNED
