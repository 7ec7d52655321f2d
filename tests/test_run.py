"""A run in its folder: what it leaves, how it goes on, what it refuses, how it ends."""

import errno
import json
import shutil
import signal
import threading
from pathlib import Path

import filelock
import pytest

from mlxtune import checkpoint, run
from mlxtune.errors import BadRun, BadSetting
from mlxtune.events import Checkpoint, End, Eval, Step
from mlxtune.export import adapter
from mlxtune.prepare import prepare
from mlxtune.recipe import build
from tests.support_backend import BACKEND

ROWS = [{"text": f"Once there was a {animal} with a {thing}."} for animal in ("cat", "dog", "hen") for thing in "abcd"]


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def recipe(tmp_path, data):
    """A function from changes to the recipe of a short run in fp32; `out` is the run's folder."""

    def make(out="run", **changes):
        settings = {
            "data.path": str(data),
            "data.valid_share": 0.25,
            "strategy.last_n": 1,
            "train.max_steps": 6,
            "train.batch_size": 3,
            "schedule.learning_rate": 1e-3,
            "backend.name": BACKEND,
            "backend.precision": "fp32",
            "checkpoint.save_every": 2,
            "run.out": str(tmp_path / out),
        }
        return build({}, settings | {key.replace("__", "."): value for key, value in changes.items()})

    return make


class Ask:
    """A report that asks the run to stop at a step, as a person with Ctrl-C does."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def __call__(self, event):
        if isinstance(event, Step) and event.step == self.step:
            signal.raise_signal(self.number)

    def close(self):
        pass


class Keep(list):
    """A report that keeps the events."""

    __call__ = list.append

    def close(self):
        pass


def last_bytes(folder):
    """The files of the last checkpoint that must not depend on how the run got there."""
    last = checkpoint.folders(Path(folder))[-1]
    return [(last / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]


def test_a_run_leaves_the_files_of_its_contract(recipe, tmp_path):
    end = run.start(recipe())
    folder = tmp_path / "run"
    assert (end.status, end.steps, end.exit_code) == ("done", 6, 0)
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "recipe.yaml",
        "environment.json",
        "metrics.jsonl",
        "checkpoints",
        "adapter",
    }
    assert [path.name for path in checkpoint.folders(folder)] == ["000004", "000006"]  # keep is 2
    assert {path.name for path in (folder / "adapter").iterdir()} == {"adapters.safetensors", "adapter_config.json"}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["event"] == "end"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_ends_with_its_code(recipe, number):
    end = run.start(recipe(), [Ask(3, number)])
    assert (end.status, end.steps, end.exit_code) == ("interrupted", 3, 128 + number)
    assert "--resume" in end.message
    assert checkpoint.folders(Path(end.run))[-1].name == "000003"


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_an_interrupted_run_resumes_to_the_bytes_of_the_unbroken_one(recipe, stop):
    whole = run.start(recipe("whole", train__grad_accum=2, train__batch_size=2))
    broken = recipe("broken", train__grad_accum=2, train__batch_size=2, train__eval_every=5)
    run.start(broken, [Ask(stop)])
    run.start(broken)
    assert last_bytes(broken.run.out) == last_bytes(whole.run)


def run_until_killed(recipe, monkeypatch):
    """Run into the fault that is set, and take it away; the checkpoint before it is whole."""
    with pytest.raises(SystemExit):
        run.start(recipe)
    monkeypatch.undo()
    assert [path.name for path in checkpoint.folders(Path(recipe.run.out))] == ["000002"]


@pytest.mark.parametrize("packs", [False, True])
def test_a_run_that_packs_no_longer_or_for_the_first_time_keeps_the_order_of_its_rows(recipe, monkeypatch, packs):
    """Its place in the data is a place in that order."""
    pytest.importorskip("mlx", reason="NumPy always packs")
    from mlxtune.backends.mlx import self_check

    ladders = {True: self_check.LADDER, False: [form for form in self_check.LADDER if not form.packed]}

    def losses(out, packs, reports=()):
        monkeypatch.setattr(self_check, "LADDER", ladders[packs])
        made = recipe(out, train__max_steps=8, backend__name="mlx")
        run.start(made, reports)
        lines = [json.loads(line) for line in Path(made.run.out, "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if line["event"] == "step"]

    unbroken, other = losses("unbroken", packs), losses("other", not packs)
    losses("broken", packs, [Ask(4)])
    assert losses("broken", not packs) == pytest.approx(unbroken, rel=1e-4)
    assert other != pytest.approx(unbroken, rel=1e-2)


def test_a_run_that_does_not_fit_once_its_rows_are_padded_is_refused_and_leaves_nothing(recipe, monkeypatch):
    pytest.importorskip("mlx", reason="NumPy always packs")
    from mlxtune.backends.mlx import self_check

    packed = prepare(recipe(backend__name="mlx")).plan.peak_bytes
    limited = recipe(backend__name="mlx", backend__memory_limit_bytes=packed)
    monkeypatch.setattr(self_check, "LADDER", [form for form in self_check.LADDER if not form.packed])
    with pytest.raises(BadSetting, match="fits"):
        run.start(limited)
    assert [path.name for path in Path(limited.run.out).iterdir()] in ([], [".lock"])
    monkeypatch.undo()
    assert run.start(recipe(backend__name="mlx")).status == "done"


def test_killed_during_a_checkpoint_resumes_to_the_same_bytes(recipe, monkeypatch):
    whole, broken = run.start(recipe("whole")), recipe("broken")
    writes = iter(range(100))
    write = checkpoint.write_tensors

    def dies(path, tensors, metadata=None):
        if next(writes) == 3:  # the optimizer's file of the second checkpoint
            path.write_bytes(b"half a fi")
            raise SystemExit("killed")
        return write(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "write_tensors", dies)
    run_until_killed(broken, monkeypatch)
    run.start(broken)
    assert last_bytes(broken.run.out) == last_bytes(whole.run)


def test_killed_while_a_checkpoint_is_on_its_way_to_the_disk_resumes_to_the_same_bytes(recipe, monkeypatch):
    whole, broken, settle = run.start(recipe("whole")), recipe("broken"), checkpoint.settle

    def dies(folder, step, state, ready):
        if step == 4:
            raise SystemExit("killed")
        return settle(folder, step, state, ready)

    monkeypatch.setattr(checkpoint, "settle", dies)
    run_until_killed(broken, monkeypatch)
    assert (Path(broken.run.out) / "checkpoints" / ".000004.partial").is_dir()  # as a kill leaves it
    run.start(broken)
    assert last_bytes(broken.run.out) == last_bytes(whole.run)
    assert not [*Path(broken.run.out, "checkpoints").glob(".*")]


def test_training_goes_on_while_a_checkpoint_is_on_its_way_to_the_disk(recipe, monkeypatch):
    settle, next_step, keep = checkpoint.settle, threading.Event(), Keep()

    def slow(folder, step, state, ready):
        assert step != 2 or next_step.wait(timeout=30)  # or the run waits for the disk, and never comes to step 3
        return settle(folder, step, state, ready)

    class Watch(Keep):
        def __call__(self, event):
            if isinstance(event, Step) and event.step == 3:
                next_step.set()

    monkeypatch.setattr(checkpoint, "settle", slow)
    assert run.start(recipe(), [keep, Watch()]).status == "done"
    assert [event.step for event in keep if isinstance(event, Checkpoint)] == [2, 4, 6]


def test_what_is_told_of_a_checkpoint_is_on_the_disk(recipe):
    class Look(Keep):
        def __call__(self, event):
            if isinstance(event, Checkpoint):
                self.append(checkpoint.load_state(Path(event.path))["progress"]["step"])

    look = Look()
    run.start(recipe(), [look])
    assert look == [2, 4, 6]


def test_the_log_of_a_resumed_run_has_each_step_once(recipe):
    broken = recipe("broken", checkpoint__save_every=100)
    run.start(broken, [Ask(2)])
    run.start(broken)
    lines = [json.loads(line) for line in Path(broken.run.out, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["event"] == "eval"] == list(range(7))


def test_validation_at_another_interval_trains_the_same_bytes(recipe):
    often = run.start(recipe("often", train__eval_every=1))
    rarely = run.start(recipe("rarely", train__eval_every=6))
    assert last_bytes(often.run) == last_bytes(rarely.run)


def test_the_adapter_is_that_of_the_best_validation_loss(recipe):
    keep = Keep()
    end = run.start(recipe(schedule__learning_rate=0.5, train__eval_every=1, train__clip_norm=None), [keep])
    best = min((event for event in keep if isinstance(event, Eval)), key=lambda event: event.loss)
    config = json.loads((Path(end.adapter) / "adapter_config.json").read_text())
    assert config["mlxtune"]["step"] == best.step == end.best_step
    assert config["mlxtune"]["eval_loss"] == best.loss == end.best_eval_loss


def test_early_stopping_ends_well_and_says_so(recipe):
    end = run.start(recipe(schedule__learning_rate=0.5, train__eval_every=1, train__patience=2))
    assert (end.status, end.exit_code) == ("patience", 0)
    assert end.steps < 6


def test_a_finished_run_is_not_overwritten(recipe):
    run.start(recipe())
    before = last_bytes(recipe().run.out)
    with pytest.raises(BadRun, match="done its 6 steps"):
        run.start(recipe())
    with pytest.raises(BadRun, match="new or empty folder"):
        run.start(recipe(), resume="never")
    assert last_bytes(recipe().run.out) == before


def test_a_folder_of_other_files_is_never_written_into(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadRun, match="files that are no run"):
        run.start(recipe())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_changed_settings_are_listed_and_refused(recipe):
    run.start(recipe(), [Ask(2)])
    with pytest.raises(BadRun) as caught:
        run.start(recipe(schedule__learning_rate=2e-3, strategy__last_n=2, optimizer__moments="bf16"))
    assert "schedule.learning_rate: the run has 0.001, now 0.002" in str(caught.value)
    assert "strategy.last_n: the run has 1, now 2" in str(caught.value)
    assert "optimizer.moments: the run has 'fp32', now 'bf16'" in str(caught.value)


def test_changed_data_is_refused(recipe, data):
    run.start(recipe(), [Ask(2)])
    data.write_text(data.read_text().replace("hen", "fox"))
    with pytest.raises(BadRun, match="data: its content has changed"):
        run.start(recipe())


def test_how_often_one_looks_may_change(recipe):
    run.start(recipe(), [Ask(2)])
    end = run.start(recipe(checkpoint__save_every=1, checkpoint__keep=1, train__eval_every=3))
    assert end.status == "done"


@pytest.mark.parametrize("first", [False, True])
def test_gradient_checkpointing_may_begin_or_end_at_a_resumption_and_changes_no_byte(recipe, first):
    lora = {"strategy__name": "lora", "strategy__dropout": 0.2, "train__grad_accum": 2, "train__batch_size": 2}
    whole = run.start(recipe("whole", **lora))
    run.start(recipe("broken", **lora, backend__grad_checkpoint=first), [Ask(3)])
    end = run.start(recipe("broken", **lora, backend__grad_checkpoint=not first))
    assert last_bytes(end.run) == last_bytes(whole.run)


def test_a_constant_rate_goes_on_to_a_later_last_step_and_a_cosine_does_not(recipe):
    run.start(recipe("constant"))
    assert run.start(recipe("constant", train__max_steps=8)).steps == 8
    assert last_bytes(recipe("constant").run.out) == last_bytes(run.start(recipe("at once", train__max_steps=8)).run)
    run.start(recipe("cosine", schedule__name="cosine"))
    with pytest.raises(BadRun, match=r"train.max_steps: the run has 6, now 8"):
        run.start(recipe("cosine", schedule__name="cosine", train__max_steps=8))


def test_two_processes_never_share_a_folder(recipe):
    run.start(recipe(), [Ask(2)])
    with filelock.FileLock(Path(recipe().run.out, ".lock")), pytest.raises(BadRun, match="one that is in use"):
        run.start(recipe())


def test_a_damaged_checkpoint_is_refused(recipe):
    run.start(recipe(), [Ask(2)])
    weights = checkpoint.folders(Path(recipe().run.out))[-1] / checkpoint.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(BadRun, match="sha256"):
        run.start(recipe())


def test_a_checkpoint_of_other_tensors_is_refused(recipe, monkeypatch):
    run.start(recipe(), [Ask(2)])
    monkeypatch.setattr("mlxtune.run_folder.differences", lambda *_: [])
    with pytest.raises(BadRun, match="tensors differ"):
        run.start(recipe(strategy__last_n=2))


def test_a_loss_that_is_not_finite_stops_and_names_step_rows_and_last_good_checkpoint(recipe):
    end = run.start(recipe(schedule__learning_rate=1e30, train__clip_norm=None, checkpoint__save_every=1))
    assert (end.status, end.exit_code) == ("stopped", 3)
    assert "rows.jsonl:" in end.message
    assert f"The last good checkpoint: {checkpoint.folders(Path(end.run))[-1]}" in end.message
    assert f"step {end.steps + 1}" in end.message


def test_a_disk_without_room_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BadSetting, match="free for 3 checkpoints"):
        run.start(recipe())
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_stops_the_run_and_leaves_the_previous_checkpoint_good(recipe, monkeypatch):
    write, keep = checkpoint.write_tensors, Keep()

    def full(path, tensors, metadata=None):
        if any(isinstance(event, Checkpoint) for event in keep):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return write(path, tensors, metadata)

    monkeypatch.setattr(checkpoint, "write_tensors", full)
    end = run.start(recipe(), [keep])
    assert (end.status, end.exit_code) == ("stopped", 3)
    assert "No space left on device" in end.message
    assert [path.name for path in Path(end.run, "checkpoints").iterdir()] == ["000002"]
    assert checkpoint.load_state(Path(end.run, "checkpoints", "000002"))["progress"]["step"] == 2
    monkeypatch.undo()
    assert run.start(recipe()).status == "done"


def test_a_disk_that_fails_while_it_is_waited_for_stops_the_run(recipe, monkeypatch):
    settle = checkpoint.settle

    def fails(folder, step, state, ready):
        if step == 4:
            raise OSError(errno.EIO, "Input/output error", str(folder))
        return settle(folder, step, state, ready)

    monkeypatch.setattr(checkpoint, "settle", fails)
    end = run.start(recipe())
    assert (end.status, end.exit_code) == ("stopped", 3)
    assert "Input/output error" in end.message
    assert end.message.count("000002") == 1  # the last good checkpoint
    monkeypatch.undo()
    assert run.start(recipe()).status == "done"


def test_no_checkpoint_counts_on_an_adapter_that_was_not_saved(recipe, monkeypatch):
    settle, write, written, calls = adapter.settle, checkpoint.write, threading.Event(), []

    def fails(folder):
        calls.append(folder)
        if len(calls) == 1:  # of step 0
            return settle(folder)
        assert written.wait(timeout=30)  # the checkpoint of step 2, which counts on this adapter
        raise OSError(errno.EIO, "Input/output error", str(folder))

    def writes(*arguments):
        write(*arguments)
        written.set()

    monkeypatch.setattr(adapter, "settle", fails)
    monkeypatch.setattr(checkpoint, "write", writes)
    end = run.start(recipe(train__eval_every=2))
    assert (end.status, end.exit_code, len(calls)) == ("stopped", 3, 2)
    assert "There is no checkpoint yet." in end.message
    assert not [*Path(end.run, "checkpoints").iterdir()]


def test_the_end_event_has_what_train_json_promises(recipe):
    keep = Keep()
    run.start(recipe(), [keep])
    end = next(event for event in keep if isinstance(event, End))
    assert end.best_eval_loss is not None
    assert end.final_loss is not None
    assert end.peak_memory_bytes > 0
    assert end.wall_seconds > 0
