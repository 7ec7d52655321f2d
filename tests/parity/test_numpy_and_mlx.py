"""NumPy and MLX on the same weights, data and settings, and runs that go from one to the other."""

import numpy as np
import pytest

from mlxtune.backends.base import Sampling
from mlxtune.backends.numpy.speaker import NumpySpeaker
from mlxtune.optim import rounding
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.sgd import Sgd
from mlxtune.storage import checkpoint
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.backend import save
from tests.support.numpy import KINDS, job, learner, random_batch, worst, write_model
from tests.support.slow import all_but

pytest.importorskip("mlx", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.speaker import MlxSpeaker
from mlxtune.backends.mlx.update.tensors import by_parameter

STRATEGIES = {
    "last-n": LastN(last_n=2),
    "last-n, head": LastN(last_n=1, head=True),  # unties a tied one
    "lora": Lora(rank=4, scale=2.0),
    "lora, some": Lora(rank=4, scale=2.0, target=("q_proj", "down_proj"), last_n=2),
    "full": Full(),
}
FAMILIES = ("llama", "llama, tied", "mistral, short window", "qwen2", "qwen3")
BF16_MOMENTS = AdamW(moments="bf16")
EVERY_STRATEGY = pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)


def mlx_learner(folder, strategy=None, precision="fp32", **changes):
    return MlxBlueprint(job(folder, strategy, precision, **changes)).learner()


def windows(steps, accumulate=1):
    return [[random_batch(n_tokens=33, seed=step * 7 + i) for i in range(accumulate)] for step in range(steps)]


def hand_over(giver, taker, run):
    """As a resumed run does: the files are checked, then read."""
    saved = save(run, 1, giver)
    weights, optimizer = saved / checkpoint.WEIGHTS, saved / checkpoint.OPTIMIZER
    checkpoint.check_tensors(weights, (tensor.info for tensor in taker.weights()))
    checkpoint.check_tensors(optimizer, (tensor.info for tensor in taker.optimizer_state()))
    taker.restore(weights, optimizer, giver.scalars())


@EVERY_STRATEGY
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.few(2)
def test_first_gradients_agree(kind, strategy, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS[kind])
    ours, theirs = learner(folder, strategy), mlx_learner(folder, strategy)
    hand_over(theirs, ours, tmp_path / "run")  # adapters begin at random
    # A key's bias shifts all scores of a query but for the rotation: its gradient is what is left of large terms, and
    # for one batch in thirty rounding alone is 1e-5 of it, on either backend. This batch is not one of those.
    batch = random_batch(n_tokens=33, seed=1)
    ours.gradients([batch], 1 / batch.n_supervised)
    _, expected = theirs.gradients([batch], 1 / batch.n_supervised)
    whole = {name: np.concatenate([*map(np.array, parts.values())]) for name, parts in by_parameter(expected)}
    assert set(whole) == set(ours.layout.trained)
    for name, gradient in whole.items():
        found = ours.gradient[name]
        if not gradient.any():  # of lora_a, while lora_b is zero
            assert not found.any()
        else:
            assert worst(found, gradient) < 1e-5, name


@EVERY_STRATEGY
@pytest.mark.parametrize("kind", all_but(["llama, tied"], FAMILIES))
@pytest.mark.few(1)
def test_losses_of_twenty_steps_agree(kind, strategy, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS[kind])
    settings = {"optimizer": AdamW(weight_decay=0.1), "clip_norm": 1.0}
    ours, theirs = (make(folder, strategy, **settings) for make in (learner, mlx_learner))
    hand_over(theirs, ours, tmp_path / "run")
    for window in windows(20, accumulate=2):
        found, expected = (made.step(window, 1e-3) for made in (ours, theirs))
        assert found.loss.loss_sum == pytest.approx(expected.loss.loss_sum, rel=1e-4)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-3)
        assert found.loss.counted == expected.loss.counted


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@EVERY_STRATEGY
@pytest.mark.parametrize("makers", [(learner, mlx_learner), (mlx_learner, learner)], ids=["to MLX", "to NumPy"])
@pytest.mark.few(2)
def test_a_run_begun_on_one_goes_on_on_the_other(makers, strategy, precision, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama, tied"])
    giver, taker = (make(folder, strategy, precision) for make in makers)
    first, second = windows(2)
    giver.step(first, 1e-3)
    hand_over(giver, taker, tmp_path / "run")
    assert all(taker.scalars()[name] == giver.scalars()[name] for name in ("steps", "updates", "loss_scale"))
    tolerance = {"fp32": 1e-5, "bf16": 1e-1, "fp16": 1e-2}[precision]  # MLX computes in the 16 bits, NumPy in 32
    found, expected = (made.step(second, 1e-3).loss.loss_sum for made in (taker, giver))
    assert found == pytest.approx(expected, rel=tolerance)


OTHERS = {
    "adam": Adam(weight_decay=0.1),
    "sgd": Sgd(weight_decay=0.1),
    "sgd, momentum": Sgd(momentum=0.9),
    "sgd, nesterov": Sgd(momentum=0.9, nesterov=True, weight_decay=0.1, decay_norms_and_biases=True),
}


@pytest.mark.parametrize("optimizer", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("makers", [(learner, mlx_learner), (mlx_learner, learner)], ids=["to MLX", "to NumPy"])
@pytest.mark.few(2)
def test_a_run_with_another_optimizer_goes_on_on_the_other_backend(makers, optimizer, tmp_path):
    """Its steps agree before and after."""
    folder = write_model(tmp_path / "model", **KINDS["llama, tied"])
    giver, taker = (make(folder, Full(), optimizer=optimizer, clip_norm=1.0) for make in makers)
    first = [*windows(8)]
    for window in first:
        found, expected = (made.step(window, 1e-2) for made in (giver, taker))
        assert found.loss.loss_sum == pytest.approx(expected.loss.loss_sum, rel=1e-4)
    hand_over(giver, taker, tmp_path / "run")
    given, taken = ({t.info: t.read().tobytes() for t in made.optimizer_state()} for made in (giver, taker))
    assert given == taken
    assert len(given) == len(optimizer.slots) * len(giver.parts.selection.train)
    for window in first[:3]:
        found, expected = (made.step(window, 1e-2) for made in (giver, taker))
        assert found.loss.loss_sum == pytest.approx(expected.loss.loss_sum, rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_master_copies_are_handed_over(precision, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama"])
    settings = {"optimizer": AdamW(low_precision="master")}
    ours, theirs = (make(folder, LastN(last_n=1), precision, **settings) for make in (learner, mlx_learner))
    (window,) = windows(1)
    ours.step(window, 1e-3)
    hand_over(ours, theirs, tmp_path / "run")
    assert [tensor.info for tensor in theirs.optimizer_state()]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("makers", [(learner, mlx_learner), (mlx_learner, learner)], ids=["to MLX", "to NumPy"])
def test_moments_in_bfloat16_are_handed_over(makers, precision, tmp_path):
    folder = write_model(tmp_path / "model", **KINDS["llama"])
    giver, taker = (make(folder, LastN(last_n=1), precision, optimizer=BF16_MOMENTS) for make in makers)
    giver.step(*windows(1), 1e-3)
    hand_over(giver, taker, tmp_path / "run")
    given, taken = ({t.info: t.read().tobytes() for t in made.optimizer_state()} for made in (giver, taker))
    assert given == taken
    assert all(map(any, taken.values()))


def losses_of_fifty(made):
    return np.array([made.step(window, 1e-3).loss.loss_sum for window in windows(50)])


@pytest.mark.slow
def test_losses_of_fifty_steps_with_moments_in_bfloat16_agree(tmp_path, monkeypatch):
    """Each backend has noise of its own. Moments that are stored 1% too large would be seen."""
    folder = write_model(tmp_path / "model", **KINDS["llama"])
    settings = {"strategy": LastN(last_n=2), "optimizer": BF16_MOMENTS}
    ours, theirs = (losses_of_fifty(make(folder, **settings)) for make in (learner, mlx_learner))
    assert np.abs(ours / theirs - 1).max() < 2e-4
    stochastic = rounding.stochastic
    monkeypatch.setattr(rounding, "stochastic", lambda xp, array, *rest: stochastic(xp, 1.01 * array, *rest))
    for make, expected in ((learner, theirs), (mlx_learner, ours)):
        assert np.abs(losses_of_fifty(make(folder, **settings)) / expected - 1).max() > 3e-4


@pytest.mark.parametrize("kind", ["mistral, short window", "mistral, long window", "qwen2, windows", "qwen3"])
def test_the_same_tokens_follow_a_prompt_longer_than_the_window(kind, tmp_path):
    folder = write_model(tmp_path, **KINDS[kind])
    prompt = [int(token) for token in random_batch(n_rows=1, n_tokens=60).tokens_BT[0]]
    ours, theirs = (make(folder, None, "fp32") for make in (NumpySpeaker, MlxSpeaker))
    sampling = Sampling(max_tokens=24, temperature=0.0, top_p=1.0, seed=0)
    assert [*ours.generate(prompt, sampling, set())] == [*theirs.generate(prompt, sampling, set())]
