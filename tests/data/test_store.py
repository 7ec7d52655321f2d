"""What a token store gives is what was put into it, or it says that it cannot; it is made once."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data import files
from mlxtune.data.dataset import Dataset
from mlxtune.data.load import Reader, load, prepare, read
from mlxtune.data.readers import formats
from mlxtune.data.rows import Maker, Wanted
from mlxtune.data.settings import DataSettings
from mlxtune.data.store.making import ABOUT
from mlxtune.data.token_rows import key_of
from tests.support.data import chat, loaded, write
from tests.support.token_store import everything, folder_of, kept, whole_rows
from tests.support.tokenizers import CHATML, tokenizer

TAIL = chat("question", "answer", "z" * 60)  # what lies behind the answer may be cut
ROWS: list[Any] = [
    {"text": "a text"},
    chat("q", "a"),
    {"question": "q", "answer": "a"},
    {"input": "q", "output": "b"},
    TAIL,
    {"text": "long " * 20},
    {"text": "a text"},
    chat("no answer"),
    {"prompt": "p", "completion": "c", "extra": "is not read"},
    TAIL,
]
BAD: list[Any] = [*ROWS[:3], {"prompt": 7}, "no row", *ROWS[3:]]
DOCUMENT = "\n".join(f"line {number}" + "." * (number % 7) for number in range(40))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def settings_of(path: Path, **settings: Any) -> DataSettings:
    return DataSettings(path=str(path), **settings)


def from_store(settings: DataSettings, made: Any, **wanted: Any) -> Dataset:
    return prepare(read(settings, Reader(made, open_tokenizer=lambda: made), **wanted), settings, seed=0)


def no_reader(_: object) -> Iterator[Any]:
    raise AssertionError("a row is read")


# the same rows


@pytest.mark.parametrize("skip_bad_rows", [False, True])
def test_rows_come_out_as_they_were_made(skip_bad_rows: bool, tmp_path: Path) -> None:
    settings = settings_of(write(tmp_path / "a.jsonl", BAD if skip_bad_rows else ROWS), skip_bad_rows=skip_bad_rows)
    raws = list(files.read(settings.path).splits["train"])
    wanted = Maker(Wanted(settings, frozenset()), tokenizer(CHATML)).make(raws).rows
    store = kept(settings, tokenizer(CHATML)).store
    assert list(whole_rows(store)) == [
        (row.tokens.tolist(), row.supervised.tolist(), row.place.short) for row in wanted
    ]
    assert len(wanted) == 9


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_seq_length": 60},
        {"min_tokens": 10},
        {"dedup": "exact"},
        {"max_rows": 4},
        {"max_seq_length": 60, "min_tokens": 9, "dedup": "exact", "valid_share": 0.3},
        {"loss_on": "all"},
    ],
)
def test_a_data_set_is_the_same_from_memory_and_from_a_store_new_and_old(
    settings: dict[str, Any], tmp_path: Path, cache: Path
) -> None:
    path, made = write(tmp_path / "a.jsonl", BAD), tokenizer(CHATML)
    settings = {"skip_bad_rows": True, **settings}
    wanted = everything(loaded(path, made, **settings))
    for _ in range(2):
        assert everything(from_store(settings_of(path, **settings), made)) == wanted
    assert wanted[0]
    assert wanted[2]
    assert len(list(cache.rglob(ABOUT))) == 1


def test_rows_of_both_splits_keep_to_their_own(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.jsonl", BAD)
    write(tmp_path / "data" / "valid.jsonl", [{"text": "valid"}, {"prompt": 7}, *ROWS[:2]])
    settings, made = settings_of(tmp_path / "data", skip_bad_rows=True), tokenizer(CHATML)
    wanted = everything(load(settings, made, seed=0))
    for _ in range(2):
        found = from_store(settings, made)
        assert everything(found) == wanted
    assert {row.source.partition(":")[0] for row in found.valid} == {"valid.jsonl"}
    assert [each.source for each in found.refused if "valid" in each.source] == ["valid.jsonl:2"]


def test_pairs_come_out_side_by_side(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    rows = [row, {**row, "rejected": "good"}, {**row, "chosen": "better" * 20}, row]
    settings, made = settings_of(write(tmp_path / "a.jsonl", rows), max_seq_length=60, valid_share=0.0), tokenizer()
    wanted = everything(load(settings, made, seed=0, pairs=True))
    assert [everything(from_store(settings, made, pairs=True)) for _ in range(2)] == [wanted] * 2
    assert [source[-1] for *_, source in wanted[0]] == ["1", "1", "4", "4"]


def test_windows_of_documents_know_their_lines(tmp_path: Path) -> None:
    """The oracle counts the ends of lines before a window's first byte, which is a token."""
    texts = {"a.txt": DOCUMENT, "b.txt": "one\n\ntwo\n" * 9, "c.txt": "no end of a line"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    length = 12
    settings = settings_of(tmp_path / "*.txt", max_seq_length=length, valid_share=0.0)
    for _ in range(2):
        found = from_store(settings, tokenizer())
        place = 0
        for name, text in texts.items():
            tokens = [*tokenizer()(text)["input_ids"], tokenizer().eos_token_id]
            for begin in range(0, len(tokens) - 1, length - 1):
                line = 1 + text[: max(0, begin - 1)].count("\n")
                assert found.train[place].tokens.tolist() == tokens[begin : begin + length]
                assert found.train[place].source == f"{name}:{line}"
                place += 1
        assert place == len(found.train)


@pytest.mark.parametrize("max_seq_length", [60, 2048])
def test_keys_lengths_and_losses_are_those_of_the_rows(max_seq_length: int, tmp_path: Path) -> None:
    """Of whole rows they are written down, of cut ones and of windows they are computed."""
    write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.txt").write_text(DOCUMENT)
    made = tokenizer(CHATML)
    rows = from_store(settings_of(tmp_path / "[ab].*", max_seq_length=max_seq_length, valid_share=0.0), made).train
    assert [key.tobytes() for key in rows.keys()] == [b"".join(key_of(row)) for row in rows]  # noqa: SIM118
    assert rows.lengths_B.tolist() == [len(row.tokens) for row in rows]
    assert rows.supervised_B.tolist() == [int(row.supervised.sum()) for row in rows]
    assert rows.begins_B is not None
    cut = [row.source for row, begin in zip(rows, rows.begins_B, strict=True) if begin == 0]
    assert ("a.jsonl:5" in cut) == (max_seq_length == 60)


@pytest.mark.parametrize(("size", "name"), [(300, "uint16"), (70_000, "uint32")])
def test_tokens_take_two_bytes_where_two_are_enough(size: int, name: str, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{number}": number for number in range(size)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w1")
    path = write(tmp_path / "a.jsonl", [{"text": f"w2 w{size - 1} w3"}])
    for _ in range(2):
        store = kept(settings_of(path), made).store
        assert store.contents.dtype.name == name
        assert store.row(0, 0, 4).tokens.tolist() == [2, size - 1, 3, 1]
        assert store.beyond(size - 1).tolist() == [0]
        assert store.beyond(size).tolist() == []


# made once


def test_a_store_that_is_there_is_opened_without_reading_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, made = write(tmp_path / "a.jsonl", ROWS), tokenizer(CHATML)
    from_store(settings_of(path), made)
    wanted = everything(loaded(path, made, max_seq_length=60, dedup="exact", valid_share=0.2))
    monkeypatch.setattr(formats, "rows", no_reader)
    other = settings_of(path, max_seq_length=60, dedup="exact", valid_share=0.2)
    assert everything(from_store(other, made)) == wanted
    with pytest.raises(AssertionError, match="a row is read"):
        loaded(path, made)


def places(path: Path, made: Any, *each: dict[str, Any]) -> list[str]:
    """The names of the stores for these settings."""
    return [folder_of(kept(settings_of(path, **settings), made).store).name for settings in each]


@pytest.mark.parametrize(
    "settings",
    [
        {"columns": {"messages": "talk"}},
        {"system": "Be brief."},
        {"loss_on": "last"},
        {"end_of_turn": "<|end|>"},
        {"skip_bad_rows": True},
        {"max_rows": 2},
    ],
)
def test_what_tokens_depend_on_has_a_store_of_its_own(settings: dict[str, Any], tmp_path: Path) -> None:
    rows = [{**chat("q", word), "talk": chat("r", word)["messages"]} for word in "abc"]
    usual, other = places(write(tmp_path / "a.jsonl", rows), tokenizer(CHATML), {}, settings)
    assert usual != other


def test_other_rows_names_tokenizers_templates_stops_and_pairs_have_stores_of_their_own(tmp_path: Path) -> None:
    rows = [{"prompt": "q", "chosen": "a", "rejected": "b"}]
    path, made = write(tmp_path / "a.jsonl", rows), tokenizer(CHATML)
    stores = [
        kept(settings_of(path), made),
        kept(settings_of(write(tmp_path / "b.jsonl", rows)), made),
        kept(settings_of(path), tokenizer(CHATML, merges=(("q", "q"),))),
        kept(settings_of(path), tokenizer(CHATML, eos="<|end|>")),
        kept(settings_of(path), tokenizer(CHATML + " ")),
        kept(settings_of(path), made, stops=frozenset({3})),
        kept(settings_of(path), made, pairs=True),
        kept(settings_of(write(path, [*rows, *rows])), made),
    ]
    assert len({folder_of(found.store).name for found in stores}) == len(stores)


@pytest.mark.parametrize(
    "settings",
    [{"max_seq_length": 60}, {"valid_share": 0.5}, {"min_tokens": 3}, {"dedup": "exact"}, {"now": "2026-07-26T12:00"}],
)
def test_what_tokens_do_not_depend_on_shares_a_store(settings: dict[str, Any], tmp_path: Path) -> None:
    usual, other = places(write(tmp_path / "a.jsonl", ROWS), tokenizer(CHATML), {}, settings)
    assert usual == other


def test_the_folder_of_a_file_is_not_in_the_name_of_its_store(tmp_path: Path) -> None:
    here, there = (places(write(tmp_path / name / "a.jsonl", ROWS), tokenizer(CHATML), {}) for name in "ab")
    assert here == there


@pytest.mark.parametrize("as_dict", [False, True])
@pytest.mark.parametrize(
    ("written", "same"),
    [
        ('strftime_now("%d %b %Y")', [True, False]),
        ("strftime_now('%d %b %Y')", [True, False]),
        ('strftime_now("%H:%M")', [False, True]),
        ('strftime_now("%d" + " %b")', [False, False]),  # what it writes is not known
    ],
)
def test_a_store_is_of_the_day_where_templates_write_the_date_alone(
    written: str, same: list[bool], as_dict: bool, tmp_path: Path
) -> None:
    template: Any = CHATML + "{{ " + written + " }}"
    made = tokenizer({"default": template} if as_dict else template)
    path = write(tmp_path / "a.jsonl", [{"text": "t"}])
    times = ({"now": now} for now in ("2026-07-26T08:00:00", "2026-07-26T20:00:00", "2026-07-27T08:00:00"))
    morning, evening, tomorrow = places(path, made, *times)
    assert [morning == evening, morning == tomorrow] == same


def test_a_shared_day_has_the_tokens_of_that_day(tmp_path: Path) -> None:
    made = tokenizer(CHATML + "{{ strftime_now('%d %b %Y') }}")
    path = write(tmp_path / "a.jsonl", [chat("q", "a")])
    for now in ("2026-07-26T08:00:00", "2026-07-26T20:00:00", "2026-07-27T20:00:00"):
        [row] = from_store(settings_of(path, now=now), made).train
        assert datetime.fromisoformat(now).strftime("%d %b %Y") in made.decode(row.tokens)
