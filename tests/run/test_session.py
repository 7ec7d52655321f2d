"""A run in its folder: what it leaves, how it goes on, what it refuses, how it ends."""

import errno
import json
import math
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import filelock
import pytest

from mlxtune.adapters import folder as adapter
from mlxtune.backends.base import LossSum
from mlxtune.errors import BadRun, BadSetting
from mlxtune.events import Checkpoint, End, Eval, Start, Step
from mlxtune.run import session as run
from mlxtune.run.prepare import prepare
from mlxtune.run.signals import ASKING
from mlxtune.storage import checkpoint
from tests.support.run import Ask, Keep, last_bytes, recipes, write_rows
from tests.support.slow import all_but


@pytest.fixture
def data(tmp_path):
    return write_rows(tmp_path)


@pytest.fixture
def recipe(data):
    return recipes(data)


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


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.slow
def test_a_signal_finishes_the_step_saves_and_ends_with_its_code(recipe, number):
    end = run.start(recipe(), [Ask(3, number)])
    assert (end.status, end.steps, end.exit_code) == ("interrupted", 3, 128 + number)
    assert "--resume" in end.message
    assert checkpoint.folders(Path(end.run))[-1].name == "000003"


@pytest.mark.parametrize("stop", all_but(["3"], {str(step): step for step in (1, 2, 3, 5)}))
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


@pytest.mark.slow
@pytest.mark.parametrize("packs", [False, True])
def test_the_order_of_rows_does_not_depend_on_whether_they_are_packed(recipe, monkeypatch, packs):
    """It is one of the model, the seed and the epoch alone: a run may go on in another form."""
    pytest.importorskip("mlx", reason="NumPy always packs")
    from mlxtune.backends.mlx.passes import self_check

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
    assert other == pytest.approx(unbroken, rel=1e-4)


@pytest.mark.slow
def test_a_run_that_does_not_fit_once_its_rows_are_padded_is_refused_and_leaves_nothing(recipe, monkeypatch):
    pytest.importorskip("mlx", reason="NumPy always packs")
    from mlxtune.backends.mlx.passes import self_check

    packed = prepare(recipe(backend__name="mlx")).plan.peak_bytes
    limited = recipe(backend__name="mlx", backend__memory_limit_bytes=packed)
    monkeypatch.setattr(self_check, "LADDER", [form for form in self_check.LADDER if not form.packed])
    with pytest.raises(BadSetting, match="fits"):
        run.start(limited)
    assert [path.name for path in Path(limited.run.out).iterdir()] in ([], [".lock"])
    monkeypatch.undo()
    assert run.start(recipe(backend__name="mlx")).status == "done"


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_is_told_of_a_checkpoint_is_on_the_disk(recipe):
    class Look(Keep):
        def __call__(self, event):
            if isinstance(event, Checkpoint):
                self.append(checkpoint.load_state(Path(event.path))["progress"]["step"])

    look = Look()
    run.start(recipe(), [look])
    assert look == [2, 4, 6]


@pytest.mark.slow
def test_the_log_of_a_resumed_run_has_each_step_once(recipe):
    broken = recipe("broken", checkpoint__save_every=100)
    run.start(broken, [Ask(2)])
    run.start(broken)
    lines = [json.loads(line) for line in Path(broken.run.out, "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines if line["event"] == "eval"] == list(range(7))


@pytest.mark.slow
def test_validation_at_another_interval_trains_the_same_bytes(recipe):
    often = run.start(recipe("often", train__eval_every=1))
    rarely = run.start(recipe("rarely", train__eval_every=6))
    assert last_bytes(often.run) == last_bytes(rarely.run)


@pytest.mark.slow
def test_the_adapter_is_that_of_the_best_validation_loss(recipe):
    keep = Keep()
    end = run.start(recipe(schedule__learning_rate=0.05, train__eval_every=1, train__clip_norm=None), [keep])
    trained = [event for event in keep if isinstance(event, Eval) and event.step > 0]
    best = min(trained, key=lambda event: event.loss)
    config = json.loads((Path(end.adapter) / "adapter_config.json").read_text())
    assert config["mlxtune"]["step"] == best.step == end.best_step == end.adapter_step
    assert config["mlxtune"]["eval_loss"] == best.loss == end.best_eval_loss


def test_early_stopping_ends_well_and_says_so(recipe):
    end = run.start(recipe(schedule__learning_rate=0.05, train__eval_every=1, train__patience=2, train__max_steps=60))
    assert (end.status, end.exit_code) == ("patience", 0)
    assert end.steps < 60


@pytest.mark.slow
def test_a_finished_run_is_already_done_with_its_result_and_reads_no_weights(recipe, monkeypatch):
    first = run.start(recipe())
    before, log = last_bytes(first.run), Path(first.run, "metrics.jsonl").read_bytes()
    monkeypatch.setattr("mlxtune.storage.checkpoint.load_state", None)  # which reads all weights
    again = run.start(recipe())
    assert (again.status, again.exit_code, again.message) == ("done", 0, "Already done.")
    assert replace(again, message="", memory=first.memory) == first
    assert run.resume(Path(first.run), {}).message == "Already done."
    assert last_bytes(first.run) == before
    assert Path(first.run, "metrics.jsonl").read_bytes() == log
    with pytest.raises(BadRun, match="new or empty folder"):
        run.start(recipe(), resume="never")


@pytest.mark.slow
def test_a_run_out_of_patience_is_done_until_it_is_given_more(recipe):
    settings = {"schedule__learning_rate": 0.05, "train__eval_every": 1, "train__max_steps": 60}
    first = run.start(recipe(**settings, train__patience=2))
    assert run.start(recipe(**settings, train__patience=2)).message.startswith("Already done.")
    assert run.start(recipe(**settings, train__patience=4)).steps > first.steps


@pytest.mark.slow
def test_a_run_that_was_killed_after_its_last_checkpoint_ends_as_the_unbroken_one(recipe):
    whole = run.start(recipe("whole", data__valid_share=0.0, train__eval_every=None))
    broken = run.start(recipe("broken", data__valid_share=0.0, train__eval_every=None))
    log = Path(broken.run, "metrics.jsonl")
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))  # without its end
    shutil.rmtree(Path(broken.run, "adapter"))
    end = run.start(recipe("broken", data__valid_share=0.0, train__eval_every=None))
    assert (end.status, end.steps, end.message) == ("done", 6, "")
    assert last_bytes(end.run) == last_bytes(whole.run)
    weights = [Path(each.run, "adapter", adapter.WEIGHTS).read_bytes() for each in (whole, end)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_run_whose_checkpoints_are_gone_begins_again_and_says_so(recipe):
    run.start(recipe(), [Ask(3)])
    shutil.rmtree(Path(recipe().run.out, "checkpoints"))
    told = Keep()
    end = run.start(recipe(), [told])
    start = next(event for event in told if isinstance(event, Start))
    assert start.first_step == 1
    assert "There is no checkpoint in this run's folder: it begins again at step 1." in start.notes
    assert last_bytes(end.run) == last_bytes(run.start(recipe("whole")).run)


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


@pytest.mark.slow
def test_how_often_one_looks_may_change(recipe):
    run.start(recipe(), [Ask(2)])
    end = run.start(recipe(checkpoint__save_every=1, checkpoint__keep=1, train__eval_every=3))
    assert end.status == "done"


@pytest.mark.slow
@pytest.mark.parametrize("first", [False, True])
def test_gradient_checkpointing_may_begin_or_end_at_a_resumption_and_changes_no_byte(recipe, first):
    lora = {"strategy__name": "lora", "strategy__dropout": 0.2, "train__grad_accum": 2, "train__batch_size": 2}
    whole = run.start(recipe("whole", **lora))
    run.start(recipe("broken", **lora, backend__grad_checkpoint=first), [Ask(3)])
    end = run.start(recipe("broken", **lora, backend__grad_checkpoint=not first))
    assert last_bytes(end.run) == last_bytes(whole.run)


@pytest.mark.slow
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
    monkeypatch.setattr("mlxtune.run.identity.differences", lambda *_: [])
    with pytest.raises(BadRun, match="tensors differ"):
        run.start(recipe(strategy__last_n=2))


@pytest.fixture
def sick(monkeypatch):
    """A function from a step to a learner whose loss is NaN in that step."""

    def make(step):
        from mlxtune.backends.choose import blueprint as make_blueprint

        def blueprint(settings, job):
            made = make_blueprint(settings, job)
            healthy = made.learner
            made.learner = lambda *given: sickened(healthy(*given))
            return made

        def sickened(made):
            healthy = made.step

            def stepped(batches, rate):
                result = healthy(batches, rate)
                return result if made.steps < step else result._replace(loss=LossSum(math.nan, result.loss.counted))

            made.step = stepped
            return made

        monkeypatch.setattr("mlxtune.run.prepare.make_blueprint", blueprint)

    return make


def test_a_loss_that_is_not_finite_stops_and_names_step_rows_and_last_good_checkpoint(recipe, sick):
    sick(5)
    end = run.start(recipe(checkpoint__save_every=3))
    assert (end.status, end.exit_code, end.steps) == ("stopped", 3, 4)
    assert "rows.jsonl:" in end.message
    assert [path.name for path in checkpoint.folders(Path(end.run))] == ["000003"]
    assert f"The last good checkpoint: {checkpoint.folders(Path(end.run))[-1]}" in end.message
    assert "step 5" in end.message


@pytest.mark.parametrize("keep", [1, 2])
def test_a_checkpoint_is_good_when_the_step_after_it_was_and_the_last_good_one_stays(recipe, sick, keep):
    sick(5)
    asked = recipe(checkpoint__save_every=1, checkpoint__keep=keep, data__valid_share=0.0, train__eval_every=None)
    end = run.start(asked)
    assert (
        [path.name for path in checkpoint.folders(Path(end.run))] == ["000003"] if keep == 1 else ["000002", "000003"]
    )
    assert "The last good checkpoint: " + str(checkpoint.folders(Path(end.run))[-1]) in end.message
    assert Path(end.run, "checkpoints", "000004-not-finite").is_dir()  # no one's work is thrown away
    assert "000004-not-finite" in end.message
    assert end.adapter is None


def test_one_checkpoint_stays_where_one_is_kept(recipe):
    end = run.start(recipe(checkpoint__save_every=1, checkpoint__keep=1, train__eval_every=6))
    assert [path.name for path in Path(end.run, "checkpoints").iterdir()] == ["000006"]


def test_a_disk_without_room_is_refused_before_anything_is_written(recipe, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BadSetting, match="free for 3 checkpoints"):
        run.start(recipe())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
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


@pytest.mark.slow
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
    write, written, calls = checkpoint.write, threading.Event(), []

    def fails(folder):
        calls.append(folder)
        assert written.wait(timeout=30)  # the checkpoint of step 2, which counts on this adapter
        raise OSError(errno.EIO, "Input/output error", str(folder))

    def writes(*arguments):
        write(*arguments)
        written.set()

    monkeypatch.setattr(adapter, "settle", fails)
    monkeypatch.setattr(checkpoint, "write", writes)
    end = run.start(recipe(train__eval_every=2))
    assert (end.status, end.exit_code, len(calls)) == ("stopped", 3, 1)
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
