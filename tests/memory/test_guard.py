"""What holds a run to its memory: refused before it begins, stopped with a checkpoint, gone on with; MLX's limits."""

import json
from pathlib import Path

import pytest

from mlxtune.data.load import DataSettings
from mlxtune.errors import BadSetting
from mlxtune.events import Memory, Start, Step
from mlxtune.memory import guard as guards
from mlxtune.memory.guard import Guard, TooLarge
from mlxtune.memory.plan import plan
from mlxtune.memory.setup import Rows, rows_of
from mlxtune.planning.shape import micro_batch
from mlxtune.recipe.recipe import build
from mlxtune.run import session as run
from mlxtune.run.prepare import prepare
from mlxtune.storage import checkpoint
from tests.support.cli import BACKENDS, write
from tests.support.memory import outline_folder, setup_of, words

STEPS = 6
SHORT, LONG = 12, 260  # words


class Keep(list):
    __call__ = list.append

    def close(self):
        pass


def recipe_of(data, backend, **changes):
    """A run of one epoch, six steps of two rows, one of them with a long row."""
    settings = {
        "data.path": str(data),
        "data.valid_share": 0.0,
        "train.batch_size": 2,
        "backend.name": backend,
        "backend.precision": "fp32",
        "schedule.learning_rate": 1e-3,
        "strategy.last_n": 2,
        "checkpoint.save_every": 1,
        "checkpoint.keep": 20,
    }
    return build({}, settings | {key.replace("__", "."): value for key, value in changes.items()})


@pytest.fixture
def data(tmp_path):
    lengths = [SHORT] * (2 * STEPS - 1) + [LONG]
    return write(tmp_path / "rows.jsonl", [{"text": words(n, seed)} for seed, n in enumerate(lengths)])


def batches(feed):
    return [[micro_batch(feed.train, batch) for batch in window] for window in feed.windows(0)]


def tokens(rows):
    return sum(rows.lengths)


def seed_with_the_long_row_in(data, backend, steps):
    """A seed whose order has the long row in one of these steps, that step, and a limit that only it exceeds."""
    prepared = prepare(recipe_of(data, backend))
    needs = sorted(prepared.guard.needed(rows).peak_bytes for window in batches(prepared.feed) for rows in window)
    assert needs[-1] > 2 * needs[-2]
    for seed in range(100):
        order = [max(map(tokens, window)) for window in batches(prepared.feed._replace(seed=seed))]
        step = order.index(max(order)) + 1
        if step in steps:
            return seed, step, (needs[-1] + needs[-2]) // 2
    raise AssertionError("a hundred seeds put it nowhere else")


def steps_of(folder):
    lines = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if line["event"] == "step"]


def saved(folder, step):
    place = checkpoint.step_folder(Path(folder), step)
    return [(place / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limit_below_the_need_is_refused_with_the_parts_before_anything_is_written(tmp_path, mlxtune, backend):
    found = mlxtune("train", "--backend", backend, "--memory-limit", "2MB", "--out", "run")
    assert found.returncode == 2
    assert "expected a run that fits 2.0 MB" in found.stderr
    for part in ("trainable weights", "optimizer", "activations", "head loss"):
        assert f"{part} " in found.stderr
    assert "--fit" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_batch_that_is_too_large_early_is_refused_and_not_begun(tmp_path, data, backend):
    seed, _, limit = seed_with_the_long_row_in(data, backend, range(1, STEPS // 2 + 1))
    settings = {"train__seed": seed, "run__out": str(tmp_path / "run"), "backend__memory_limit_bytes": limit}
    with pytest.raises(BadSetting, match="expected a run that fits"):
        run.start(recipe_of(data, backend, **settings))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_a_late_batch_that_is_too_large_stops_the_run_and_loses_no_step(tmp_path, mlxtune, data, backend):
    seed, step, limit = seed_with_the_long_row_in(data, backend, range(STEPS // 2 + 2, STEPS + 1))
    whole = run.start(recipe_of(data, backend, train__seed=seed, run__out=str(tmp_path / "whole")))
    assert whole.exit_code == 0
    keep, out = Keep(), tmp_path / "broken"
    settings = {"train__seed": seed, "run__out": str(out), "checkpoint__save_every": 100}
    end = run.start(recipe_of(data, backend, **settings, backend__memory_limit_bytes=limit), [keep])
    [note] = [note for each in keep if isinstance(each, Start) for note in each.notes if "will stop" in note]
    assert f"before step {step}, with a checkpoint" in note
    assert (end.status, end.exit_code, end.steps) == ("stopped", 3, step - 1)
    assert "a batch that fits" in end.message
    assert f"--resume {out} --grad-checkpoint" in end.message
    assert steps_of(out) == steps_of(whole.run)[: step - 1]
    assert saved(out, step - 1) == saved(whole.run, step - 1)
    resumed = mlxtune("train", "--resume", out, "--memory-limit", "1GB")
    assert resumed.returncode == 0, resumed.stderr
    assert steps_of(out) == steps_of(whole.run)
    assert saved(out, STEPS) == saved(whole.run, STEPS)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_a_run_that_was_stopped_and_is_given_no_more_stops_again_and_keeps_what_it_has(tmp_path, data, backend):
    seed, step, limit = seed_with_the_long_row_in(data, backend, range(STEPS // 2 + 2, STEPS + 1))
    recipe = recipe_of(
        data, backend, train__seed=seed, run__out=str(tmp_path / "run"), backend__memory_limit_bytes=limit
    )
    run.start(recipe)
    before = saved(tmp_path / "run", step - 1)
    again = run.start(recipe)
    assert (again.exit_code, again.steps) == (3, step - 1)
    assert saved(tmp_path / "run", step - 1) == before


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_limit_of_what_is_planned_is_enough_and_one_byte_less_is_not(tmp_path, mlxtune, backend):
    rows = write(tmp_path / "even.jsonl", [{"text": words(40)} for _ in range(9)])  # two batches, and one is held out
    options = ("--data", rows, "--backend", backend, "--last-n", 1, "--precision", "fp32", "--dry-run", "--json")
    planned = json.loads(mlxtune("train", *options).stdout)["plan"]["predicted_peak_bytes"]
    assert mlxtune("train", *options, "--memory-limit", planned).returncode == 0
    assert mlxtune("train", *options, "--memory-limit", planned - 1).returncode == 2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.slow
def test_every_event_tells_active_peak_and_cached_bytes(tmp_path, data, backend):
    keep = Keep()
    end = run.start(recipe_of(data, backend, run__out=str(tmp_path / "run")), [keep])
    memories = [each.memory for each in keep if isinstance(each, Step)]
    assert len(memories) == STEPS
    assert all(0 < m.active_memory_bytes < m.peak_memory_bytes <= end.peak_memory_bytes for m in memories)
    assert memories[-1].cache_memory_bytes > 0
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    names = Memory.__dataclass_fields__
    assert {line["event"] for line in logged} >= {"start", "step", "checkpoint", "end"}
    assert all(name in line for line in logged if line["event"] != "notice" for name in names)
    assert [{name: line[name] for name in names} for line in logged if line["event"] == "step"] == [
        {name: getattr(memory, name) for name in names} for memory in memories
    ]


# MLX's own limits


def limits(mx):
    """MLX tells a limit only when it is set."""
    found = mx.set_memory_limit(1 << 40), mx.set_cache_limit(1 << 40)
    mx.set_memory_limit(found[0])
    mx.set_cache_limit(found[1])
    return found


class Look(Keep):
    """Reads MLX's limits at each step, and may fail there."""

    def __init__(self, mx, fault=None):
        super().__init__()
        self.mx, self.fault, self.seen = mx, fault, set()

    def __call__(self, event):
        if isinstance(event, Step):
            self.seen.add(limits(self.mx))
            if self.fault is not None:
                raise self.fault("a fault of a report")
        self.append(event)


@pytest.mark.parametrize("fault", [None, ValueError, OSError])
@pytest.mark.slow
def test_mlx_is_held_to_the_plan_during_a_run_and_given_back_after_it(tmp_path, data, fault):
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    recipe = recipe_of(data, "mlx", run__out=str(tmp_path / "run"))
    planned = prepare(recipe).plan
    before, look = limits(mx), Look(mx, fault)
    if fault is ValueError:
        with pytest.raises(ValueError, match="a fault of a report"):
            run.start(recipe, [look])
    else:
        assert run.start(recipe, [look]).exit_code == (0 if fault is None else 3)
    if mx.default_device().type == mx.DeviceType.cpu:  # on a GPU memory is held to the device's
        assert look.seen == {(planned.peak_bytes, planned.cache_bytes)}
    assert limits(mx) == before


@pytest.mark.slow
def test_a_limit_below_the_plan_is_that_to_which_mlx_is_held(tmp_path, data):
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    seed, _, limit = seed_with_the_long_row_in(data, "mlx", range(STEPS // 2 + 2, STEPS + 1))
    settings = {"train__seed": seed, "run__out": str(tmp_path / "run"), "backend__memory_limit_bytes": limit}
    look = Look(mx)
    run.start(recipe_of(data, "mlx", **settings), [look])
    assert {memory for memory, _ in look.seen} == {limit}


def test_the_check_at_the_start_stays_within_the_plan_though_the_validation_has_longer_rows(tmp_path):
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    rows = tmp_path / "rows"
    rows.mkdir()
    write(rows / "train.jsonl", [{"text": words(SHORT, seed)} for seed in range(2 * STEPS)])
    write(rows / "valid.jsonl", [{"text": words(2 * LONG, seed)} for seed in range(4)])
    settings = {"data__valid_share": DataSettings().valid_share, "train__max_steps": 1, "strategy__last_n": "all"}
    run.start(recipe_of(rows, "mlx", **settings, run__out=str(tmp_path / "run")))
    start = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert start["peak_memory_bytes"] < start["predicted_peak_bytes"]


@pytest.mark.slow
def test_a_second_run_of_a_process_measures_its_own_peak(tmp_path, data):
    pytest.importorskip("mlx.core", reason="MLX is not installed")
    large = run.start(recipe_of(data, "mlx", run__out=str(tmp_path / "large")))
    short = write(tmp_path / "short.jsonl", [{"text": words(SHORT, seed)} for seed in range(6)])
    small = run.start(recipe_of(short, "mlx", run__out=str(tmp_path / "small")))
    assert small.peak_memory_bytes < large.peak_memory_bytes / 2


# The guard alone


@pytest.fixture
def setup(tmp_path):
    return setup_of(outline_folder(tmp_path / "model"))


def batch_of(*lengths):
    return rows_of(lengths, sum(lengths) // 2, 8)


@pytest.fixture
def asked(monkeypatch):
    """The shapes for which the plan was asked."""
    shapes: list[Rows] = []

    def counted(setup, rows, *rest):
        shapes.append(rows)
        return plan(setup, rows, *rest)

    monkeypatch.setattr(guards, "plan", counted)
    return shapes


def test_the_plan_is_asked_only_for_shapes_larger_than_all_before(setup, asked):
    guard = Guard(setup, limit_bytes=10**12)
    order = [(64, 64), (32, 64), (64, 64), (16,), (128,), (127,), (64, 64, 8), (64, 63), (128, 64), (100, 30)]
    for step, lengths in enumerate(order):
        guard.check([batch_of(*lengths)], step)
    larger = [(64, 64), (128,), (64, 64, 8), (128, 64)]
    assert asked == [batch_of(*lengths) for lengths in larger]


def test_a_shape_that_does_not_fit_lets_no_larger_one_pass(setup, asked):
    small, large = batch_of(32), batch_of(512, 512)
    between = (plan(setup, small).peak_bytes + plan(setup, large).peak_bytes) // 2
    guard = Guard(setup, between)
    guard.check([small], step=1)
    for step in (2, 3):
        with pytest.raises(TooLarge, match=f"step {step}: expected a batch that fits .* 2 rows, the longest of 512"):
            guard.check([small, large], step)
    assert guard.fits(small)
    assert not guard.fits(large)
    assert asked == [small, large]


@pytest.mark.parametrize("ratio", [1.0, 1.3])
def test_a_peak_above_the_plan_raises_what_later_batches_are_expected_to_need(setup, ratio):
    small, large = batch_of(32), batch_of(512, 512)
    planned = plan(setup, small).peak_bytes, plan(setup, large).peak_bytes
    guard = Guard(setup, limit_bytes=round(1.2 * planned[1]))
    guard.check([small], step=1)
    assert guard.needed(large).peak_bytes == planned[1]
    guard.note(Memory(0, round(ratio * planned[0]), 0))
    assert guard.needed(large).peak_bytes == pytest.approx(ratio * planned[1], rel=1e-6)
    assert guard.fits(large) == (ratio < 1.2)


def test_what_the_check_at_the_start_took_says_nothing_of_the_batches_since(setup):
    """It is made on the run's largest batch, and small ones come first: each would be expected to take as much more."""
    guard = Guard(setup, 10**12)
    guard.before_bytes = plan(setup, batch_of(256)).peak_bytes
    guard.check([batch_of(16)], step=1)
    guard.note(Memory(0, guard.before_bytes, 0))
    assert guard.factor == 1
    guard.note(Memory(0, guard.before_bytes + 1, 0))
    assert guard.factor > 1


def test_a_peak_below_the_plan_lowers_nothing(setup):
    guard = Guard(setup, limit_bytes=10**12, factor=1.1)
    guard.check([batch_of(64)], step=1)
    guard.note(Memory(0, plan(setup, batch_of(64)).peak_bytes // 2, 0))
    assert guard.factor == 1.1


def test_what_the_validation_takes_counts_with_every_batch(setup):
    rows, evaluated = batch_of(16), batch_of(1024, 1024)
    alone, both = plan(setup, rows).peak_bytes, plan(setup, rows, evaluated).peak_bytes
    assert both > alone
    assert Guard(setup, alone).fits(rows)
    assert not Guard(setup, both - 1, evaluated=evaluated).fits(rows)
