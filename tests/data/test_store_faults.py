"""Full disks, damaged files, bad rows and ends in between: a store has the right tokens, or the reason is told."""

import errno
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mlxtune.data.faults import Place
from mlxtune.data.remote.file import Called, Remote
from mlxtune.data.rows import Maker
from mlxtune.data.store import chunks, making
from mlxtune.data.store.making import ABOUT, Making
from mlxtune.data.store.parts import NAMES, OnDisk
from mlxtune.data.token_rows import TokenRows
from mlxtune.errors import BadData, BadSetting, Faults, RunStopped
from tests.data.test_store import BAD, DOCUMENT, ROWS, cache, from_store, settings_of
from tests.support.data import loaded, write
from tests.support.token_store import Row, contents, everything, folder_of, held, kept, plain
from tests.support.tokenizers import CHATML, tokenizer

__all__ = ["cache"]
MADE = tokenizer(CHATML)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small portions, each of them noted."""
    monkeypatch.setattr(chunks, "ROWS", 2)
    monkeypatch.setattr(making, "NOTE_SECONDS", 0.0)
    monkeypatch.setattr("mlxtune.data.store.workers.cores", lambda: 1)


def made_rows(portions: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Note how many raw rows are made at a time."""
    make = Maker.make

    def noted(self: Maker, raws: Any, **how: Any) -> Any:
        portions.append(len(raws))
        return make(self, raws, **how)

    monkeypatch.setattr(Maker, "make", noted)


# no room


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """What is written beyond so many bytes of a file fails, in the middle of a write too."""
    resource = pytest.importorskip("resource")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 100, 500, 1200])
@pytest.mark.usefixtures("often")
def test_a_disk_that_takes_no_more_is_given_up_for_memory(size: int, tmp_path: Path, cache: Path) -> None:
    settings = settings_of(write(tmp_path / "a.jsonl", BAD * 4), skip_bad_rows=True, max_seq_length=60)
    *wanted, notes = everything(loaded(Path(str(settings.path)), MADE, skip_bad_rows=True, max_seq_length=60))
    with files_of_at_most(size):
        dataset = from_store(settings, MADE)
    *found, said = everything(dataset)
    assert found == wanted
    [note] = set(said) - set(notes)
    assert note.startswith("The rows' tokens are held in memory: ")
    assert f"cannot keep them ({os.strerror(errno.EFBIG)})" in note
    assert list(cache.rglob("*.bin")) == []


@pytest.mark.parametrize("appends", [0, 3, 12, 19])
@pytest.mark.usefixtures("often")
def test_a_full_disk_is_given_up_for_memory_whichever_part_finds_it(
    appends: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, append, left = write(tmp_path / "a.jsonl", ROWS), OnDisk.append, iter(range(appends))

    def full(self: OnDisk, content: bytes) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(self, content)

    wanted = everything(loaded(path, MADE))
    monkeypatch.setattr(OnDisk, "append", full)
    *found, said = everything(from_store(settings_of(path), MADE))
    assert (*found, said[:-1]) == wanted
    assert said[-1].endswith(f"cannot keep them ({os.strerror(errno.ENOSPC)}).")


def test_more_than_memory_should_hold_is_refused_with_a_remedy(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(making, "MOST_IN_MEMORY", 100)
    monkeypatch.setattr(chunks, "ROWS", 2)
    monkeypatch.setattr("mlxtune.data.store.workers.cores", lambda: 1)
    settings = settings_of(write(tmp_path / "a.jsonl", ROWS))
    with files_of_at_most(500), pytest.raises(BadSetting, match="name a folder on a larger disk with MLXTUNE_CACHE"):
        from_store(settings, MADE)
    assert list(cache.rglob("*.bin")) == []


@pytest.mark.parametrize("how", ["no folder can be made", "no permission"])
def test_a_cache_that_may_not_be_written_to_is_done_without(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    (tmp_path / "file").touch()
    if how == "no permission":
        monkeypatch.setattr("mlxtune.data.store.find.one_writer", denied)
    else:
        monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "file" / "cache"))
    path = write(tmp_path / "a.jsonl", ROWS)
    *wanted, notes = everything(loaded(path, MADE))
    *found, said = everything(from_store(settings_of(path), MADE))
    assert found == wanted
    assert said[:-1] == notes
    assert said[-1].startswith("The rows' tokens are held in memory: ")
    assert "cannot keep them (" in said[-1]


def test_a_cache_that_is_only_read_gives_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EROFS, os.strerror(errno.EROFS))

    settings = settings_of(write(tmp_path / "a.jsonl", ROWS))
    wanted = everything(from_store(settings, MADE))
    monkeypatch.setattr(os, "utime", denied)
    assert everything(from_store(settings, MADE)) == wanted


@pytest.mark.usefixtures("often")
def test_a_cache_that_is_emptied_meanwhile_is_given_up_for_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, add = write(tmp_path / "a.jsonl", ROWS), Making.add

    def emptied(self: Making, *rest: Any) -> None:
        for file in [*cache.rglob("*.work/*")]:
            file.unlink()
        for work in [*cache.rglob("*.work")]:
            work.rmdir()
        add(self, *rest)

    *wanted, _ = everything(loaded(path, MADE))
    monkeypatch.setattr(Making, "add", emptied)
    assert list(everything(from_store(settings_of(path), MADE))[:-1]) == wanted


# damage


def damages(path: Path) -> Iterator[Callable[[], None]]:
    """Ways to damage a file, which is then as it was again."""
    content = path.read_bytes()
    size = len(content)
    for length in {0, size // 2, size - 1}:
        yield lambda length=length: path.write_bytes(content[:length])  # type: ignore[misc]
    for at in range(0, size, size // 40 + 1):
        changed = content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]
        yield lambda changed=changed: path.write_bytes(changed)  # type: ignore[misc]
    yield path.unlink


def told_or_right(read: Callable[[], Any], wanted: Any) -> bool:
    """Whether damage is told; else what is read is what was written."""
    try:
        found = read()
    except RunStopped:
        return True
    assert found == wanted
    return False


@pytest.mark.parametrize("name", [*(f"{name}.bin" for name in NAMES), ABOUT])
def test_a_damaged_file_is_made_anew_or_told_and_no_other_token_is_given(name: str, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", BAD)
    (tmp_path / "b.txt").write_text(DOCUMENT)
    settings = settings_of(tmp_path / "[ab].*", max_seq_length=60, skip_bad_rows=True)

    def read() -> Any:
        return everything(from_store(settings, MADE))

    wanted, folder = read(), folder_of(kept(settings, MADE).store)
    content = (folder / name).read_bytes()
    assert content
    for damage in damages(folder / name):
        damage()
        if told_or_right(read, wanted):
            assert read() == wanted  # the next start makes them anew
        (folder / name).write_bytes(content)
    assert {path.name.partition(".")[2] for path in folder.parent.iterdir()} == {"", "lock"}


@pytest.mark.parametrize("name", ["tokens", "masks", "rows"])
def test_rows_that_are_cut_or_changed_while_they_are_open_stop_the_run(name: str, tmp_path: Path) -> None:
    settings = settings_of(write(tmp_path / "a.jsonl", ROWS), max_seq_length=60, valid_share=0.0)
    wanted: list[Row] = [plain(row) for row in loaded(Path(str(settings.path)), MADE, **LENGTH).train]
    for change in (lambda old: old[:-9], lambda old: bytes(each ^ 4 for each in old)):
        rows, path = from_store(settings, MADE).train, folder_of(kept(settings, MADE).store) / f"{name}.bin"
        path.write_bytes(change(path.read_bytes()))
        assert len(rows) == len(wanted)
        assert sum(told_or_right(partial(row_of, rows, place), right) for place, right in enumerate(wanted))
        assert [plain(row) for row in from_store(settings, MADE).train] == wanted


def row_of(rows: TokenRows, place: int) -> Row:
    return plain(rows[place])


LENGTH: dict[str, Any] = {"max_seq_length": 60, "valid_share": 0.0}


def test_what_a_store_says_of_itself_is_read_as_it_was_written(tmp_path: Path) -> None:
    folder = folder_of(kept(settings_of(write(tmp_path / "a.jsonl", BAD), skip_bad_rows=True), MADE).store)
    about = making.read(folder)
    assert about is not None
    assert about.whole
    assert about.splits["train"].counts.unread.seen["extra"].rows == 1
    assert making.SCHEMA.validate_python(making.SCHEMA.dump_python(about, mode="json")) == about


def test_a_file_whose_name_is_no_unicode_has_a_store(tmp_path: Path) -> None:
    with suppress(OSError):  # macOS has no such names
        file = write(tmp_path / "data" / os.fsdecode(b"train\xff.jsonl"), ROWS[:1])
        settings = settings_of(file.parent)
        for _ in range(2):
            [row] = from_store(settings, MADE).train
            assert MADE.decode(row.tokens) == "<s>a text</s>"


# bad rows, and ends in between


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.usefixtures("often")
def test_bad_rows_leave_nothing_behind(order: int, tmp_path: Path, cache: Path) -> None:
    settings = settings_of(write(tmp_path / "a.jsonl", BAD[::order]))
    for _ in range(2):
        with pytest.raises(Faults):
            from_store(settings, MADE)
        assert [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


@pytest.mark.parametrize("portions", range(1, 7))
@pytest.mark.usefixtures("often")
def test_ended_anywhere_the_next_start_goes_on_to_the_same_bytes(
    portions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data" / "train.jsonl", BAD)
    write(tmp_path / "data" / "valid.jsonl", BAD[:7])
    settings = settings_of(tmp_path / "data", skip_bad_rows=True, max_rows=8)
    wanted = contents(kept(settings, MADE).store)
    said = from_store(settings, MADE).notes
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "other"))
    with monkeypatch.context() as patch:
        ended_after(portions, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            kept(settings, MADE)
    made: list[int] = []
    made_rows(made, monkeypatch)
    assert contents(kept(settings, MADE).store) == wanted
    assert from_store(settings, MADE).notes == said
    assert len(made) == 5 + 4 - portions


def ended_after(portions: int, why: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process ends once so many portions are in the store."""
    add, left = Making.add, iter(range(portions))

    def ending(self: Making, *rest: Any) -> None:
        if next(left, None) is None:
            raise why
        add(self, *rest)

    monkeypatch.setattr(Making, "add", ending)


@pytest.mark.usefixtures("often")
def test_a_bad_row_is_told_again_where_the_start_that_met_it_was_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(write(tmp_path / "a.jsonl", BAD))
    with pytest.raises(Faults) as told:
        kept(settings, MADE)
    with monkeypatch.context() as patch:
        ended_after(4, KeyboardInterrupt(), patch)
        with pytest.raises(KeyboardInterrupt):
            kept(settings, MADE)
    with pytest.raises(Faults) as again:
        kept(settings, MADE)
    assert str(again.value) == str(told.value)


@pytest.mark.usefixtures("often")
def test_what_was_made_before_a_worker_died_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, made = settings_of(write(tmp_path / "a.jsonl", ROWS)), list[int]()
    monkeypatch.setattr(making, "NOTE_SECONDS", 60.0)
    with monkeypatch.context() as patch:
        ended_after(3, RunStopped("rows", expected="a process", found="none"), patch)
        with pytest.raises(RunStopped):
            kept(settings, MADE)
    made_rows(made, monkeypatch)
    assert everything(from_store(settings, MADE)) == everything(loaded(Path(str(settings.path)), MADE))
    assert made[:2] == [2, 2]
    assert sum(made) == 4 + len(ROWS)  # the last are those of `loaded`


# other processes


def test_the_place_of_a_row_is_the_same_in_another_process() -> None:
    remote: Any = Remote("https://x.org/a.jsonl", "a.jsonl", server=object())  # type: ignore[arg-type]
    here = Place(remote, 3)
    there = pickle.loads(pickle.dumps(here))
    assert type(there.file) is Called
    assert (str(there), there.short, there, hash(there)) == (str(here), here.short, here, hash(here))


def test_files_that_change_while_they_are_read_are_one_message_and_nothing_is_kept(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, make = settings_of(write(tmp_path / "a.jsonl", ROWS)), Maker.make

    def meanwhile(self: Maker, *given: Any, **named: Any) -> Any:
        write(tmp_path / "a.jsonl", ROWS[1:])
        return make(self, *given, **named)

    monkeypatch.setattr(Maker, "make", meanwhile)
    with pytest.raises(BadData, match="expected files that stay as they are while they are read"):
        kept(settings, MADE)
    assert list(cache.rglob("*.bin")) == []
    monkeypatch.setattr(Maker, "make", make)
    assert contents(kept(settings, MADE).store) == contents(held(settings, MADE, lambda: MADE, 1))
