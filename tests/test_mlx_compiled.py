"""Passes that are compiled where shapes come again, as on a GPU. On a processor MLX uses the system's compiler."""

import shutil

import mlx.core as mx
import pytest

from mlxtune.backends.mlx import compiled
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support_models import contents, make_batch, make_learner, write_model

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")
RATE = 1e-3
LAST = LastN(last_n=1)
STEPS = 7


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path, num_hidden_layers=2)


def on_gpu(model, strategy=LAST, precision="fp32", patience_seconds=0.0):
    """A learner that tries each shape at its second step."""
    learner = make_learner(model, strategy, precision)
    learner.compiled.may, learner.compiled.patience_seconds = True, patience_seconds
    return learner


def shapes(learner):
    return list(learner.compiled._shapes.values())


def plain(model, windows, strategy=LAST, precision="fp32"):
    """What steps give that are never compiled."""
    learner = make_learner(model, strategy, precision)
    return [learner.step(window, RATE) for window in windows], contents(learner)


@pytest.fixture
def any_speed(monkeypatch):
    """Compiled passes are not refused for their time or their memory, which a test cannot know."""
    monkeypatch.setattr(compiled, "FASTER", float("inf"))
    monkeypatch.setattr(compiled, "LARGER", float("inf"))


@pytest.mark.usefixtures("any_speed")
@pytest.mark.parametrize(
    ("strategy", "precision", "grad_accum"),
    [
        pytest.param(LAST, "fp32", 2, id="last"),
        pytest.param(Full(), "bf16", 1, id="full", marks=pytest.mark.slow),
        pytest.param(Lora(rank=2, dropout=0.3), "fp32", 2, id="dropout", marks=pytest.mark.slow),
        pytest.param(LAST, "fp16", 1, id="fp16", marks=pytest.mark.slow),
    ],
)
def test_what_is_compiled_changes_no_byte(model, strategy, precision, grad_accum):
    windows = [[make_batch(10 * step + number) for number in range(grad_accum)] for step in range(STEPS)]
    learner = on_gpu(model, strategy, precision)
    results = [learner.step(window, RATE) for window in windows]
    assert (results, contents(learner)) == plain(model, windows, strategy, precision)
    (shape,) = shapes(learner)
    assert shape.pass_ is not None
    assert len(shape.compiled) == compiled.TIMED_STEPS


@pytest.mark.usefixtures("any_speed")
def test_ragged_rows_are_not_compiled(model):
    learner = on_gpu(model)
    for step in range(STEPS):
        learner.step([make_batch(0, lengths=(20 + step, 9))], RATE)
    assert learner.compiled.tried == 0
    learner.step([make_batch(1, lengths=(20, 9))], RATE)
    assert learner.compiled.tried == 1


@pytest.mark.usefixtures("any_speed")
def test_only_so_many_shapes_are_compiled_and_watched(model, monkeypatch):
    monkeypatch.setattr(compiled, "MOST_SHAPES", 1)
    monkeypatch.setattr(compiled, "MOST_WATCHED", 3)
    learner = on_gpu(model)
    for length in (20, 20, 20, 21, 21, 22, 22, 23, 24):
        learner.step([make_batch(0, lengths=(length, 9))], RATE)
        assert len(shapes(learner)) <= 3
    assert learner.compiled.tried == 1
    assert shapes(learner)[0].pass_ is not None  # what is compiled is not forgotten


def test_a_short_run_waits_for_no_compiler(model):
    learner = on_gpu(model, patience_seconds=compiled.PATIENCE_SECONDS)
    for _ in range(STEPS):
        learner.step([make_batch(0)], RATE)
    assert learner.compiled.tried == 0
    (shape,) = shapes(learner)
    assert 0 < shape.plain <= shape.seconds < compiled.PATIENCE_SECONDS


def test_nothing_is_compiled_on_a_processor_or_where_memory_was_asked_for_instead(model, monkeypatch):
    assert not make_learner(model, LAST).compiled.may
    for on_processor, checkpoint, may in ((True, False, False), (False, False, True), (False, True, False)):
        monkeypatch.setattr("mlxtune.backends.mlx.device.is_processor", lambda found=on_processor: found)
        assert make_learner(model, LAST, grad_checkpoint=checkpoint).compiled.may == may


def other_bits(function, **_):
    def changed(*arrays):
        loss, gradients = function(*arrays)
        name = next(iter(gradients))
        return loss, {**gradients, name: gradients[name] * (1 + 2.0**-23)}

    return changed


def failing(_, **__):
    def fail(*_):
        raise RuntimeError("no such kernel")

    return fail


@pytest.mark.usefixtures("any_speed")
@pytest.mark.parametrize("broken", [other_bits, failing])
def test_a_compiled_pass_that_fails_or_gives_another_bit_is_not_used(model, monkeypatch, broken):
    monkeypatch.setattr(mx, "compile", broken)
    learner, windows = on_gpu(model), [[make_batch(step)] for step in range(STEPS)]
    results = [learner.step(window, RATE) for window in windows]
    assert (results, contents(learner)) == plain(model, windows)
    (shape,) = shapes(learner)
    assert shape.refused
    assert not shape.compiled
    assert learner.compiled.tried == 1


@pytest.mark.parametrize(("limit", "steps"), [("FASTER", compiled.TIMED_STEPS), ("LARGER", 0)])
def test_a_compiled_pass_that_is_not_faster_or_takes_more_is_given_up(model, monkeypatch, limit, steps):
    for name in ("FASTER", "LARGER"):
        monkeypatch.setattr(compiled, name, 0.0 if name == limit else float("inf"))
    learner, windows = on_gpu(model), [[make_batch(step)] for step in range(STEPS)]
    results = [learner.step(window, RATE) for window in windows]
    assert (results, contents(learner)) == plain(model, windows)
    (shape,) = shapes(learner)
    assert shape.refused
    assert len(shape.compiled) == steps
