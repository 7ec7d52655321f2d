"""Which form of the passes each architecture gets, and that it changes no number."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Passes as RowPasses
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.head.probe import probe
from mlxtune.backends.mlx.model.lazy_weights import Unread
from mlxtune.backends.mlx.model.load import load_lazily
from mlxtune.backends.mlx.passes import packing
from mlxtune.backends.mlx.passes.choose import Passes, RowsToCheck
from mlxtune.backends.mlx.passes.forward import WHOLE, Form, Forward
from mlxtune.backends.mlx.passes.self_check import COMPARED_TOKENS, SPLIT, for_check, some_rows
from mlxtune.data.token_rows import listed
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.last_n import LastN
from tests.support.architectures import ARCHITECTURES, write_architecture
from tests.support.mlx import in_one_piece, make_batch, make_learner, write_model
from tests.support.slow import all_but

BEST = Form(split=True, packed=True, gathered=True, sharded=True)
PADDED = BEST._replace(packed=False)
WITHOUT_SHARDS = BEST._replace(sharded=False)
NOT_BEST = {"gpt2": PADDED, "qwen3_5": PADDED, "mamba2": PADDED, "lfm2": PADDED, "jamba": PADDED, "gemma3n": WHOLE}


def learner_of(name, folder):
    return MlxBlueprint(Job(write_architecture(folder, name), "fp32", LastN(last_n=3), AdamW(), None, 0)).learner()


@pytest.mark.parametrize("name", all_but(["llama", "gemma2", "gpt2"], ARCHITECTURES.keys()))
@pytest.mark.slow
def test_each_architecture_trains_in_its_best_exact_form_with_the_whole_models_loss(name, tmp_path):
    learner, batch = learner_of(name, tmp_path), make_batch(0)
    assert learner.network.forward.form == NOT_BEST.get(name, BEST)
    assert bool(learner.decisions.notes) == (name in NOT_BEST)
    whole = Forward(load_lazily(tmp_path, "fp32"), 0, WHOLE)
    expected = -mx.sum(whole.log_probabilities(whole.lay_out(batch), None)).item()
    assert learner.evaluate(batch).loss_sum == pytest.approx(expected, rel=2e-6)
    assert learner.step([batch], 1e-3).loss.loss_sum == pytest.approx(expected, rel=2e-6)
    assert learner.evaluate(batch).loss_sum < expected


@pytest.mark.parametrize("form", [BEST, PADDED, WITHOUT_SHARDS, SPLIT])
def test_gradients_in_every_form_are_those_of_the_whole_model(form, tmp_path):
    write_model(tmp_path)
    learner, batch = make_learner(tmp_path, LastN(last_n=2)), make_batch(0)
    first, expected = learner.parts.selection.first_layer, gradients_in(learner, batch, WHOLE, 0)
    found = gradients_in(learner, batch, form, first)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        largest = mx.max(mx.abs(expected[name])).item()
        assert mx.max(mx.abs(gradient - expected[name])).item() <= 5e-6 * largest, name


def gradients_in(learner, batch, form, first):
    weights = in_one_piece(learner.trained.weights)
    forward = Forward(learner.model, first, form, learner.network.forward.head)
    layout = forward.lay_out(batch)
    hidden = forward.prefix(layout)

    def loss(weights):
        learner.model.update(tree_unflatten(list(weights.items())))
        return -mx.sum(forward.log_probabilities(layout, hidden))

    return mx.grad(loss)(weights)


def test_a_model_whose_numbers_overflow_keeps_its_form(tmp_path):
    """The first step will say that its loss is not finite; its rows are those that it has on other backends."""
    write_model(tmp_path)
    file = str(tmp_path / "model.safetensors")
    weights = dict(mx.load(file))
    mx.eval(weights)
    name = "model.layers.0.mlp.up_proj.weight"
    mx.save_safetensors(file, {**weights, name: mx.full(weights[name].shape, 3e38)})
    assert make_learner(tmp_path, LastN(last_n=2)).network.forward.form == BEST


def test_a_model_that_lets_packed_rows_see_each_other_gets_padded_rows_and_the_panel_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(
        packing,
        "_rows",
        lambda heads, _, scale, mask, __: mx.fast.scaled_dot_product_attention(*heads, scale=scale, mask=mask),
    )
    write_model(tmp_path)
    learner = make_learner(tmp_path, LastN(last_n=1))
    assert learner.network.forward.form == PADDED
    assert any("not packed" in note for note in learner.decisions.notes)


def test_packing_that_fails_on_the_longer_rows_of_the_validation_alone_is_not_used(tmp_path, monkeypatch):
    by_rows = packing._rows
    monkeypatch.setattr(
        packing, "_rows", lambda heads, cache, *given: by_rows(heads, cache, *given) * (1 if cache.ends[-1] < 60 else 2)
    )
    write_model(tmp_path)
    for lengths, packed in (((10, 9), True), ((50, 40), False)):
        work = Work(listed([]), make_batch(0, (24, 17)), make_batch(0, lengths), 90, RowPasses(1, 1), "random")
        learner = MlxBlueprint(Job(tmp_path, "fp32", LastN(last_n=1), AdamW(), None, 0, "off")).learner(work)
        assert learner.network.forward.form.packed == packed


def test_a_split_that_is_off_by_one_bit_is_not_used(tmp_path, monkeypatch):
    exact = Forward.prefix
    monkeypatch.setattr(Forward, "prefix", lambda self, layout: _nudged(exact(self, layout)))
    write_model(tmp_path)
    assert not make_learner(tmp_path, LastN(last_n=1)).network.forward.form.split


def _nudged(hidden):
    return None if hidden is None else hidden * (1 + 2**-22)


def test_the_row_that_is_compared_is_short_and_the_sequence_as_long_as_the_runs_longest():
    batch = for_check([np.arange(n, dtype=np.int32) for n in (300, 200)])
    assert batch.lengths_B[-1] == COMPARED_TOKENS
    assert (batch.lengths_B - 1).sum() == 299 + 199  # tokens that are read
    assert batch.lengths_B.max() <= 300
    assert batch.n_supervised == COMPARED_TOKENS - 1


def test_the_frozen_layers_are_not_in_memory_after_the_check(tmp_path):
    blueprint = MlxBlueprint(Job(write_architecture(tmp_path, "llama"), "fp32", LastN(last_n=1), AdamW(), None, 0))
    model = load_lazily(tmp_path, "fp32")
    unread = Unread(model, tmp_path, "fp32", [*blueprint.anatomy.layers[:-1], blueprint.anatomy.embedding])
    unread.read_the_rest()
    before = mx.get_active_memory()
    rows = RowsToCheck(some_rows(97), ())
    Passes(model, blueprint.anatomy, blueprint.selection, rows, unread).forward(probe(model), checkpoints=False)
    layer = sum(a.nbytes for name, a in tree_flatten(model.parameters()) if name.startswith("model.layers.0."))
    assert mx.get_active_memory() - before < layer
