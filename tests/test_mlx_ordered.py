"""Updates inside the backward pass: the same bytes, fewer gradients held."""

import numpy as np
import pytest

from mlxtune.backends.base import Job
from mlxtune.backends.mlx.learner import MlxLearner
from mlxtune.backends.mlx.ordered import Ordered
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support_models import contents, make_batch, make_learner, step_peak_bytes, write_model

STRATEGIES = {
    "last-n": LastN(last_n=2),
    "last-n, head frozen": LastN(last_n=2, head=False),
    "full": Full(),
    "lora": Lora(rank=4),
    "lora with dropout": Lora(rank=4, dropout=0.3),
}


def learner_of(folder, strategy, order, precision="fp32", **changes):
    settings = {"optimizer": AdamW(weight_decay=0.1), "clip_norm": None, "seed": 0, **changes}
    made = MlxLearner(Job(folder, precision, strategy, **settings, update_order=order))
    made.prepare()
    return made


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_the_order_of_updates_changes_no_byte(tmp_path, strategy, precision, tied):
    write_model(tmp_path, tie_word_embeddings=tied)
    inside, after = (learner_of(tmp_path, strategy, order, precision) for order in ("auto", "after"))
    for seed in range(3):
        found, expected = (learner.step([make_batch(seed)], 1e-2) for learner in (inside, after))
        assert found.loss == expected.loss
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=1e-5)  # its squares are added in another order
    assert contents(inside) == contents(after)


def test_moments_in_bfloat16_are_rounded_alike_in_either_order(tmp_path):
    write_model(tmp_path)
    optimizer = AdamW(moments="bf16")
    inside, after = (learner_of(tmp_path, Full(), order, "bf16", optimizer=optimizer) for order in ("auto", "after"))
    for seed in range(3):
        for learner in (inside, after):
            learner.step([make_batch(seed)], 1e-2)
    assert contents(inside) == contents(after)


def test_the_updates_are_inside_only_where_each_gradient_is_final(tmp_path, monkeypatch):
    monkeypatch.setattr(Ordered, "update", lambda *_: 1 / 0)
    write_model(tmp_path)
    with pytest.raises(ZeroDivisionError):
        learner_of(tmp_path, LastN(last_n=1), "auto").step([make_batch(0)], 1e-2)
    for learner, batches in (
        (learner_of(tmp_path, LastN(last_n=1), "auto", clip_norm=1.0), 1),
        (learner_of(tmp_path, LastN(last_n=1), "after"), 1),
        (learner_of(tmp_path, LastN(last_n=1), "auto"), 2),
        (learner_of(tmp_path, LastN(last_n=1), "auto", "fp16"), 1),
    ):
        learner.step([make_batch(seed) for seed in range(batches)], 1e-2)


@pytest.mark.parametrize("strategy", [LastN(last_n=8, head=False), Full()], ids=["last 8", "full"])
def test_fewer_gradients_are_held_at_once(tmp_path, strategy):
    write_model(tmp_path, num_hidden_layers=10, hidden_size=128, intermediate_size=512)

    def peak(order):
        learner, batch = learner_of(tmp_path, strategy, order), make_batch(0, lengths=(6, 5))
        learner.step([batch], 1e-3)
        return step_peak_bytes(learner, [batch])

    assert peak("auto") < 0.7 * peak("after")


def test_a_run_without_clipping_agrees_with_one_that_never_clips(tmp_path):
    write_model(tmp_path)
    inside = learner_of(tmp_path, LastN(last_n=2), "auto")
    never = make_learner(tmp_path, LastN(last_n=2), optimizer=AdamW(weight_decay=0.1), clip_norm=1e9)
    for seed in range(3):
        assert inside.step([make_batch(seed)], 1e-2).loss == never.step([make_batch(seed)], 1e-2).loss


def test_the_bias_of_a_head_in_shards_trains_in_the_backward_pass(tmp_path):
    """Phi's and GPT-J's heads have one."""
    folder = write_model(tmp_path, "phi")
    learner = make_learner(folder, Full(), clip_norm=None)
    name = "lm_head.bias"
    before, gradient = np.array(learner.trained.weights[name]), learner.gradients([make_batch(0)], 1.0)[1][name]
    learner.step([make_batch(0)], 1e-3)
    moved = np.array(learner.trained.weights[name]) - before
    assert learner.network.shards
    np.testing.assert_allclose(moved, -1e-3 * np.sign(np.array(gradient)), rtol=1e-2)
