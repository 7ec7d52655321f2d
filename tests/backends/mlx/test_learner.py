"""The MLX learner's step: one evaluation, accumulation, 16-bit weights, the loss scale, determinism."""

import math
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.trainer import default_loss

from mlxtune.backends import loss_scale
from mlxtune.backends.base import LossSum
from mlxtune.backends.loss_scale import LossScale
from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.backends.mlx.passes import self_check
from mlxtune.backends.mlx.passes.forward import WHOLE, cross_entropy
from mlxtune.backends.mlx.update import parameters
from mlxtune.objectives.base import Found
from mlxtune.optim import clip, rounding
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.sgd import Sgd
from mlxtune.storage import checkpoint
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.backend import save
from tests.support.batches import joined
from tests.support.mlx import contents, make_batch, make_learner, step_peak_bytes, write_model
from tests.support.slow import all_but

LAST = LastN(last_n=2)
DROPOUT = Lora(rank=4, scale=2.0, dropout=0.1)
MASTER = AdamW(low_precision="master")
BF16_MOMENTS = AdamW(moments="bf16")
MOMENTUM_IN_BF16 = Sgd(momentum=0.9, nesterov=True, moments="bf16")
KINDS = {
    "fp32": (LAST, "fp32", {}),
    "no clipping": (LAST, "fp32", {"clip_norm": None}),
    "full": (Full(), "fp32", {}),
    "bf16": (LAST, "bf16", {}),
    "bf16 master": (LAST, "bf16", {"optimizer": MASTER}),
    "fp16": (LAST, "fp16", {}),
    "fp16 master": (LAST, "fp16", {"optimizer": MASTER}),
    "bf16 lora dropout": (DROPOUT, "bf16", {}),
    "fp16 lora dropout": (DROPOUT, "fp16", {}),
    "fp32, moments in bf16": (LAST, "fp32", {"optimizer": BF16_MOMENTS}),
    "bf16, moments in bf16": (LAST, "bf16", {"optimizer": BF16_MOMENTS, "clip_norm": None}),
    "fp16 full, moments in bf16": (Full(), "fp16", {"optimizer": BF16_MOMENTS}),
    "bf16 adam": (LAST, "bf16", {"optimizer": Adam(weight_decay=0.1)}),
    "fp16 sgd": (LAST, "fp16", {"optimizer": Sgd(weight_decay=0.1)}),
    "bf16 sgd master": (LAST, "bf16", {"optimizer": Sgd(low_precision="master")}),
    "bf16 sgd, momentum in bf16": (LAST, "bf16", {"optimizer": MOMENTUM_IN_BF16}),
    "fp32 lora, sgd": (DROPOUT, "fp32", {"optimizer": Sgd()}),
}
QUICK = ("fp32", "bf16", "fp16 lora dropout", "bf16, moments in bf16")
EVERY_KIND = pytest.mark.parametrize(("strategy", "precision", "changes"), all_but(QUICK, KINDS))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


def window(step, grad_accum=2):
    return [make_batch(10 * step + i, lengths=(24 - 3 * i, 17, 9, 20)) for i in range(grad_accum)]


def run_steps(learner, steps, rate=1e-3):
    return [learner.step(window(step), rate) for step in steps]


# One evaluation a step


class Watch:
    """Counts evaluations, and sees work outside of them by the memory that it takes."""

    def __init__(self, monkeypatch):
        self.calls, self.bytes_outside = 0, 0
        for name in ("eval", "async_eval"):
            monkeypatch.setattr(mx, name, self._counted(getattr(mx, name)))
        mx.synchronize()
        self._begin()

    def _begin(self):
        mx.reset_peak_memory()
        self.active = mx.get_active_memory()

    def _look(self):
        self.bytes_outside = max(self.bytes_outside, mx.get_peak_memory() - self.active)

    def _counted(self, evaluate):
        def counted(*arrays):
            self._look()
            self.calls += 1
            evaluate(*arrays)
            self._begin()

        return counted

    def end(self):
        self._look()
        return self


SCALARS_AND_TOKENS = 8192  # bytes: more than the constants and tokens of a step, far less than its activations


@EVERY_KIND
@pytest.mark.parametrize("grad_accum", [1, 3])
def test_a_step_is_exactly_one_evaluation(model, monkeypatch, strategy, precision, changes, grad_accum):
    learner = make_learner(model, strategy, precision, **changes)
    watch = Watch(monkeypatch)
    learner.step(window(1, grad_accum), 1e-3)
    assert watch.end().calls == 1
    assert watch.bytes_outside < SCALARS_AND_TOKENS


def test_the_watch_sees_a_number_read_in_the_middle_of_a_step(model, monkeypatch):
    learner = make_learner(model, LAST)
    lazily = clip.global_norm
    monkeypatch.setattr(clip, "global_norm", lambda xp, arrays: xp.array(lazily(xp, arrays).item()))
    watch = Watch(monkeypatch)
    learner.step(window(1), 1e-3)
    assert watch.end().calls == 1
    assert watch.bytes_outside > 10 * SCALARS_AND_TOKENS


# Loss and accumulation


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_cross_entropy_of_16_bit_logits_is_computed_in_float32(dtype):
    logits_BTV = (3 * mx.random.normal((2, 3, 1000), key=mx.random.key(0))).astype(dtype)
    targets_BT = mx.random.randint(0, 1000, (2, 3), key=mx.random.key(1))
    exact_BTV, targets = np.array(logits_BTV.astype(mx.float32)).astype(np.float64), np.array(targets_BT)[..., None]
    expected_BT = np.log(np.exp(exact_BTV).sum(-1)) - np.take_along_axis(exact_BTV, targets, -1)[..., 0]
    np.testing.assert_allclose(np.array(cross_entropy(logits_BTV, targets_BT)), expected_BT, rtol=1e-5)


def mlx_lm_loss(folder, batch, prompt):
    bounds_B2 = mx.array([[prompt, int(length)] for length in batch.lengths_B])
    mean, n_tokens = default_loss(load_lazily(folder, "fp32"), mx.array(batch.tokens_BT), bounds_B2)
    return LossSum(mean.item() * n_tokens.item(), n_tokens.item())


def test_the_loss_is_that_of_mlx_lm_where_no_row_is_padded(model):
    learner, batch = make_learner(model, LAST), make_batch(0, lengths=(24, 24, 24), prompt=5)
    ours, theirs = learner.evaluate(batch), mlx_lm_loss(model, batch, prompt=5)
    assert ours.counted == theirs.counted
    assert ours.loss_sum == pytest.approx(theirs.loss_sum, rel=1e-6)


def test_mlx_lm_trains_one_pad_token_after_every_short_row_and_this_does_not(model):
    learner, batch = make_learner(model, LAST), make_batch(0, lengths=(24, 20, 17))
    assert learner.evaluate(batch).counted == sum(batch.lengths_B) - 3 * 4
    assert mlx_lm_loss(model, batch, prompt=4).counted == learner.evaluate(batch).counted + 2


def relative_errors(ours, theirs):
    return [float(mx.max(mx.abs(ours[n] - theirs[n])) / mx.max(mx.abs(theirs[n]))) for n in theirs]


@pytest.mark.parametrize("micro_batches", [2, 4])
def test_accumulating_batches_equals_one_batch_of_all_their_rows(model, micro_batches):
    learner = make_learner(model, LAST)
    lengths = [(24, 17), (9, 20), (6, 5), (12, 23)][:micro_batches]
    parts = [make_batch(i, lengths=pair, width=24) for i, pair in enumerate(lengths)]
    found, gradients = learner.gradients(parts, 1.0)
    of_whole, whole = learner.gradients([joined(parts)], 1.0)
    assert float(found.loss_sum) == pytest.approx(float(of_whole.loss_sum), rel=1e-6)
    assert max(relative_errors(gradients, whole)) < 1e-5


def test_gradient_accumulation_is_token_weighted_and_no_mean_of_means(model):
    learner = make_learner(model, LAST, clip_norm=None)
    parts = [make_batch(0, lengths=(24, 24)), make_batch(1, lengths=(6, 5))]
    result = learner.step(parts, 0.0)
    separate = [learner.evaluate(part) for part in parts]
    both = separate[0].plus(separate[1])
    assert result.loss.counted == both.counted == 43
    assert result.loss.loss_sum == pytest.approx(both.loss_sum, rel=1e-6)
    mean_of_means = sum(part.mean for part in separate) / 2
    assert abs(result.loss.mean - mean_of_means) > 0.01  # the two differ, so the test can tell


def test_how_wide_rows_would_be_padded_changes_no_bit_where_they_are_packed(model):
    learner, batch = make_learner(model, Full(head=False)), make_batch(0)
    strayed = batch._replace(width=batch.width + 16)
    found, gradients = learner.gradients([batch], 1.0)
    stray, stray_gradients = learner.gradients([strayed], 1.0)
    assert float(found.loss_sum) == float(stray.loss_sum)
    assert all(mx.array_equal(gradients[name], stray_gradients[name]) for name in gradients)


ROWS, WIDE = (64, 50, 60, 64), 1024
LOGITS_BYTES = 4 * len(ROWS) * (max(ROWS) - 1) * WIDE


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory):
    """A model of which a micro-batch's logits are the largest arrays."""
    return write_model(tmp_path_factory.mktemp("wide"), vocab_size=WIDE)


def peak_bytes(learner, micro_batches, lengths=ROWS):
    return step_peak_bytes(learner, [make_batch(i, lengths=lengths) for i in range(micro_batches)])


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("strategy", [LAST, Full(), Lora(rank=4)], ids=["last-n", "full", "lora"])
def test_peak_memory_does_not_grow_with_the_number_of_micro_batches(wide_model, strategy):
    learner = make_learner(wide_model, strategy)
    assert peak_bytes(learner, 8) < peak_bytes(learner, 2) + 2 * LOGITS_BYTES  # six more cost less than two would hold


FAULTY_WAITS = {
    "waiting for nothing": lambda _, arrays, __: arrays,
    "waiting for the gradients only": lambda depends, arrays, others: depends(arrays, others[1:]),
}


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize("fault", FAULTY_WAITS.values(), ids=FAULTY_WAITS)
def test_peak_memory_would_grow_if_micro_batches_began(wide_model, monkeypatch, fault):
    depends = mx.depends
    monkeypatch.setattr(self_check, "LADDER", (WHOLE,))  # logits are then one array, which lives until the loss is made
    learner = make_learner(wide_model, LAST)
    monkeypatch.setattr(mx, "depends", lambda arrays, others: fault(depends, arrays, others))
    assert peak_bytes(learner, 8) > peak_bytes(learner, 2) + 4 * LOGITS_BYTES


# 16-bit weights


TORCH_NAMES = {"bf16": "bfloat16", "fp16": "float16"}


@pytest.fixture(scope="module", params=TORCH_NAMES)
def precision(request):
    return request.param


@pytest.fixture(scope="module")
def half_model(tmp_path_factory, precision):
    """Weights of the usual size that the precision holds exactly, so that a run in float32 starts at the same."""
    return write_model(tmp_path_factory.mktemp("half"), save_as=TORCH_NAMES[precision], initializer_range=0.02)


def given_gradients(learner, step):
    random = np.random.default_rng(step)
    arrays = learner.trained.weights.items()
    return {name: mx.array(random.normal(0.5, 1.0, array.shape).astype(np.float32)) for name, array in arrays}


def floats(arrays):
    return {name: np.array(array.astype(mx.float32)) for name, array in arrays.items()}


def drifted(folder, precision, low_precision=None, steps=20, rate=1e-5):
    """A learner after 20 steps with given gradients, and how far each matrix has come, one after the other."""
    optimizer = AdamW(weight_decay=0.0, low_precision=low_precision)
    learner = make_learner(folder, LAST, precision, optimizer=optimizer)
    before = floats(learner.trained.weights)
    for step in range(steps):
        learner.gradients = lambda _batches, scale, step=step: (
            Found(mx.array(1.0)),
            {name: scale * gradient for name, gradient in given_gradients(learner, step).items()},
        )
        learner.step(window(0), rate)
    after = floats(learner.trained.weights)
    return learner, np.concatenate([(after[n] - before[n]).ravel() for n in after if after[n].ndim > 1])


@pytest.mark.slow
def test_stochastic_rounding_drifts_as_far_as_float32_on_average(half_model, precision):
    exact, rounded = drifted(half_model, "fp32")[1], drifted(half_model, precision)[1]
    error = rounded - exact
    standard_error = error.std() / math.sqrt(error.size)
    assert abs(error.mean()) < 4 * standard_error
    assert abs(exact.mean()) > 100 * standard_error  # so a drift that is 4% off would be seen


def test_stochastic_rounding_moves_most_weights_where_rounding_to_nearest_leaves_most_as_they_were(
    tmp_path, monkeypatch
):
    folder = write_model(tmp_path, save_as="bfloat16", initializer_range=0.02)
    stochastic = drifted(folder, "bf16")[1]
    monkeypatch.setattr("mlxtune.backends.mlx.update.parameters.stochastic", lambda _xp, exact, _kind, _noise: exact)
    nearest = drifted(folder, "bf16")[1]
    assert (nearest == 0).mean() > 0.75
    assert (stochastic == 0).mean() < 0.4


@pytest.mark.slow
def test_masters_follow_the_float32_run_exactly_and_the_weights_are_the_rounded_masters(half_model, precision):
    exact, _ = drifted(half_model, "fp32", rate=1e-3)
    learner, _ = drifted(half_model, precision, "master", rate=1e-3)
    for name, master in learner.trained.masters.items():
        assert mx.array_equal(master, exact.trained.weights[name])
        assert mx.array_equal(learner.trained.weights[name], master.astype(learner.trained.weights[name].dtype))
    assert learner.trained.masters.keys() == learner.trained.weights.keys()


@EVERY_KIND
def test_moments_and_masters_have_the_type_that_is_set_and_weights_keep_theirs(model, strategy, precision, changes):
    learner = make_learner(model, strategy, precision, **changes)
    before = {name: array.dtype for name, array in learner.trained.weights.items()}
    run_steps(learner, [0])
    optimizer = changes.get("optimizer", AdamW())
    kept_in = "BF16" if optimizer.moments == "bf16" else "F32"
    has_state = optimizer.slots or optimizer.low_precision == "master"
    assert {tensor.info.dtype for tensor in learner.optimizer_state()} == ({kept_in} if has_state else set())
    assert {name: array.dtype for name, array in learner.trained.weights.items()} == before


# Moments in 16 bits


def shares_of_v(folder, steps=150):
    """v after steps with given gradients, which become small, as a share of what it is in float32."""
    made, exact = (make_learner(folder, LAST, optimizer=optimizer) for optimizer in (BF16_MOMENTS, AdamW()))
    for step in range(steps):
        size = 1.0 if step < 20 else 0.03
        given = {name: size * gradient for name, gradient in given_gradients(made, step).items()}
        for learner in (made, exact):
            learner.gradients = lambda _batches, scale, given=given: (
                Found(mx.array(1.0)),
                {name: scale * gradient for name, gradient in given.items()},
            )
            learner.step(window(0), 1e-3)
    pairs = zip(made.trained.slots.values(), exact.trained.slots.values(), strict=True)
    return np.concatenate([np.array(a[1].astype(mx.float32) / b[1] - 1).ravel() for a, b in pairs]).astype(np.float64)


@pytest.mark.slow
def test_v_in_bfloat16_is_that_of_float32_on_average_and_would_not_be_by_rounding_to_nearest(model, monkeypatch):
    error = shares_of_v(model)
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(error.size) < 1e-3
    monkeypatch.setattr(rounding, "stochastic", lambda _xp, array, *_: array)  # the cast after it rounds to the nearest
    assert shares_of_v(model).mean() > 0.05


def test_moments_in_bfloat16_take_half_the_memory_and_half_the_file(model):
    exact, half = (make_learner(model, Full(), optimizer=optimizer) for optimizer in (AdamW(), BF16_MOMENTS))
    held, said = [], []
    for learner in (exact, half):
        run_steps(learner, [0])
        held.append(sum(array.nbytes for slots in learner.trained.slots.values() for array in slots))
        said.append(sum(tensor.info.bytes for tensor in learner.optimizer_state()))
    assert held == said == [2 * held[1], held[1]]


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.slow
def test_the_peak_falls_by_what_16_bit_moments_save(tmp_path):
    folder = write_model(tmp_path, num_hidden_layers=6, hidden_size=128, intermediate_size=512)
    peaks, held = [], []
    for optimizer in (AdamW(), BF16_MOMENTS):
        learner = make_learner(folder, Full(), optimizer=optimizer)
        held.append(sum(tensor.info.bytes for tensor in learner.optimizer_state()))
        peaks.append(held[-1] + peak_bytes(learner, 1, lengths=(6, 5)))
    assert peaks[0] - peaks[1] > 0.5 * (held[0] - held[1])


def at_once(trained, gradients, factor, rule):
    steps = {name: rule.step(trained, name, gradients[name].astype(mx.float32) * factor) for name in trained.weights}
    return parameters.together(trained, steps)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.slow
def test_what_adamw_has_between_is_held_for_one_parameter_at_a_time(tmp_path, monkeypatch):
    folder = write_model(tmp_path, num_hidden_layers=6, hidden_size=128, intermediate_size=512, save_as="bfloat16")
    learner = make_learner(folder, Full(), precision="bf16")
    in_turn = peak_bytes(learner, 1, lengths=(6, 5))
    monkeypatch.setattr(parameters, "stepped", at_once)
    assert in_turn < 0.75 * peak_bytes(learner, 1, lengths=(6, 5))


def test_random_bits_are_uniform_and_every_entry_has_its_own():
    bits = np.array(parameters.random_bits((333, 301), mx.random.key(0)))
    assert bits.dtype == np.uint32
    shares = [(bits >> place & 1).mean() for place in range(32)]
    assert max(abs(share - 0.5) for share in shares) < 0.01
    assert len(np.unique(bits)) > 0.999 * bits.size
    assert abs(np.corrcoef(bits.ravel() & 0xFFFF, bits.ravel() >> 16)[0, 1]) < 0.02


# The loss scale of float16


@pytest.fixture(scope="module")
def quiet_model(tmp_path_factory):
    """A model with a head so small that most gradients are below the smallest float16."""
    return write_model(tmp_path_factory.mktemp("quiet"), save_as="float16", head_factor=1e-5)


def mean_gradients(learner, scale):
    batches = window(0, 1)
    _, gradients = learner.gradients(batches, scale / sum(batch.n_supervised for batch in batches))
    layers = {name: gradient for name, gradient in gradients.items() if "layers" in name}
    return np.concatenate([array.ravel() for array in floats(layers).values()]) / scale


def test_gradients_too_small_for_float16_come_through_with_the_loss_scale(quiet_model):
    exact = mean_gradients(make_learner(quiet_model, LAST), 1.0)
    learner = make_learner(quiet_model, LAST, "fp16")
    scaled, unscaled = mean_gradients(learner, learner.scale.value), mean_gradients(learner, 1.0)
    size = np.linalg.norm(exact)
    assert np.linalg.norm(scaled - exact) / size < 0.05
    assert np.linalg.norm(unscaled - exact) / size > 0.5
    norms = [
        make_learner(quiet_model, LAST, precision).step(window(0), 1e-3).grad_norm for precision in ("fp16", "fp32")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


@pytest.mark.parametrize("optimizer", [AdamW(), MASTER, BF16_MOMENTS, Sgd(), MOMENTUM_IN_BF16], ids=str)
@pytest.mark.few(2)
def test_an_overflow_leaves_every_byte_as_it_was_and_halves_the_scale(model, optimizer):
    learner = make_learner(model, LAST, "fp16", optimizer=optimizer)
    run_steps(learner, [0])
    learner.scale = LossScale(2.0**24, 7)
    before = contents(learner)
    result = learner.step(window(1), 1e-3)
    assert result.skipped
    assert math.isfinite(result.loss.loss_sum)
    assert contents(learner) == before
    assert learner.scale == LossScale(2.0**23, 0)
    assert (learner.steps, learner.updates) == (2, 1)


def test_after_an_overflow_the_training_goes_on_as_if_the_step_had_not_been(model):
    straight, skipping = (make_learner(model, LAST, "fp16", optimizer=MASTER) for _ in range(2))
    skipping.scale = LossScale(2.0**24, 0)
    assert skipping.step(window(9), 1e-3).skipped
    skipping.scale = straight.scale
    for learner in (straight, skipping):
        run_steps(learner, [1, 2])
    assert contents(straight) == contents(skipping)


def test_the_scale_doubles_after_enough_good_steps(model, monkeypatch):
    monkeypatch.setattr(loss_scale, "GROWTH_STEPS", 3)
    learner = make_learner(model, LAST, "fp16")
    scales = []
    for step in range(5):
        assert not learner.step(window(step), 1e-4).skipped
        scales.append(learner.scale)
    start = loss_scale.START
    assert scales == [(start, 1), (start, 2), (2 * start, 0), (2 * start, 1), (2 * start, 2)]


def test_a_loss_that_is_no_number_is_not_taken_for_an_overflow(model):
    learner = make_learner(model, LAST, "fp16")
    learner.trained.weights["model.norm.weight"] *= math.nan
    result = learner.step(window(0), 1e-3)
    assert math.isnan(result.loss.loss_sum)
    assert not result.skipped
    assert learner.scale.value == loss_scale.START


def test_gradients_that_no_scale_makes_finite_end_as_not_finite(model):
    learner = make_learner(model, LAST, "fp16")
    broken = {name: array * math.inf for name, array in learner.trained.weights.items()}
    learner.gradients = lambda *_: (Found(mx.array(1.0)), broken)
    halvings = int(math.log2(loss_scale.START / loss_scale.SMALLEST))
    results = [learner.step(window(0), 1e-3) for _ in range(halvings + 1)]
    assert [result.skipped for result in results] == [True] * halvings + [False]
    assert not math.isfinite(results[-1].grad_norm)


# Determinism


def state(learner):
    return contents(learner), learner.scalars()


@EVERY_KIND
@pytest.mark.few(2)
def test_the_same_steps_from_the_same_state_give_the_same_bytes(model, strategy, precision, changes):
    first, second = (make_learner(model, strategy, precision, **changes) for _ in range(2))
    assert run_steps(first, [0, 1, 2]) == run_steps(second, [0, 1, 2])
    assert state(first) == state(second)


@EVERY_KIND
@pytest.mark.few(2)
def test_evaluating_between_steps_changes_nothing_of_the_training(model, strategy, precision, changes):
    quiet, asked = (make_learner(model, strategy, precision, **changes) for _ in range(2))
    run_steps(quiet, [0, 1, 2])
    for step in range(3):
        before = asked.evaluate(make_batch(99))
        assert asked.evaluate(make_batch(99)) == before
        run_steps(asked, [step])
    assert state(quiet) == state(asked)


def test_evaluation_has_no_dropout_and_training_has(model):
    learner = make_learner(model, DROPOUT)
    run_steps(learner, [0, 1, 2], rate=1e-2)  # until B is not zero
    assert learner.evaluate(window(0)[0]) == learner.evaluate(window(0)[0])
    kept = learner.evaluate(window(0, 1)[0]).loss_sum
    dropped = [learner.step(window(0, 1), 0.0).loss.loss_sum for _ in range(2)]
    assert len({kept, *dropped}) == 3  # each step draws anew


@EVERY_KIND
@pytest.mark.few(2)
def test_a_restored_learner_goes_on_to_the_same_bytes(model, tmp_path, strategy, precision, changes):
    unbroken, killed, resumed = (make_learner(model, strategy, precision, **changes) for _ in range(3))
    run_steps(unbroken, [0, 1, 2, 3])
    run_steps(killed, [0, 1])
    folder = save(tmp_path, 2, killed, {"learner": killed.scalars()})
    scalars = checkpoint.load_state(folder)["learner"]
    resumed.restore(folder / checkpoint.WEIGHTS, folder / checkpoint.OPTIMIZER, scalars)
    assert state(resumed) == state(killed)
    run_steps(resumed, [2, 3])
    assert state(resumed) == state(unbroken)


def test_seeds_make_different_runs(model):
    learners = [make_learner(model, DROPOUT, "bf16", seed=seed) for seed in (0, 1)]
    starts = Counter(contents(learner)["model.layers.0.mlp.up_proj.lora_a"] for learner in learners)
    assert len(starts) == 2
