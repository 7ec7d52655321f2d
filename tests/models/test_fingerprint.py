"""A model's fingerprint: it sees every edit, and each file is read once."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mlxtune.models import fingerprint as module
from mlxtune.models.fingerprint import fingerprint
from tests.support.checkout import ROOT
from tests.support.model import some_tensors, write_model, write_weights

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLXTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fingerprints"


@pytest.fixture
def _kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test wrote just now is kept too."""
    monkeypatch.setattr(module, "SETTLED_SECONDS", -1.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", shards=2)


def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a file that is read is an error."""
    monkeypatch.setattr(module, "_part", None)


def test_it_is_of_the_content_not_of_the_place(tmp_path: Path) -> None:
    one = fingerprint(write_model(tmp_path / "one"))
    assert one == fingerprint(write_model(tmp_path / "two"))
    assert len(one) == 64


@pytest.mark.parametrize("tensor", range(4))
@pytest.mark.parametrize("place", [0, 1234, 4095])
def test_it_sees_an_edit_of_any_number_of_any_tensor(tmp_path: Path, tensor: int, place: int) -> None:
    before = fingerprint(write_model(tmp_path))
    tensors = some_tensors()
    tensors[f"model.layers.{tensor}.weight"].reshape(-1)[place] += 1
    write_weights(tmp_path, tensors)
    assert fingerprint(tmp_path) != before


@pytest.mark.usefixtures("_kept_at_once")
def test_it_sees_a_hundred_numbers_in_the_middle_of_an_embedding_though_the_times_are_set_back(tmp_path: Path) -> None:
    write_model(tmp_path)
    write_weights(tmp_path, {EMBEDDING: np.ones((5000, 64), np.float32)})
    path, before = tmp_path / "model.safetensors", fingerprint(tmp_path)
    times = path.stat()
    time.sleep(0.1)  # the clock of file times ticks some hundred times a second
    with path.open("r+b") as file:
        file.seek(times.st_size // 3)
        file.write(bytes(400))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_mtime_ns == times.st_mtime_ns
    assert fingerprint(tmp_path) != before


def test_it_sees_an_edit_of_any_part_of_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BYTES", 1000)
    seen = {fingerprint(folder)}
    path = folder / "model-00001-of-00002.safetensors"
    content = path.read_bytes()
    for place in range(300, len(content), 5000):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        seen.add(fingerprint(folder))
    assert len(seen) == 1 + len(range(300, len(content), 5000))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_it_sees_another_config_and_another_tokenizer(folder: Path, name: str) -> None:
    before = fingerprint(folder)
    (folder / name).write_text((folder / name).read_text() + " ")
    assert fingerprint(folder) != before


@pytest.mark.usefixtures("_kept_at_once")
def test_a_file_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(folder)
    never(monkeypatch)
    assert fingerprint(folder) == before


def test_a_file_that_was_written_just_now_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two writes within the clock of a file system leave the same times."""
    monkeypatch.setattr(module, "SETTLED_SECONDS", 60.0)
    fingerprint(folder)
    never(monkeypatch)
    with pytest.raises(TypeError):
        fingerprint(folder)


@pytest.mark.usefixtures("_kept_at_once")
@pytest.mark.parametrize("damage", ["", "{}", "[" * 100_000, "a flipped bit", "another digest"])
def test_what_is_kept_is_checked(folder: Path, cache: Path, damage: str) -> None:
    before = fingerprint(folder)
    for path in cache.iterdir():
        document = json.loads(path.read_text())
        if damage == "a flipped bit":
            path.write_text(
                path.read_text().replace(document["digest"][0], "f" if document["digest"][0] != "f" else "0")
            )
        else:
            path.write_text(json.dumps({**document, "digest": "0" * 64}) if damage == "another digest" else damage)
    assert fingerprint(folder) == before


def test_a_cache_that_cannot_be_written_to_changes_nothing(folder: Path, cache: Path) -> None:
    cache.parent.write_text("a file")
    assert fingerprint(folder) == fingerprint(folder)


@pytest.mark.usefixtures("_kept_at_once")
def test_the_newest_digests_are_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 3)
    for number in range(6):
        fingerprint(write_model(tmp_path / str(number)))
    assert len(list(cache.iterdir())) == 3


@pytest.mark.usefixtures("_kept_at_once")
@pytest.mark.slow
def test_processes_that_hash_the_same_model_at_once_agree(folder: Path, cache: Path) -> None:
    code = "import sys; from pathlib import Path; from mlxtune.models import fingerprint as f; f.SETTLED_SECONDS = -1\n"
    code += "for _ in range(20): print(f.fingerprint(Path(sys.argv[1])))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, str(folder)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(3)]
    said = {line for each in started for line in each.communicate()[0].split()}
    assert said == {fingerprint(folder)}
    assert [path.suffix for path in cache.iterdir()] == [".json"] * 2


@pytest.mark.usefixtures("_kept_at_once")
def test_progress_is_told_where_it_takes_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", -1.0)
    monkeypatch.setattr(module, "PART_BYTES", 10_000)
    heard: list[module.Event] = []
    fingerprint(folder, heard.append)
    done = [event.done for event in heard if isinstance(event, module.Preparing)]
    assert done == sorted(done)
    assert done[-1] == sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    fingerprint(folder, heard.append)
    assert len(heard) == len(done), "nothing is read, so nothing is told"
