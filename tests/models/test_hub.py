import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from mlxtune.errors import BadModel, BadSetting
from mlxtune.models import hub
from mlxtune.models.aliases import ALIASES
from mlxtune.models.cache import cached_models
from tests.support.hub import Hub, place_in_cache, serve, use, use_cache
from tests.support.model import write_model

REPO = "org/name"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache for each test, and no hub beyond this machine."""
    return use_cache(tmp_path / "cache", monkeypatch)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub on this machine with one whole model, sharded."""
    with serve(Hub(REPO, write_model(tmp_path / "repo", shards=2))) as there:
        use(there, monkeypatch)
        yield there


def put_in_cache(cache: Path, repo: str, shards: int = 1) -> Path:
    """A model in the cache as huggingface_hub lays it out."""
    return write_model(place_in_cache(cache, repo), shards)


def test_no_name_and_tiny_are_the_built_in_model():
    assert hub.resolve(None) == hub.resolve("tiny") == hub.BUILT_IN


def test_a_folder_is_itself(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "here" / "model")
    monkeypatch.chdir(tmp_path)
    assert hub.resolve(str(folder)) == folder
    assert hub.resolve("here/model") == Path("here/model")
    assert hub.resolve("here") == Path("here")


@pytest.mark.parametrize("name", ["./nothing", "~/nothing", "/no/such/folder", "a/b/c", "x y/z", ""])
def test_a_path_to_nothing_is_no_such_folder_or_name(name):
    with pytest.raises(BadModel):
        hub.resolve(name)


@pytest.mark.parametrize(("typed", "meant"), [("dolfin-8b", "dolphin-8b"), ("Qwen3-0.6B", "qwen3-0.6b")])
def test_an_unknown_short_name_gets_the_nearest_alias(typed, meant):
    with pytest.raises(BadModel, match=f"Did you mean {meant}"):
        hub.resolve(typed)


def test_aliases_are_hub_ids_and_never_look_like_paths():
    assert ALIASES["dolphin-8b"] == "cognitivecomputations/dolphin-2.9-llama3-8b"
    assert all(repo.count("/") == 1 and "/" not in alias and alias == alias.lower() for alias, repo in ALIASES.items())


def test_a_revision_of_a_folder_is_refused(tmp_path):
    for name in (None, str(tmp_path)):
        with pytest.raises(BadSetting, match=r"model\.revision"):
            hub.resolve(name, revision="main")


def test_an_alias_is_found_in_the_cache_without_a_network(cache):
    folder = put_in_cache(cache, ALIASES["dolphin-8b"], shards=2)
    assert hub.resolve("dolphin-8b") == folder


def test_a_model_that_is_not_cached_is_told_so_when_offline():
    with pytest.raises(BadModel, match=r"org/name: expected a complete copy in the cache, as HF_HUB_OFFLINE is set"):
        hub.resolve(REPO)


@pytest.mark.parametrize("lost", ["config.json", "tokenizer.json", "model-00002-of-00002.safetensors"])
def test_a_cached_copy_in_part_is_told_by_what_it_lacks_when_offline(cache, lost):
    (put_in_cache(cache, REPO, shards=2) / lost).unlink()
    with pytest.raises(BadModel, match=rf"found no {lost}\.\n.*unset HF_HUB_OFFLINE"):
        hub.resolve(REPO)


def test_only_config_tokenizer_and_safetensors_are_fetched(served):
    for name in ("pytorch_model.bin", "modeling.py", "README.md", "consolidated.safetensors", "model.pt"):
        (served.folder / name).write_text("unwanted")
    (served.folder / "original").mkdir()
    (served.folder / "original" / "model.safetensors").write_text("unwanted")
    folder = hub.resolve(REPO)
    wanted = {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors.index.json"}
    wanted |= {f"model-0000{number}-of-00002.safetensors" for number in (1, 2)}
    assert served.fetched == wanted == {path.name for path in folder.iterdir()}


def test_a_complete_cache_is_used_without_asking_the_hub(served):
    (served.folder / "README.md").write_text("that the repository has more files changes nothing")
    folder = hub.resolve(REPO)
    served.asked.clear()
    assert hub.resolve(REPO) == folder
    assert served.asked == []


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "chat_template.jinja"])
def test_an_interrupted_download_is_completed(served, name):
    (served.folder / "chat_template.jinja").write_text("{{ messages }}")
    lost = hub.resolve(REPO) / name
    lost.resolve().unlink()
    lost.unlink()
    served.asked.clear()
    hub.resolve(REPO)
    assert lost.is_file()
    assert served.fetched == {lost.name}


def test_a_download_in_part_is_told_by_what_it_lacks_when_the_hub_is_gone(served, monkeypatch):
    (hub.resolve(REPO) / "model-00001-of-00002.safetensors").unlink()
    served.refuses = 500
    for offline in (False, True):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        with pytest.raises(BadModel, match=r"out of reach, found no model-00001-of-00002\.safetensors"):
            hub.resolve(REPO)


def test_a_name_that_the_hub_cannot_have_is_told_as_such(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BadModel, match="a name that the hub cannot have"):
        hub.resolve("org/bad..name")


@pytest.mark.parametrize(
    ("refuses", "told", "remedy"),
    [
        ("GatedRepo", "expected access to a gated model", "Accept the model's terms"),
        ("RepoNotFound", "found neither of that name", "Check the spelling"),
        ("RevisionNotFound", "expected a branch, tag or commit", "Leave the revision out"),
        (401, "HTTP status 401", "set HF_TOKEN"),
        (403, "HTTP status 403", "set HF_TOKEN"),
        (500, "HTTP status 500", "Try again later"),
    ],
)
def test_a_refusal_of_the_hub_is_one_message_with_a_remedy(served, refuses, told, remedy):
    served.refuses = refuses
    with pytest.raises(BadModel, match=told) as caught:
        hub.resolve(REPO, revision="v2")
    assert "org/name (revision v2)" in str(caught.value)
    assert remedy in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_token_that_is_not_enough_is_what_the_message_speaks_of(served, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    served.refuses = "GatedRepo"
    with pytest.raises(BadModel, match="check that the token in HF_TOKEN may read it"):
        hub.resolve(REPO)


@pytest.mark.usefixtures("served")
def test_no_network_is_told_with_its_fault(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(BadModel, match=r"expected the hub within reach, .* found ConnectError"):
        hub.resolve(REPO)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "expected room on the disk"),
        (RuntimeError("xet: I/O error: No space left on device (os error 28)"), "expected room on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/locked"), "cannot be"),
        (TimeoutError("read timed out"), "found TimeoutError: read timed out"),
    ],
)
def test_a_fault_of_this_machine_is_one_message(monkeypatch, error, told):
    def fail(*_: object, local_files_only: bool = False, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("none") if local_files_only else error

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(BadModel, match=told):
        hub.resolve(REPO)


@pytest.mark.parametrize(
    ("file", "told"),
    [("pytorch_model.bin", r"It has \.bin files, which are not read"), ("adapter_config.json", "is an adapter")],
)
def test_a_repository_without_safetensors_is_told_with_a_remedy(served, file, told):
    for path in served.folder.glob("*.safetensors*"):
        path.unlink()
    (served.folder / file).write_text("{}")
    with pytest.raises(BadModel, match=rf"found no model\*\.safetensors\.\n.*{told}"):
        hub.resolve(REPO)


def test_a_repository_that_is_no_model_lacks_everything(served):
    for path in served.folder.iterdir():
        path.unlink()
    (served.folder / "data.csv").write_text("1,2")
    with pytest.raises(BadModel, match=r"found no config\.json, no tokenizer\.json, no model\*\.safetensors"):
        hub.resolve(REPO)


@pytest.mark.slow
def test_the_environments_home_and_offline_switch_are_obeyed(tmp_path):
    folder = put_in_cache(tmp_path / "home" / "hub", REPO)
    code = "from mlxtune.models.hub import resolve; import sys; print(resolve(sys.argv[1]))"
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    ended = [
        subprocess.run([sys.executable, "-c", code, name], env=environment, capture_output=True, text=True, check=False)
        for name in (REPO, "org/other")
    ]
    assert ended[0].stdout.strip() == str(folder)
    assert "HF_HUB_OFFLINE is set" in ended[1].stderr


def test_the_cache_is_listed_with_sizes_and_what_is_whole(cache):
    assert cached_models() == ()
    folder = put_in_cache(cache, "org/whole")
    (put_in_cache(cache, "org/part") / "tokenizer.json").unlink()
    put_in_cache(cache, "org/not-a-model").joinpath("config.json").unlink()
    part, whole = cached_models()
    assert (part.repo, part.complete, whole.repo, whole.complete) == ("org/part", False, "org/whole", True)
    assert whole.bytes == sum(path.stat().st_size for path in folder.iterdir())


def test_the_models_verb_prints_one_json_document(cache, capsys):
    from mlxtune.cli.models import models

    put_in_cache(cache, ALIASES["llama-3.2-1b"])
    models(json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["presets"] == ["tiny"]
    assert document["aliases"] == dict(ALIASES)
    assert [model["repo"] for model in document["cached"]] == [ALIASES["llama-3.2-1b"]]


def test_the_models_verb_in_a_pipe_has_a_plain_line_for_each_name(cache, capsys):
    from mlxtune.cli.models import models

    put_in_cache(cache, ALIASES["llama-3.2-1b"])
    put_in_cache(cache, "some-organisation/" + "a-long-name" * 6)
    models(json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    for alias in ALIASES:
        assert sum(line.split()[:1] == [alias] for line in lines) == 1
    assert any("meta-llama/Llama-3.2-1B " in line and line.rstrip().endswith("kB") for line in lines)
    assert any("a-long-name" * 6 in line for line in lines)
