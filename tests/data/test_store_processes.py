"""Several processes make one store, or are ended while they do: it has the bytes that one process makes at its ease."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from mlxtune.data.rows import Maker
from mlxtune.data.settings import DataSettings
from mlxtune.data.store import chunks, making
from mlxtune.data.store.exchange import Failed, receive, send
from mlxtune.data.tokenizer import Tokenizer
from mlxtune.errors import BadData, BadModel, BadSetting, Faults, MlxtuneError, RunStopped
from tests.data.test_store import BAD, cache, settings_of
from tests.support.checkout import ROOT
from tests.support.data import write
from tests.support.token_store import contents, folder_of, held, kept, saved
from tests.support.tokenizers import CHATML, tokenizer

__all__ = ["cache"]
PORTION = 8  # rows
# The arguments: the data, the tokenizer, the operation at which the process ends, or 0, and a file to wait for, or "".
MAKE = f"""
import json, os, signal, sys, time
from functools import partial
from functools import partial
from pathlib import Path
from mlxtune.data import load
from mlxtune.data.rows import Maker
from mlxtune.data.settings import DataSettings
from mlxtune.data.store import chunks, making, workers
from mlxtune.data.store.parts import OnDisk
from mlxtune.models import tokenizer
from mlxtune.storage import files

data, folder, last, start = sys.argv[1:]
chunks.ROWS, making.NOTE_SECONDS, workers.cores = {PORTION}, 0.0, lambda: 1
done, made, said = [], [], []

def counted(holder, name):
    usual = getattr(holder, name)
    def operation(*given, **named):
        done.append(name)
        if len(done) == int(last):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*given, **named)
    setattr(holder, name, operation)

for holder, name in ((OnDisk, "append"), (OnDisk, "flush"), (files, "_flush"), (making.Making, "finish")):
    counted(holder, name)
usual = Maker.make
def make(self, raws, **how):
    made.append(len(raws))
    time.sleep(0.05 if start else 0)
    return usual(self, raws, **how)
Maker.make = make
tokens = tokenizer.load(Path(folder))
print("ready", flush=True)
while start and not Path(start).exists():
    time.sleep(0.01)
settings = DataSettings(path=data, skip_bad_rows=True)
reader = load.Reader(tokens, frozenset(), partial(tokenizer.load, Path(folder)))
store = load.read(settings, reader, tell=lambda event: said.append(str(event))).store
print(json.dumps([len(done), sum(made), str(store.parts["rows"].path.parent), any("waiting" in each for each in said)]))
"""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "ROWS", PORTION)


@pytest.fixture
def data(tmp_path: Path) -> DataSettings:
    """A hundred rows and more, of which some are bad, in two splits."""
    write(tmp_path / "data" / "train.jsonl", BAD * 12)
    write(tmp_path / "data" / "valid.jsonl", BAD * 2)
    return settings_of(tmp_path / "data", skip_bad_rows=True)


Started: TypeAlias = "subprocess.Popen[str]"


def started(
    data: DataSettings, folder: Path, cache: Path, *, last: int = 0, start: str = ""
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", MAKE, str(data.path), str(folder), str(last), start]
    environment = {**os.environ, "MLXTUNE_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: Started, code: int = 0) -> str:
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_several_processes_make_the_bytes_that_one_makes(data: DataSettings, tmp_path: Path) -> None:
    open_tokenizer = saved(tmp_path / "tokenizer", tokenizer(CHATML))
    one, three = (held(data, open_tokenizer(), open_tokenizer, count) for count in (1, 3))
    assert contents(one) == contents(three)
    assert one.contents == three.contents
    assert len(one) > 100


@pytest.mark.slow
@pytest.mark.usefixtures("small", "cache")
def test_killed_at_any_operation_the_next_start_makes_the_same_bytes(
    data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tokenizer = saved(tmp_path / "tokenizer", tokenizer(CHATML))
    n_operations, n_made, *_ = json.loads(
        ended(started(data, tmp_path / "tokenizer", tmp_path / "whole")).splitlines()[-1]
    )
    wanted = contents(kept(data, open_tokenizer()).store)
    monkeypatch.setattr(making, "NOTE_SECONDS", 0.0)
    again: list[int] = []
    for number, last in enumerate((1, 13, n_operations // 3, n_operations // 2, n_operations - 1, n_operations)):
        monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / f"killed-{number}"))
        ended(started(data, tmp_path / "tokenizer", tmp_path / f"killed-{number}", last=last), -signal.SIGKILL)
        with monkeypatch.context() as patch:
            made = count_made(patch)
            assert contents(kept(data, open_tokenizer()).store) == wanted
        again.append(sum(made))
    assert again[0] == n_made
    assert again[-1] == 0
    assert sorted(again, reverse=True) == again


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many raw rows are made at a time."""
    portions, make = list[int](), Maker.make

    def noted(self: Maker, raws: Any, **how: Any) -> Any:
        portions.append(len(raws))
        return make(self, raws, **how)

    monkeypatch.setattr(Maker, "make", noted)
    return portions


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_of_two_processes_at_once_one_makes_the_store_and_both_have_it(
    data: DataSettings, tmp_path: Path, cache: Path
) -> None:
    open_tokenizer = saved(tmp_path / "tokenizer", tokenizer(CHATML))
    both = [started(data, tmp_path / "tokenizer", cache, start=str(tmp_path / "start")) for _ in range(2)]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    (_, first, here, waited), (_, second, there, waited_too) = (json.loads(ended(process)) for process in both)
    assert sorted((first, second)) == [0, 14 * len(BAD)]
    assert sorted((waited, waited_too)) == [False, True]
    made = open_tokenizer()
    store = kept(data, made).store
    assert here == there == str(folder_of(store))
    assert contents(store) == contents(held(data, made, open_tokenizer, 1))


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_an_error_in_another_process_is_the_error_of_this_one(data: DataSettings, tmp_path: Path) -> None:
    open_tokenizer = saved(tmp_path / "tokenizer", tokenizer(CHATML))
    made = open_tokenizer()
    (tmp_path / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(BadModel) as here:
        open_tokenizer()
    with pytest.raises(BadModel) as there:
        held(data, made, open_tokenizer, 2)
    assert str(there.value) == str(here.value)
    assert vars(there.value) == vars(here.value)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("library", ["numpy", "json"])
def test_what_lies_in_the_folder_of_the_moment_is_not_imported(
    library: str, data: DataSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tokenizer = saved(tmp_path / "tokenizer", tokenizer(CHATML))
    wanted = contents(held(data, open_tokenizer(), open_tokenizer, 1))
    (tmp_path / f"{library}.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    assert contents(held(data, open_tokenizer(), open_tokenizer, 2)) == wanted


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("open_tokenizer", "how"), [(partial(os._exit, 7), "ended with code 7"), (os.abort, "was ended by signal 6")]
)
def test_a_process_that_dies_stops_the_run_with_a_remedy(
    open_tokenizer: Callable[[], Tokenizer], how: str, data: DataSettings
) -> None:
    with pytest.raises(RunStopped, match=rf"expected a process that makes tokens of them, found one that {how}"):
        held(data, tokenizer(CHATML), open_tokenizer, 2)


@pytest.mark.parametrize(
    "error",
    [
        BadData("a.jsonl:1", expected="a", found="b", remedy="c"),
        BadSetting("data.path", expected="a", found="b"),
        Faults([BadData("a", expected="b", found="c"), BadModel("d", expected="e", found="f")]),
        RunStopped("rows", expected="a", found="b"),
    ],
)
def test_an_error_crosses_to_another_process_whole(error: MlxtuneError, tmp_path: Path) -> None:
    with (tmp_path / "pipe").open("wb") as stream:
        send(stream, Failed(error))
    with (tmp_path / "pipe").open("rb") as stream:
        crossed = receive(stream).error
        with pytest.raises(EOFError):
            receive(stream)
    assert (type(crossed), str(crossed), crossed.exit_code) == (type(error), str(error), error.exit_code)
    if not isinstance(error, Faults):
        assert vars(crossed) == vars(error)
