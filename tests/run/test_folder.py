"""The run folder: what is a run's and what is not, what a kill leaves, other disks, damage, edits."""

import errno
import json
import os
import shutil
import stat
from pathlib import Path

import filelock
import pytest

from mlxtune.adapters import folder as adapter
from mlxtune.errors import BadModel, BadRun, BadSetting, MlxtuneError
from mlxtune.events import Start, Step
from mlxtune.export.adapter import _published
from mlxtune.recipe.recipe import build
from mlxtune.run import folder as run_folder
from mlxtune.run import identity as run_identity
from mlxtune.run import session as run
from mlxtune.storage import checkpoint, sealed
from mlxtune.storage import files as storage
from tests.support.cli import BACKENDS, model
from tests.support.run import Ask, Keep, lora_recipes, write_rows
from tests.support.slow import all_but


@pytest.fixture
def out(tmp_path):
    return tmp_path / "run"


@pytest.fixture
def recipe(tmp_path):
    return lora_recipes(write_rows(tmp_path))


def last_bytes(folder):
    """The files of the last checkpoint that must not depend on how the run got there."""
    last = checkpoint.folders(folder)[-1]
    return last.name, [(last / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]


def notes(events):
    return " ".join(note for event in events if isinstance(event, Start) for note in event.notes)


def changed(path, edit):
    """Edit a JSON file as someone does who knows nothing of digests."""
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def made(out, step, **changes):
    """A checkpoint of nothing."""
    state = {"progress": {"step": step}, "learner": {"steps": step, "updates": step, "loss_scale": [1.0, 0]}}
    checkpoint.write(out, step, [], [])
    return checkpoint.settle(out, step, {**state, "fingerprints": {}, **changes})


LEFT = {
    "a lock": lambda out: (out / ".lock").touch(),
    "an environment": lambda out: run_identity.write_environment(out, "a computer", {}),
    "half an environment": lambda out: (out / ".environment.json.0a1b2c3d.partial").write_text('{"dev'),
    "half a recipe": lambda out: (out / ".recipe.yaml.0a1b2c3d.partial").write_text("model:\n"),
    "half a recipe of an older version": lambda out: (out / ".recipe.yaml.partial").write_text("model:\n"),
    "half an adapter": lambda out: (out / ".adapter.partial").mkdir(),
    "a folder for checkpoints": lambda out: (out / "checkpoints").mkdir(),
}


@pytest.mark.parametrize("left", LEFT)
@pytest.mark.few(2)
def test_what_only_a_run_writes_before_it_is_one_is_taken_over(recipe, out, left):
    out.mkdir()
    LEFT[left](out)
    end = run.start(recipe(train__max_steps=1))
    assert end.status == "done"
    assert not [*out.glob(".*partial")]


def test_a_file_of_someone_else_where_one_of_the_runs_comes_keeps_its_bytes(recipe, out):
    out.mkdir()
    (out / "environment.json").write_text('{"conda": true}')
    assert run.start(recipe(train__max_steps=1)).status == "done"
    assert (out / "environment.json-before").read_text() == '{"conda": true}'


@pytest.mark.parametrize("name", [".recipe.yaml.partial", ".environment.json.partial", ".adapter.partial"])
def test_a_planted_link_is_not_followed(recipe, out, tmp_path, name):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("mine")
    out.mkdir()
    (out / name).symlink_to(victim if "adapter" in name else victim / "file")
    assert run.start(recipe(train__max_steps=1)).status == "done"
    assert [(path.name, path.read_text()) for path in victim.iterdir()] == [("file", "mine")]
    assert not any(path.is_symlink() for path in out.iterdir())


def test_the_log_is_never_written_through_a_link(recipe, out, tmp_path):
    run.start(recipe(), [Ask(2)])
    (out / "metrics.jsonl").rename(tmp_path / "elsewhere")
    (out / "metrics.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadRun, match=r"metrics.jsonl: expected a file, found a link"):
        run.start(recipe())


IN_THE_WAY = {
    "": lambda path: path.write_text("a file"),
    "checkpoints": lambda path: path.write_text("a file"),
    "adapter": lambda path: path.write_text("a file"),
    "recipe.yaml": lambda path: path.mkdir(),
    "environment.json": lambda path: path.mkdir(),
    "metrics.jsonl": lambda path: os.mkfifo(path),
    ".lock": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
def test_what_stands_where_a_file_or_folder_of_the_run_comes_is_named(recipe, out, name):
    (out / name).parent.mkdir(exist_ok=True)
    IN_THE_WAY[name](out / name)
    with pytest.raises(BadRun, match=r"expected a (file|folder), found a (file|folder|link)|found no file") as caught:
        run.start(recipe())
    assert str(out / name) in str(caught.value)


@pytest.mark.parametrize("name", ["", "checkpoints", "adapter"])
def test_a_link_to_nothing_is_refused_and_nothing_is_made_there(recipe, out, tmp_path, name):
    """The disk may be unplugged: what would be written in its place is not what the run has."""
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(tmp_path / "unplugged")
    with pytest.raises(BadRun, match="a link to nothing"):
        run.start(recipe())
    assert not (tmp_path / "unplugged").exists()


def test_a_folder_inside_a_file_is_refused(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlxtuneError):
        run.start(recipe(run__out=str(tmp_path / "file" / "run")))


def test_a_folder_that_may_not_be_written_to_is_refused_before_anything_is_read(recipe, out, monkeypatch):
    out.mkdir()
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != out)
    monkeypatch.setattr(run, "prepare", lambda *_: pytest.fail("read the rows"))
    with pytest.raises(BadRun, match="expected a folder that may be written to"):
        run.start(recipe())


@pytest.mark.parametrize(
    ("fault", "words"),
    [(PermissionError(errno.EACCES, "Permission denied"), "of another user"), (NotImplementedError(), "without locks")],
)
def test_a_lock_that_cannot_be_had_is_told(recipe, monkeypatch, fault, words):
    def refuse(*_, **__):
        raise fault

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(BadRun, match=words):
        run.start(recipe())


def test_a_run_that_another_process_began_meanwhile_is_not_gone_on_with(recipe, out, monkeypatch):
    prepare = run.prepare

    def slow(*arguments):
        if not out.exists():
            out.mkdir()
            run.start(recipe(train__max_steps=1))
        return prepare(*arguments)

    monkeypatch.setattr(run, "prepare", slow)
    with pytest.raises(BadRun, match="found a run"):
        run.start(recipe(train__max_steps=1), resume="never")


def test_a_file_system_that_cannot_flush_folders_is_no_obstacle(recipe, monkeypatch):
    fsync = os.fsync

    def refuses_folders(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", refuses_folders)
    assert run.start(recipe(train__max_steps=2)).status == "done"


def test_checkpoints_sort_as_numbers(out):
    for step in (1_000_000, 999_998, 5, 10_000_000):
        made(out, step)
    assert [path.name for path in checkpoint.folders(out)] == ["000005", "999998", "1000000", "10000000"]
    checkpoint.prune(out, keep=2)
    assert [path.name for path in checkpoint.folders(out)] == ["1000000", "10000000"]
    found = checkpoint.newest(out)
    assert found is not None
    assert found.path.name == "10000000"


def test_folders_of_other_names_are_neither_gone_on_from_nor_removed(out):
    ours = [made(out, step) for step in (2, 4)]
    kept = {"000006-good", "0000009", "9", "¹²³⁴⁵⁶", ".git", ".000006.mine", "best"}
    for name in kept:
        shutil.copytree(ours[-1], out / "checkpoints" / name)
    (out / "checkpoints" / "000008").mkdir()  # a number, and nothing of ours in it
    (out / "checkpoints" / "000010").write_text("a note")
    assert checkpoint.folders(out) == ours
    checkpoint.prune(out, keep=1)
    left = {path.name for path in (out / "checkpoints").iterdir()}
    assert left == kept | {"000004", "000008", "000010"}


def test_what_lies_where_a_checkpoint_comes_keeps_its_content_under_another_name(out):
    (out / "checkpoints" / "000008").mkdir(parents=True)
    (out / "checkpoints" / "000008" / "notes.txt").write_text("mine")
    made(out, 8)
    assert (out / "checkpoints" / "000008-before" / "notes.txt").read_text() == "mine"
    assert checkpoint.load_state(out / "checkpoints" / "000008")["progress"] == {"step": 8}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_checkpoints_and_adapter_may_be_links_to_another_disk(recipe, out, tmp_path, backend, monkeypatch):
    changes = {"backend__name": backend, "train__eval_every": 1}
    run.start(recipe(**changes, run__out=str(tmp_path / "whole")))
    out.mkdir()
    for name in ("checkpoints", "adapter"):
        (tmp_path / "disk" / name).mkdir(parents=True)
        (out / name).symlink_to(Path("..", "disk", name))
    run.start(recipe(**changes), [Ask(3)])
    monkeypatch.chdir(out)
    assert run.start(recipe(**changes)).status == "done"
    assert last_bytes(out) == last_bytes(tmp_path / "whole")
    assert {path.name for path in out.iterdir() if path.is_symlink()} == {"checkpoints", "adapter"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"checkpoints", "adapter"}
    assert {path.name for path in (tmp_path / "disk" / "checkpoints").iterdir()} == {"000004", "000006"}
    assert adapter.find(out / "adapter").folder == out / "adapter"


def test_each_disk_must_hold_what_comes_to_it(recipe, out, tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    out.mkdir()
    (out / "checkpoints").symlink_to(tmp_path / "disk")
    room = {out / "checkpoints": 10**9, out / "adapter": 100}
    monkeypatch.setattr(run_folder, "disk", lambda place: list(room).index(place))
    monkeypatch.setattr(run_folder, "free_bytes", room.__getitem__)
    with pytest.raises(BadSetting, match="found 100 B free"):
        run.start(recipe())
    assert [path.name for path in out.iterdir()] == ["checkpoints"]


def test_the_room_on_a_disk_is_asked_for_where_a_link_leads(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(path) or shutil._ntuple_diskusage(3, 2, 1))
    assert storage.free_bytes(tmp_path / "link") == 1
    assert asked[0].resolve() == tmp_path / "disk"


DAMAGE = {
    "a bit of the weights": lambda folder: flip(folder / checkpoint.WEIGHTS),
    "a bit of the moments": lambda folder: flip(folder / checkpoint.OPTIMIZER),
    "data that is short": lambda folder: cut(folder / checkpoint.WEIGHTS),
    "half a state": lambda folder: cut(folder / checkpoint.STATE),
    "an edited step": lambda folder: changed(folder / checkpoint.STATE, lambda state: state["progress"].update(step=5)),
    "no digest": lambda folder: changed(folder / checkpoint.STATE, lambda state: state.pop(sealed.KEY)),
    "a folder in place of the weights": lambda folder: replaced_by_a_folder(folder / checkpoint.WEIGHTS),
    "no weights": lambda folder: (folder / checkpoint.WEIGHTS).unlink(),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1000])


def replaced_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", all_but(["a bit of the weights", "half a state", "no weights"], DAMAGE.keys()))
def test_a_damaged_newest_checkpoint_is_set_aside_and_the_one_before_gone_on_from(recipe, out, tmp_path, damage):
    run.start(recipe(run__out=str(tmp_path / "whole")))
    run.start(recipe(), [Ask(4)])
    assert [path.name for path in checkpoint.folders(out)] == ["000002", "000004"]
    DAMAGE[damage](out / "checkpoints" / "000004")
    keep = Keep()
    run.start(recipe(), [keep])
    assert "The checkpoint 000004 is damaged" in notes(keep)
    assert "goes on from 000002" in notes(keep)
    assert [step.step for step in keep if isinstance(step, Step)] == [3, 4, 5, 6]
    assert last_bytes(out) == last_bytes(tmp_path / "whole")
    assert (out / "checkpoints" / "000004-damaged").is_dir()


def test_where_all_checkpoints_are_damaged_nothing_is_changed_and_all_is_told(recipe, out):
    run.start(recipe(), [Ask(4)])
    for folder in checkpoint.folders(out):
        flip(folder / checkpoint.WEIGHTS)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(BadRun, match="None of the 2 checkpoints is whole; nothing was changed"):
        run.start(recipe())
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_checkpoint_of_a_newer_version_is_refused_by_the_key_that_is_new_and_stays(out):
    made(out, 2)
    newest = made(out, 4, annealing=0.5)
    with pytest.raises(BadRun, match=r"annealing: expected no such key.*\n  Another version of mlxtune wrote it"):
        checkpoint.newest(out)
    assert newest.is_dir()


def test_an_unknown_place_in_the_run_is_refused(recipe, out):
    run.start(recipe(), [Ask(4)])
    state = checkpoint.load_state(out / "checkpoints" / "000004")
    sealed.write(out / "checkpoints" / "000004" / "state.json", {**state, "progress": state["progress"] | {"shard": 3}})
    with pytest.raises(BadRun, match=r"state.json: shard: expected no such key, found the number 3"):
        run.start(recipe())


def test_tensors_without_a_state_are_passed_over_and_told(out):
    made(out, 2)
    (made(out, 4) / checkpoint.STATE).unlink()
    found = checkpoint.newest(out)
    assert found is not None
    assert found.path.name == "000002"
    assert "holds no state.json" in found.notes[0]
    assert (out / "checkpoints" / "000004").is_dir()


@pytest.mark.parametrize("content", [b"", b"\x02\0\0\0\0\0\0\0[]", b"\xff" * 30, b"\x02\0\0\0\0\0\0\0{}more"])
def test_a_tensor_file_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "weights.safetensors").write_bytes(content)
    with pytest.raises(BadRun, match=r"weights.safetensors"):
        checkpoint.check_tensors(tmp_path / "weights.safetensors", [])


def test_an_edited_recipe_is_not_resumed_with(recipe, out):
    run.start(recipe(), [Ask(2)])
    path = out / "recipe.yaml"
    path.write_text(path.read_text().replace("learning_rate: 0.001", "learning_rate: 0.1"))
    with pytest.raises(BadRun, match=r"recipe.yaml: expected the file as it was written"):
        run.resume(out, {})
    with pytest.raises(BadRun, match=r"recipe.yaml: expected the file as it was written"):
        run.start(recipe(schedule__learning_rate=0.1))


def test_an_edited_environment_is_not_believed(recipe, out):
    run.start(recipe(), [Ask(2)])
    changed(out / "environment.json", lambda found: found["fingerprints"].update(data="0" * 64))
    with pytest.raises(BadRun, match=r"environment.json: expected the file as it was written"):
        run.start(recipe())


def test_a_saved_recipe_is_a_recipe_for_other_runs(recipe, out):
    from mlxtune.recipe.recipe import read

    run.start(recipe(), [Ask(2)])
    assert build(read(out / "recipe.yaml"), {}) == build(run_identity.saved_recipe(out), {})


def test_a_prune_that_was_killed_leaves_no_checkpoint_half(out, monkeypatch):
    for step in (2, 4, 6):
        made(out, step)

    def killed(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.prune(out, keep=2)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.folders(out)] == ["000004", "000006"]
    checkpoint.clean(out)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"000004", "000006"}


def test_a_checkpoint_that_is_a_link_is_gone_on_from_and_its_target_is_never_removed(out, tmp_path):
    made(out, 2).rename(tmp_path / "moved")
    (out / "checkpoints" / "000002").symlink_to(tmp_path / "moved")
    found = checkpoint.newest(out)
    assert found is not None
    assert found.path.name == "000002"
    made(out, 4)
    checkpoint.prune(out, keep=1)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"000004"}
    assert checkpoint.load_state(tmp_path / "moved")["progress"] == {"step": 2}


def test_an_adapter_between_its_two_renames_is_found_and_comes_back(recipe, out):
    run.start(recipe(train__eval_every=1), [Ask(3)])
    before = (out / "adapter" / adapter.WEIGHTS).read_bytes()
    (out / "adapter").rename(out / ".adapter.old")
    assert (adapter.find(out / "adapter").folder / adapter.WEIGHTS).read_bytes() == before
    (out / ".adapter.partial").mkdir()
    assert run.start(recipe(train__eval_every=6)).status == "done"
    assert (out / "adapter" / adapter.WEIGHTS).is_file()
    assert not [*out.glob(".adapter*")]


def test_what_someone_laid_into_the_adapter_stays_when_a_better_one_comes(recipe, out):
    run.start(recipe(train__eval_every=1), [Ask(3)])
    (out / "adapter" / "README.md").write_text("mine")
    before = (out / "adapter" / adapter.WEIGHTS).read_bytes()
    run.start(recipe(train__eval_every=1))
    assert (out / "adapter" / adapter.WEIGHTS).read_bytes() != before
    assert (out / "adapter" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("name", ["{}", "{}/", "{}/../model"])
def test_an_adapter_names_its_base_model_and_no_path(recipe, out, tmp_path, name):
    run.start(recipe(model__name=name.format(model(tmp_path)), train__max_steps=1))
    text = (out / "adapter" / adapter.CONFIG).read_text()
    assert json.loads(text)["mlxtune"]["base_model"] == "model"
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("name", "published"),
    [
        (None, None),
        ("tiny", "tiny"),
        ("dolphin-8b", "cognitivecomputations/dolphin-2.9-llama3-8b"),
        ("org/name", "org/name"),
        ("/home/ada/models/llama", "llama"),
        ("~/models/llama", "llama"),
        ("models/of/ada/llama", "llama"),
        ("/home/ada/.cache/huggingface/hub/models--org--name/snapshots/0a1b2c", "org/name"),
    ],
)
def test_a_base_model_is_published_by_its_id_or_last_name(name, published):
    assert _published(name) == published


@pytest.mark.parametrize("damage", ["weights", "config", "cut"])
def test_a_damaged_adapter_is_refused(recipe, out, damage):
    run.start(recipe(train__max_steps=1))
    assert adapter.find(out / "adapter")
    if damage == "config":
        changed(out / "adapter" / adapter.CONFIG, lambda found: found["lora_parameters"].update(scale=1e3))
    else:
        {"weights": flip, "cut": cut}[damage](out / "adapter" / adapter.WEIGHTS)
    with pytest.raises(BadModel, match="The adapter is damaged"):
        adapter.find(out / "adapter")
