"""The NumPy learner's step: accumulation, clipping, 16-bit weights, the kept prefix, types, memory, resuming."""

import math

import numpy as np
import pytest

from mlxtune.backends.base import Blueprint, Learner
from mlxtune.backends.numpy import device, threads, update
from mlxtune.backends.numpy import learner as learner_module
from mlxtune.backends.numpy.arrays import Workspace
from mlxtune.backends.numpy.blueprint import NumpyBlueprint
from mlxtune.backends.numpy.update import Noise, Rule, State
from mlxtune.backends.numpy.weights import round_to, widen
from mlxtune.data.packed import pack
from mlxtune.optim import rounding
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.sgd import Sgd
from mlxtune.storage import checkpoint
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from mlxtune.strategies.size import sizes
from tests.support.backend import save
from tests.support.batches import some, unpadded
from tests.support.numpy import KINDS, job, learner, random_batch, worst, write_model

LAST, LORA = LastN(last_n=1), Lora(rank=4, scale=2.0, dropout=0.2)
RATE = 1e-3
BF16_MOMENTS = AdamW(moments="bf16")
OPTIMIZERS = {
    "stochastic": AdamW(),
    "master": AdamW(low_precision="master"),
    "moments in bf16": BF16_MOMENTS,
    "adam": Adam(weight_decay=0.1, moments="bf16"),
    "sgd": Sgd(weight_decay=0.1),
    "sgd, momentum, master": Sgd(momentum=0.9, low_precision="master"),
    "sgd, nesterov": Sgd(momentum=0.9, nesterov=True, moments="bf16"),
}
EVERY_STRATEGY = pytest.mark.parametrize("strategy", [LAST, LORA, Full(), LastN(last_n=2, head=True)])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), **KINDS["llama, tied"])


def window(step, accumulate=2):
    return [random_batch(n_tokens=33 - 2 * i, seed=step * 10 + i) for i in range(accumulate)]


def contents(made):
    """The bytes of everything that a step changes."""
    return {t.info.name: t.read().tobytes() for part in (made.weights(), made.optimizer_state()) for t in part}


def test_the_learner_is_what_the_engine_asks_for(model):
    made: Learner = learner(model)
    blueprint: Blueprint = NumpyBlueprint(job(model))
    assert (blueprint.backend, blueprint.precision) == ("numpy", "fp32")
    assert blueprint.memory_limit_bytes > 0
    assert made.decisions == blueprint.decide(None)


def test_accumulating_batches_equals_one_batch_of_all_their_rows(model):
    one, many = learner(model), learner(model)
    whole = random_batch(n_rows=6, n_tokens=40)
    parts = [some(whole, (i, i + 1)) for i in (0, 2, 4)]
    assert len({part.n_supervised for part in parts}) > 1  # so that a mean of means would differ
    first, second = one.step([whole], RATE), many.step(parts, RATE)
    assert first.loss.loss_sum == pytest.approx(second.loss.loss_sum, rel=1e-6)
    assert first.grad_norm == pytest.approx(second.grad_norm, rel=1e-5)
    assert worst(many.gradient_sum, one.gradient.buffer) < 1e-5


def test_clipping_scales_the_gradient_and_reports_the_norm_before(model):
    free, clipped = learner(model), learner(model, clip_norm=0.5)
    batches = window(0)
    norm = free.step(batches, RATE).grad_norm
    assert norm == pytest.approx(clipped.step(batches, RATE).grad_norm)
    assert norm == pytest.approx(np.linalg.norm(free.gradient_sum.astype(np.float64)), rel=1e-6)
    assert worst(clipped.state.slots[0], free.state.slots[0] * 0.5 / norm) < 1e-5


IN_BLOCKS = [AdamW(weight_decay=0.1), Adam(weight_decay=0.1), Adam(), Sgd(weight_decay=0.1), Sgd(momentum=0.9)]


@pytest.mark.parametrize("optimizer", IN_BLOCKS, ids=str)
@pytest.mark.parametrize("n_decaying", [0, 100, 128, 1000])
@pytest.mark.few(2)
def test_the_update_in_blocks_is_that_of_optim(optimizer, n_decaying, monkeypatch):
    monkeypatch.setattr(update, "BLOCK", 64)
    random = np.random.default_rng(0)
    weight, gradient = (random.normal(size=1000).astype(np.float32) for _ in range(2))
    slots = tuple(np.abs(random.normal(size=1000)).astype(np.float32) for _ in optimizer.slots)
    state = State(weight.copy(), weight.copy(), tuple(slot.copy() for slot in slots))
    state = state._replace(exact=state.weights)
    for step in range(1, 51):
        scalars = optimizer.scalars(np, step, RATE)
        given = {
            decays: optimizer.update(np, scalars, weight, 0.5 * gradient, slots, decays=decays) for decays in (1, 0)
        }
        weight, *slots = (
            np.concatenate([with_decay[:n_decaying], without[n_decaying:]])
            for with_decay, without in zip(*((each[0], *each[1]) for each in given.values()), strict=True)
        )
        slots = tuple(slots)
        update.update(state, gradient, Rule(optimizer, scalars, 0.5, n_decaying, "fp32", Noise(0, step)))
    for found, expected in zip((state.weights, *state.slots), (weight, *slots), strict=True):
        assert worst(found, expected) < 1e-6


@pytest.mark.parametrize("decay_all", [False, True])
def test_weight_decay_leaves_norms_and_biases_alone_unless_asked(decay_all, model):
    settings = {"weight_decay": 0.5, "decay_norms_and_biases": decay_all}
    plain, decayed = learner(model), learner(model, optimizer=AdamW(**settings))
    before = {name: plain.flat[name].copy() for name in plain.layout.trained}
    plain = learner(model, optimizer=AdamW(weight_decay=0.0))
    for made in (plain, decayed):
        made.step(window(0), RATE)
    for name, start in before.items():
        expected = 0.0 if start.ndim == 1 and not decay_all else RATE * 0.5
        difference = plain.flat[name] - decayed.flat[name]
        np.testing.assert_allclose(difference, expected * start, atol=2e-7, err_msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@EVERY_STRATEGY
@pytest.mark.few(2)
def test_a_resumed_run_ends_with_the_same_bytes(strategy, optimizer, precision, model, tmp_path):
    settings = {"optimizer": optimizer}
    whole, part = (learner(model, strategy, precision, **settings) for _ in range(2))
    for made in (whole, part):
        made.step(window(0), RATE)
    saved = save(tmp_path, 1, part)
    resumed = learner(model, strategy, precision, **settings)
    weights, optimizer = saved / checkpoint.WEIGHTS, saved / checkpoint.OPTIMIZER
    checkpoint.check_tensors(weights, (tensor.info for tensor in resumed.weights()))
    checkpoint.check_tensors(optimizer, (tensor.info for tensor in resumed.optimizer_state()))
    resumed.restore(weights, optimizer, part.scalars())
    assert contents(resumed) == contents(part)
    for step in (1, 0):  # rows of before too, whose prefix the unbroken run has kept
        results = [made.step(window(step), RATE) for made in (whole, resumed)]
        assert results[0] == results[1]
    assert contents(resumed) == contents(whole)
    assert resumed.scalars() == whole.scalars()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.slow
def test_small_updates_to_16_bit_weights_count_on_average(precision, model):
    exact, made = learner(model), learner(model, precision=precision)
    start = made.state.weights.copy()
    for step in range(30):
        for each in (exact, made):
            each.step(window(step % 3), 1e-5)
    assert (made.state.weights != start).mean() < 0.9  # a step is far below the distance of neighbours
    moved, expected = made.state.weights - start, exact.state.weights - learner(model).state.weights
    assert np.dot(moved, np.sign(expected)) / np.abs(expected).sum() == pytest.approx(1.0, abs=0.2)


@EVERY_STRATEGY
def test_evaluation_changes_nothing(strategy, model):
    looked, alone = learner(model, strategy), learner(model, strategy)
    for step in range(2):
        looked.evaluate(random_batch(seed=99))
        assert looked.step(window(step), RATE) == alone.step(window(step), RATE)
    assert contents(looked) == contents(alone)


def test_the_prefix_is_computed_once_for_a_row_whatever_batch_it_comes_in(model, monkeypatch):
    made = learner(model, LAST)
    computed = []
    run = made.model.run
    monkeypatch.setattr(made.model, "run", lambda *a, **k: computed.append(a[-1]) or run(*a, **k))
    batch = random_batch(n_rows=3)
    made.step([batch], RATE)
    first_layers = [last for last in computed if last == made.parts.selection.first_layer]
    assert len(first_layers) == 3
    narrow = some(batch, [1])._replace(rows=(7,))
    first, second, _ = pack(batch).lengths
    kept = made.prefix.hidden(pack(batch))[first : first + second].copy()
    assert np.array_equal(made.prefix.hidden(pack(narrow)), kept)
    assert len([last for last in computed if last == made.parts.selection.first_layer]) == 3
    assert made.prefix.bytes == sum(int(length) - 1 for length in batch.lengths_B) * 32 * 4


def cut(lengths):
    """Three rows of these lengths."""
    generator = np.random.default_rng(0)
    loss_BT = generator.random((3, 80)) < 0.6
    loss_BT[:, 0] = False
    return unpadded(generator.integers(0, 61, (3, 80)), loss_BT, lengths)


@pytest.mark.parametrize("lengths", [(80, 80, 80), (80, 45, 61)])
def test_a_batch_at_once_trains_as_its_rows_do(model, lengths):
    """Where nothing is kept."""
    batch = cut(lengths)
    by_rows, at_once = learner(model, LAST), learner(model, LAST, prefix_cache="off")
    for _ in range(3):
        results = [made.step([batch], RATE) for made in (by_rows, at_once)]
        assert results[0].loss.loss_sum == pytest.approx(results[1].loss.loss_sum, rel=1e-6)
        assert results[0].grad_norm == pytest.approx(results[1].grad_norm, rel=1e-5)
        assert by_rows.evaluate(batch).loss_sum == pytest.approx(at_once.evaluate(batch).loss_sum, rel=1e-6)
    assert not at_once.prefix.kept


def test_a_row_has_the_same_bits_in_a_batch_with_a_row_for_every_thread_and_alone(tmp_path, monkeypatch):
    """A BLAS that splits a product gives it other last bits."""
    for module in (device, threads):
        monkeypatch.setattr(module, "threads", lambda: 2)
    wide = {"hidden_size": 128, "intermediate_size": 512}
    made = learner(write_model(tmp_path, **{**KINDS["llama"], **wide}), LAST, batch_rows=2)
    made.prefix.limit_bytes = 1  # so that each is computed anew
    batch = random_batch(n_rows=5, n_tokens=150)
    rows = pack(batch)
    together = np.split(made.prefix.hidden(rows).copy(), np.cumsum(rows.lengths)[:-1])
    for row, expected in enumerate(together):
        alone = some(batch, [row])
        assert np.array_equal(made.prefix.hidden(pack(alone)), expected)
    assert made.prefix.working_bytes > 0
    assert made.memory().cache_memory_bytes == made.model.ws.bytes + made.prefix.working_bytes


@pytest.mark.parametrize("lengths", [(80, 80, 61), (80, 61, 80), (80, 61, 40)])
def test_padding_is_not_computed(lengths, model):
    """Rows of one length are computed together where they lie side by side, and give what they give apart."""
    batch = cut(lengths)
    wide = batch._replace(width=120)
    apart = [some(batch, [row]) for row in range(3)]
    made = [learner(model) for _ in range(3)]
    found = [each.step(batches, RATE) for each, batches in zip(made, ([batch], [wide], apart), strict=True)]
    assert found[0] == found[1]
    assert contents(made[0]) == contents(made[1])
    assert made[0].memory() == made[1].memory()
    assert found[0].loss.loss_sum == pytest.approx(found[2].loss.loss_sum, rel=1e-6)
    assert found[0].grad_norm == pytest.approx(found[2].grad_norm, rel=1e-5)


def test_rows_of_other_tokens_never_share_a_prefix(model):
    """Validation rows have the numbers of training rows."""
    made = learner(model, LAST)
    train, valid = random_batch(seed=1), random_batch(seed=2)
    assert train.rows == valid.rows
    made.step([train], 0.0)
    assert made.evaluate(valid) == learner(model, LAST).evaluate(valid)


def test_a_prefix_that_does_not_fit_is_computed_each_time_to_the_same_bits(model):
    kept, forgetful = learner(model, LAST), learner(model, LAST)
    forgetful.prefix.limit_bytes = 1
    for step in (0, 0, 1):
        assert kept.step(window(step), RATE) == forgetful.step(window(step), RATE)
    assert contents(kept) == contents(forgetful)
    assert not forgetful.prefix.kept


class Strict(np.ndarray):
    """An array that computes with float32 alone: NumPy widens without a word, and narrows again into `out`."""

    def __array_ufunc__(self, ufunc, method, *inputs, out=(), **settings):
        types = {getattr(array, "dtype", None) for array in inputs}  # Python's numbers have none and widen nothing
        assert np.dtype(np.float64) not in types, f"{ufunc.__name__} of float64"
        if np.dtype(np.float32) in types:
            assert not types & {np.dtype(np.int32), np.dtype(np.int64)} or method == "at", f"{ufunc.__name__} widens"
        plain = [np.asarray(array) if isinstance(array, Strict) else array for array in inputs]
        plain_out = {"out": tuple(np.asarray(array) for array in out)} if out else {}
        result = getattr(ufunc, method)(*plain, **plain_out, **settings)
        if result is None:  # ufunc.at
            return None
        assert result.dtype != np.float64, f"{ufunc.__name__} gives float64"
        return out[0] if out else np.asarray(result).view(Strict)


class StrictWorkspace(Workspace):
    """Working arrays that are strict, and so all that is computed with them."""

    def _make(self, name, shape):
        view = super()._make(name, shape).view(Strict)
        self._views[name, shape] = view
        return view


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [("qwen3", Full()), ("qwen2, windows", LAST), ("llama, yarn", LORA), ("llama, tied", LastN(last_n=2, head=True))],
)
def test_float32_stays_float32_in_every_intermediate(kind, strategy, tmp_path, monkeypatch):
    monkeypatch.setattr(learner_module, "Workspace", StrictWorkspace)
    made = learner(write_model(tmp_path, **KINDS[kind]), strategy)
    for buffer in (made.flat, made.gradient):
        buffer.buffer = buffer.buffer.view(Strict)
    weights, exact, slots = made.state
    made.state = State(weights.view(Strict), exact.view(Strict), tuple(slot.view(Strict) for slot in slots))
    assert math.isfinite(made.step(window(0), RATE).loss.loss_sum)
    assert math.isfinite(made.evaluate(random_batch()).loss_sum)
    assert all(
        array.dtype == np.float32
        for array in (*made.state[:2], *made.state.slots, made.gradient.buffer, made.flat.buffer)
    )


def test_the_strict_array_catches_what_numpy_widens():
    strict = np.ones(3, np.float32).view(Strict)
    for wide in (np.float64(2), np.arange(3), np.ones(3)):
        with pytest.raises(AssertionError):
            strict * wide
        with pytest.raises(AssertionError):
            np.multiply(strict, wide, out=strict)
    assert (strict * 2.0).dtype == np.float32


def test_memory_counts_weights_gradients_moments_and_what_is_kept(model):
    made = learner(model, LAST)
    trained = made.state.weights.nbytes
    held = made.flat.buffer.nbytes + 3 * trained
    assert made.memory().active_memory_bytes == held
    made.step(window(0, accumulate=1), RATE)
    memory = made.memory()
    assert memory.active_memory_bytes == held + made.prefix.bytes
    assert memory.peak_memory_bytes == memory.active_memory_bytes + memory.cache_memory_bytes
    for _ in range(3):
        made.step(window(0, accumulate=1), RATE)
    assert made.memory().cache_memory_bytes == memory.cache_memory_bytes  # working arrays are used again


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@EVERY_STRATEGY
@pytest.mark.few(2)
def test_gradient_checkpointing_changes_no_byte(strategy, precision, model):
    kept, again = (learner(model, strategy, precision, grad_checkpoint=each) for each in (False, True))
    for step in (0, 1, 2):
        assert kept.step(window(step), RATE) == again.step(window(step), RATE)
        assert kept.evaluate(random_batch()) == again.evaluate(random_batch())
    assert contents(kept) == contents(again)


@pytest.mark.parametrize("kind", ["qwen3", "qwen2, windows"])
def test_gradient_checkpointing_changes_no_byte_of_other_architectures(kind, tmp_path):
    folder = write_model(tmp_path, **KINDS[kind])
    kept, again = (learner(folder, grad_checkpoint=each) for each in (False, True))
    assert kept.step(window(0), RATE) == again.step(window(0), RATE)
    assert contents(kept) == contents(again)


@pytest.mark.parametrize("strategy", [Full(), LORA])
@pytest.mark.slow
def test_with_gradient_checkpointing_a_layer_more_costs_its_input_alone(strategy, tmp_path):
    working, batch = {}, random_batch()
    for n_layers in (2, 8):
        folder = write_model(tmp_path / str(n_layers), model_type="llama", num_hidden_layers=n_layers)
        for again in (False, True):
            made = learner(folder, strategy, grad_checkpoint=again)
            made.step([batch], RATE)
            working[n_layers, again] = made.memory().cache_memory_bytes
    input_bytes = sum(pack(batch).lengths) * 32 * 4
    assert working[8, True] - working[2, True] == 6 * input_bytes
    assert working[8, False] - working[2, False] > 6 * 10 * input_bytes


def test_moments_in_bfloat16_take_half_the_memory_and_half_the_file(model, tmp_path):
    exact, half = (learner(model, LAST, optimizer=optimizer) for optimizer in (AdamW(), BF16_MOMENTS))
    trained = exact.state.weights.nbytes
    assert half.memory().active_memory_bytes == exact.memory().active_memory_bytes - trained
    half.step(window(0), RATE)
    assert {tensor.info.dtype for tensor in half.optimizer_state()} == {"BF16"}
    saved = save(tmp_path, 1, half)
    header = 8 + int.from_bytes((saved / checkpoint.OPTIMIZER).read_bytes()[:8], "little")
    assert (saved / checkpoint.OPTIMIZER).stat().st_size == header + trained
    for made in (exact, half):
        said = sizes(made.parts.anatomy, made.parts.selection, made.job.optimizer.slot_bytes, 0).optimizer_bytes
        assert said == sum(tensor.info.bytes for tensor in made.optimizer_state())


def shares_of_v(made, exact, steps=150):
    """v after steps with given gradients, which become small, as a share of what it would be in float32."""
    random = np.random.default_rng(0)
    for step in range(steps):
        gradient = random.normal(1.0, 0.5, made.state.weights.shape).astype(np.float32) * (1.0 if step < 20 else 0.03)
        for each in (made, exact):
            each._update(gradient, 1.0, RATE)
            each.steps += 1
    return widen(made.state.slots[1]).astype(np.float64) / exact.state.slots[1] - 1


def test_v_in_bfloat16_is_that_of_float32_on_average_and_would_not_be_by_rounding_to_nearest(model, monkeypatch):
    error = shares_of_v(learner(model, optimizer=BF16_MOMENTS), learner(model))
    assert abs(error.mean()) < 4 * error.std() / math.sqrt(error.size) < 1e-3

    def nearest(_xp, array, *_):
        array = array.copy()
        round_to(array, "bf16")
        return array

    monkeypatch.setattr(rounding, "stochastic", nearest)
    assert shares_of_v(learner(model, optimizer=BF16_MOMENTS), learner(model)).mean() > 0.05


def test_moments_and_weights_are_rounded_by_other_noise():
    weights = Noise(0, 3).words(0, 20_000)
    bits = Noise(0, 3).bits(0, 20_000)
    assert abs(np.corrcoef([weights, bits & 0xFFFF, bits >> 16]) - np.eye(3)).max() < 0.04


def test_16_bit_weights_are_said_and_saved_in_their_own_type(tmp_path):
    folder = write_model(tmp_path, "bf16", **KINDS["llama"])
    blueprint = NumpyBlueprint(job(folder, LAST, "bf16"))
    made = blueprint.learner()
    assert any("converted" in note for note in blueprint.notes)
    assert {tensor.info.dtype for tensor in made.weights()} == {"BF16"}
    start = contents(made)
    made.step(window(0), 0.0)
    assert {name: start[name] for name in made.layout.trained} == {
        name: contents(made)[name] for name in made.layout.trained
    }
    exact = NumpyBlueprint(job(write_model(tmp_path / "32", **KINDS["llama"])))
    assert not any("converted" in note for note in exact.notes)


def test_adapters_begin_at_the_model_and_depend_on_the_seed(model):
    batch = random_batch()
    plain, adapted, other = learner(model), learner(model, LORA), learner(model, LORA, seed=1)
    assert adapted.evaluate(batch).loss_sum == pytest.approx(plain.evaluate(batch).loss_sum, rel=1e-6)
    assert not np.array_equal(adapted.state.weights, other.state.weights)
    assert np.array_equal(adapted.state.weights, learner(model, LORA).state.weights)


def test_a_loss_that_is_not_finite_changes_no_weight(model):
    made = learner(model)
    made.flat[made.parts.anatomy.embedding][0, 0] = np.inf
    before = made.state.weights.copy()
    result = made.step(window(0), RATE)
    assert not math.isfinite(result.loss.loss_sum)
    assert not result.skipped
    assert np.array_equal(made.state.weights, before)
