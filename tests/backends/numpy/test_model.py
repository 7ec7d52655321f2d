"""Whole models against transformers: losses, gradients, and what trains of them."""

import numpy as np
import pytest

from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from tests.support.numpy import KINDS, learner, random_batch, torch_model, worst, write_model

torch = pytest.importorskip("torch", reason="the oracle of these tests is not installed")


def torch_loss(model, batch):
    """The summed loss, with gradients left in the model."""
    tokens = torch.from_numpy(batch.tokens_BT.astype(np.int64))
    logits = model(tokens[:, :-1]).logits
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
    loss = losses[torch.from_numpy(batch.supervised_BT[:, 1:])].sum()
    model.zero_grad()
    (loss / batch.n_supervised).backward()
    return float(loss.detach())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.few(2)
def test_loss_and_every_gradient_agree_with_transformers(kind, tmp_path):
    made = learner(write_model(tmp_path, **KINDS[kind]))
    oracle = torch_model(tmp_path)
    batch = random_batch()
    expected = torch_loss(oracle, batch)
    assert made.evaluate(batch).loss_sum == pytest.approx(expected, rel=2e-6)
    found, _ = made.gradients([batch], 1 / batch.n_supervised)
    assert found.loss_sum == pytest.approx(expected, rel=2e-6)
    compared = 0
    for name, parameter in oracle.named_parameters():
        assert worst(made.gradient[name], parameter.grad) < 1e-5, name
        compared += 1
    assert compared == len(made.layout.trained)


@pytest.mark.parametrize("strategy", [LastN(last_n=1), LastN(last_n=2), LastN(last_n="all"), Full(head=False)])
@pytest.mark.parametrize("kind", ["llama", "llama, tied", "qwen2", "qwen3"])
def test_what_trains_has_the_gradients_of_a_full_training(kind, strategy, tmp_path):
    folder = write_model(tmp_path, **KINDS[kind])
    whole, part = learner(folder), learner(folder, strategy)
    batch = random_batch()
    for made in (whole, part):
        made.gradients([batch], 1 / batch.n_supervised)
    assert set(part.layout.trained) == set(part.parts.selection.train)
    for name in part.layout.trained:
        assert worst(part.gradient[name], whole.gradient[name]) < 1e-5, name
