"""What a run leaves as its result, whatever ends it: never the weights that it began with, and each with its step."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlxtune import engine
from mlxtune.events import Eval, Notice, Step
from mlxtune.memory.guard import TooLarge
from mlxtune.run import session as run
from mlxtune.run.outcome import CLEARLY, Losses
from mlxtune.run.signals import ASKING
from mlxtune.storage import checkpoint
from tests.support.backend import BACKEND
from tests.support.run import Ask, Keep, last_bytes, recipes, write_rows

RARELY = {"train__eval_every": 100}


@pytest.fixture
def recipe(tmp_path):
    return recipes(write_rows(tmp_path))


def about(folder):
    """What an adapter says of itself."""
    return json.loads((Path(folder) / "adapter_config.json").read_text())["mlxtune"]


def same_weights(folder, saved):
    """Whether an adapter has the weights of a checkpoint."""
    left, right = load_file(Path(folder) / "adapters.safetensors"), load_file(saved / checkpoint.WEIGHTS)
    return left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


class AskAtEval(Ask):
    """Asks to stop after the validation at a step."""

    def __call__(self, event):
        if isinstance(event, Eval) and event.step == self.step:
            signal.raise_signal(self.number)


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.slow
def test_interrupted_before_the_second_validation_the_last_weights_are_validated_and_offered(recipe, number):
    end = run.start(recipe(**RARELY), [Ask(3, number)])
    assert (end.status, end.exit_code, end.adapter_step) == ("interrupted", 128 + number, 3)
    assert end.best_eval_loss == end.last_eval_loss < end.start_loss
    said = {"base_model": None, "step": 3, "eval_loss": end.best_eval_loss, "untied_head": False}
    assert said.items() <= about(end.adapter).items()
    assert same_weights(end.adapter, checkpoint.folders(Path(end.run))[-1])


def test_interrupted_with_a_better_validation_before_the_last_weights_lie_beside(recipe, monkeypatch):
    losses = iter([5.0, 4.0, 4.5])  # of steps 0, 2, 3
    validate = engine.validate

    def told(learner, feed, progress):
        event = validate(learner, feed, progress)
        loss = next(losses)
        best = progress.step > 0 and (progress.best_loss is None or loss < progress.best_loss)
        return replace(event, loss=loss, best=best)

    monkeypatch.setattr(engine, "validate", told)
    end = run.start(recipe(train__eval_every=2), [Ask(3)])
    assert (end.adapter_step, about(end.adapter)["eval_loss"]) == (2, 4.0)
    assert (about(end.adapter_last)["step"], about(end.adapter_last)["eval_loss"]) == (3, 4.5)
    assert same_weights(end.adapter_last, checkpoint.folders(Path(end.run))[-1])


@pytest.mark.slow
def test_a_validation_that_an_interruption_asked_for_changes_nothing_that_the_resumed_run_leaves(recipe):
    whole = run.start(recipe("whole", train__eval_every=2, train__max_steps=7))
    broken = recipe("broken", train__eval_every=2, train__max_steps=7)
    for step in (1, 3, 5):
        end = run.start(broken, [Ask(step)])
        assert end.adapter_step == step  # it falls, so that each is the best
    end = run.start(broken)
    assert last_bytes(end.run) == last_bytes(whole.run)
    contents = [{p.name: p.read_bytes() for p in Path(each.run, "adapter").iterdir()} for each in (whole, end)]
    assert contents[0] == contents[1]
    assert end.best_step == whole.best_step
    steps = [[e["step"] for e in logged(each.run, "eval")] for each in (whole, end)]
    assert steps[0] == steps[1]
    assert not [path for path in Path(end.run).iterdir() if path.name.startswith(".adapter")]


def logged(folder, kind):
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["event"] == kind]


def test_where_validation_would_take_long_the_last_weights_are_saved_without(recipe, monkeypatch):
    monkeypatch.setattr("mlxtune.run.results.QUICK_SECONDS", 0.0)
    end = run.start(recipe(**RARELY), [Ask(3)])
    assert (end.adapter_step, end.best_eval_loss, Path(end.adapter).name) == (3, None, "adapter-last")
    assert about(end.adapter)["eval_loss"] is None
    assert not Path(end.run, "adapter").exists()


@pytest.mark.slow
def test_asked_twice_it_stops_at_once_without_a_checkpoint_and_says_so(recipe):
    class Twice(Ask):
        def __call__(self, event):
            if isinstance(event, Notice) and event.step == self.step:  # it is saving
                signal.raise_signal(self.number)

    end = run.start(recipe(**RARELY), [Ask(3), Twice(3)])
    assert (end.status, end.exit_code) == ("interrupted", 130)
    assert "Stopped at once, without a checkpoint of step 3: the last is of step 2." in end.message
    assert [path.name for path in checkpoint.folders(Path(end.run))] == ["000002"]
    assert run.start(recipe(**RARELY)).status == "done"


@pytest.mark.parametrize("number", ASKING)
@pytest.mark.slow
def test_interrupted_before_the_first_step_nothing_is_offered_and_it_says_so(recipe, number):
    end = run.start(recipe(), [AskAtEval(0, number)])
    assert (end.status, end.exit_code, end.adapter) == ("interrupted", 128 + number, None)
    assert "before the first step: nothing was trained" in end.message
    assert not checkpoint.folders(Path(end.run))
    assert run.start(recipe()).status == "done"


def test_a_signal_in_the_first_validation_does_not_wait_for_its_end(recipe, monkeypatch):
    rows = []
    evaluate = engine.evaluate

    def asked(learner, feed_rows, batches):
        signal.raise_signal(signal.SIGINT)
        rows.append(batches)
        return evaluate(learner, feed_rows, batches)

    monkeypatch.setattr(engine, "evaluate", asked)
    assert run.start(recipe()).exit_code == 130
    assert not rows


@pytest.mark.slow
def test_a_signal_in_a_later_validation_loses_no_step(recipe, monkeypatch):
    whole = run.start(recipe("whole", train__eval_every=4))
    validate = engine.validate

    def asked(learner, feed, progress):
        if progress.step == 4:
            monkeypatch.undo()
            signal.raise_signal(signal.SIGTERM)
        return validate(learner, feed, progress)

    monkeypatch.setattr(engine, "validate", asked)
    broken = recipe("broken", train__eval_every=4)
    end = run.start(broken)
    assert (end.exit_code, end.steps, checkpoint.folders(Path(end.run))[-1].name) == (143, 4, "000004")
    assert last_bytes(run.start(broken).run) == last_bytes(whole.run)


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.slow
def test_a_resumed_run_that_is_interrupted_before_its_next_step_is_as_it_was(recipe, times):
    run.start(recipe(**RARELY), [Ask(2)])
    before = last_bytes(recipe().run.out)

    class AtTheStart(Keep):
        def __call__(self, event):
            if event.kind == "start":
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)

    end = run.start(recipe(**RARELY), [AtTheStart()])
    assert (end.exit_code, end.steps) == (130, 2)
    assert "Interrupted before step 3: all is as it was." in end.message
    assert last_bytes(end.run) == before


def test_stopped_for_memory_the_last_weights_are_validated_too(recipe, monkeypatch):
    from mlxtune.memory.guard import Guard

    def check(_self, _batches, step):
        if step == 4:
            raise TooLarge("step 4", expected="a batch that fits", found="one that does not")

    monkeypatch.setattr(Guard, "check", check)
    end = run.start(recipe(**RARELY))
    assert (end.status, end.exit_code, end.steps, end.adapter_step) == ("stopped", 3, 3, 3)
    assert end.last_eval_loss is not None


@pytest.mark.slow
def test_done_with_a_better_validation_before_both_are_there(recipe):
    keep = Keep()
    end = run.start(recipe(schedule__learning_rate=0.05, train__eval_every=1, train__max_steps=40), [keep])
    evals = {event.step: event.loss for event in keep if isinstance(event, Eval)}
    assert end.best_step == min(set(evals) - {0}, key=evals.__getitem__) < 40
    assert about(end.adapter)["step"] == end.best_step
    assert {"base_model": None, "step": 40, "eval_loss": evals[40]}.items() <= about(end.adapter_last).items()


@pytest.mark.slow
def test_without_validation_rows_the_last_weights_are_the_result(recipe):
    end = run.start(recipe(data__valid_share=0.0, train__eval_every=None), [Ask(3)])
    assert (end.adapter_step, Path(end.adapter).name, end.adapter_last) == (3, "adapter", None)
    done = run.start(recipe(data__valid_share=0.0, train__eval_every=None))
    assert (done.adapter_step, done.learned, done.start_loss > done.last_eval_loss) == (6, True, True)


@pytest.mark.slow
@pytest.mark.parametrize(("share", "every", "patience"), [(0.0, None, None), (0.25, 1, None), (0.25, 1, 2)])
def test_a_run_that_diverged_is_no_success(recipe, share, every, patience):
    changes = {"schedule__learning_rate": 3.0, "train__eval_every": every, "data__valid_share": share}
    end = run.start(recipe(**changes, train__patience=patience))
    assert (end.status, end.exit_code, end.learned) == ("diverged", 3, False)
    assert f"{end.start_loss:.4f} before, {end.last_eval_loss:.4f} now" in end.message
    assert "Nothing was learned" in end.message
    assert "learning rate 3.0e0 is likely too high: try --learning-rate 3.0e-1" in end.message
    assert about(end.adapter)["step"] > 0


def test_a_rate_too_small_to_learn_is_told_and_is_no_divergence(recipe):
    end = run.start(recipe(schedule__learning_rate=1e-30))
    assert (end.status, end.exit_code, end.learned) == ("done", 0, False)
    assert "changes little: raise it, or train longer" in end.message


def test_a_validation_that_is_not_finite_is_never_the_best_and_ends_the_run(recipe, monkeypatch):
    evaluate = engine.evaluate
    calls = iter(range(100))

    def broken(learner, rows, batches):
        total, n_tokens = evaluate(learner, rows, batches)
        return total._replace(loss_sum=float("nan")) if next(calls) == 2 else total, n_tokens

    monkeypatch.setattr(engine, "evaluate", broken)
    keep = Keep()
    end = run.start(recipe(train__eval_every=2), [keep])
    assert (end.status, end.exit_code, end.steps) == ("stopped", 3, 4)
    assert "step 4: expected a finite validation loss, found nan" in end.message
    assert (end.adapter_step, about(end.adapter)["step"]) == (2, 2)
    assert [path.name for path in checkpoint.folders(Path(end.run))] == ["000002"]


def test_a_first_validation_that_is_not_finite_blames_no_learning_rate(recipe, monkeypatch):
    evaluate = engine.evaluate

    def broken(*asked):
        total, n_tokens = evaluate(*asked)
        return total._replace(loss_sum=float("inf")), n_tokens

    monkeypatch.setattr(engine, "evaluate", broken)
    end = run.start(recipe())
    assert (end.exit_code, end.adapter) == (3, None)
    assert "step 0" in end.message
    assert "--learning-rate" not in end.message


LEARNED = {
    "better": (Losses(5.75, 5.0, 5.5, 7.0), True, False),
    "better once, worse at the end": (Losses(5.75, 5.0, 9.0, 7.0), True, False),
    "a little worse": (Losses(5.75, 5.76, 5.80, 7.0), False, False),
    "clearly worse": (Losses(5.75, 5.76, 5.90, 7.0), False, True),
    "at the edge": (Losses(5.75, 5.76, 5.75 + CLEARLY, 7.0), False, False),
    "blown up": (Losses(9.9, 7.0, 7.0, 7.0), False, True),
    "even probabilities from the start": (Losses(7.0, 7.0, 7.0, 7.0), False, False),
    "never validated": (Losses(5.75, None, None, 7.0), None, False),
    "not known before": (Losses(None, 5.0, 5.0, 7.0), None, False),
}


@pytest.mark.parametrize(("losses", "learned", "diverged"), LEARNED.values(), ids=LEARNED)
def test_the_rule_of_what_was_learned(losses, learned, diverged):
    assert (losses.learned, losses.diverged) == (learned, diverged)


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "mlx", reason="mlx-lm comes with MLX")
def test_mlx_lm_loads_the_last_adapter_too(recipe):
    from mlx_lm.utils import load_adapters

    from mlxtune.backends.mlx.model.load import load_lazily
    from mlxtune.models.hub import BUILT_IN

    end = run.start(recipe(schedule__learning_rate=0.05, train__eval_every=1, train__max_steps=40))
    for folder in (end.adapter, end.adapter_last):
        load_adapters(load_lazily(BUILT_IN, "fp32"), folder)


def test_the_end_of_a_step_is_waited_for(recipe):
    keep = Keep()
    run.start(recipe(**RARELY), [keep, Ask(1)])
    assert [event.step for event in keep if isinstance(event, Step)] == [1]
