"""Gradient checkpointing: the same bytes, of each layer the input alone held; where it is not exact it is not done."""

import gc
from itertools import product

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import llama

from mlxtune.adapters.adapter import make
from mlxtune.adapters.kind import Settings
from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Passes
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.model import lora
from mlxtune.backends.mlx.model.lora import AdapterLinear
from mlxtune.backends.mlx.passes import recompute, self_check
from mlxtune.backends.mlx.passes.choose import KEEPS_ALL
from mlxtune.backends.mlx.passes.forward import WHOLE
from mlxtune.data.batches import collate
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.architectures import ARCHITECTURES, write_architecture
from tests.support.mlx import contents, make_batch, step_peak_bytes, write_model
from tests.support.slow import all_but

STRATEGIES = {
    "last-n": LastN(last_n=2),
    "full": Full(),
    "full, head frozen": Full(head=False),
    "lora with dropout": Lora(rank=4, dropout=0.3),
}

WINDOWS = {"unclipped": (None, 1), "clipped": (1.0, 1), "accumulated": (1.0, 3)}  # the norm and the micro-batches


def learner_of(folder, strategy, precision="fp32", *, checkpoints=True, clip_norm=None):
    job = Job(folder, precision, strategy, AdamW(weight_decay=0.1), clip_norm, 0, grad_checkpoint=checkpoints)
    return MlxBlueprint(job).learner()


def both(*arguments, **settings):
    """A learner that keeps the insides of layers, and one that does not, which is looked at."""
    kept, again = (learner_of(*arguments, **settings, checkpoints=each) for each in (False, True))
    assert again.network.forward.around
    assert not kept.network.forward.around
    assert again.network.words == kept.network.words  # the self-check, which computes again too, finds the same form
    return kept, again


def steps(learner, micro_batches, n_steps=3):
    return [learner.step([make_batch(10 * step + i) for i in range(micro_batches)], 1e-2) for step in range(n_steps)]


@pytest.mark.parametrize(("clip_norm", "micro_batches"), all_but(["clipped"], WINDOWS))
@pytest.mark.parametrize(("precision", "tied"), [("fp32", False), ("bf16", True)], ids=["fp32", "bf16, tied"])
@pytest.mark.parametrize("strategy", STRATEGIES.values(), ids=STRATEGIES)
@pytest.mark.few(2)
def test_it_changes_no_byte(tmp_path, strategy, precision, tied, clip_norm, micro_batches):
    write_model(tmp_path, tie_word_embeddings=tied)
    kept, again = both(tmp_path, strategy, precision, clip_norm=clip_norm)
    assert steps(again, micro_batches) == steps(kept, micro_batches)
    assert contents(again) == contents(kept)


@pytest.mark.slow
def test_it_changes_no_byte_of_the_whole_form_or_of_float16(tmp_path, monkeypatch):
    write_model(tmp_path)
    kept, again = both(tmp_path, Lora(rank=4, dropout=0.3), "fp16")
    assert steps(again, 2) == steps(kept, 2)
    monkeypatch.setattr(self_check, "LADDER", (WHOLE,))
    kept, again = both(tmp_path, Full())
    assert steps(again, 1) == steps(kept, 1)


@pytest.mark.parametrize("name", all_but(["llama", "gemma2", "gpt2"], ARCHITECTURES.keys()))
@pytest.mark.slow
def test_every_gradient_of_each_architecture_keeps_its_bits(name, tmp_path):
    kept, again = both(write_architecture(tmp_path, name), Full())
    _, expected = kept.gradients([make_batch(0)], 1.0)
    _, found = again.gradients([make_batch(0)], 1.0)
    assert [name for name in expected if not mx.array_equal(found[name], expected[name]).item()] == []


def test_dropout_is_a_function_of_seed_step_micro_batch_and_adapter():
    adapter = make("lora", "linear", (64, 64), Settings(rank=4, scale=1.0, dropout=0.25))
    modules = [AdapterLinear(nn.Linear(64, 64), adapter, number, mx.random.key(0)) for number in range(2)]

    def dropped(*place, number):
        lora.seed_dropout(*place)
        return [bytes(modules[number].dropped(mx.ones((64, 64)))) for _ in range(2)]

    places = [(*place, number) for place in product(range(2), repeat=3) for number in range(2)]
    masks = {place: dropped(*place[:3], number=place[3]) for place in places}
    assert all(first == again for first, again in masks.values())
    assert len({first for first, _ in masks.values()}) == len(places)
    mask = np.frombuffer(masks[0, 0, 0, 0][0], np.float32)
    assert (mask == 0).mean() == pytest.approx(0.25, abs=0.03)
    assert set(mask.tolist()) == {0.0, np.float32(4 / 3)}


# Faults that would be seen


def test_rows_that_see_each_other_in_the_second_computation_change_the_gradients(tmp_path, monkeypatch):
    """So the test of bytes sees the context that packing needs."""
    write_model(tmp_path)
    kept, again = both(tmp_path, Full())
    monkeypatch.setattr(recompute, "attention_by_rows", lambda _: recompute._having(nn.Module(), {}))
    assert steps(again, 1) != steps(kept, 1)


def test_the_check_sees_packed_rows_that_see_each_other(tmp_path, monkeypatch):
    monkeypatch.setattr(recompute, "attention_by_rows", lambda _: recompute._having(nn.Module(), {}))
    assert_keeps_all(learner_of(write_model(tmp_path), Full()), "differs by")


class Lends(llama.TransformerBlock):
    """Takes its norm's weight from the block before it: a gradient flows past what the layer is given."""

    lent = None

    def __call__(self, hidden, *arguments, **named):
        lent = Lends.lent
        Lends.lent = self.input_layernorm.weight
        return super().__call__(hidden if lent is None else hidden * (1 + lent), *arguments, **named)


class Draws(llama.TransformerBlock):
    """Has a dropout of its own."""

    def __call__(self, hidden, *arguments, **named):
        return super().__call__(nn.Dropout(0.5)(hidden), *arguments, **named)


@pytest.mark.parametrize("block", [Lends, Draws])
@pytest.mark.slow
def test_what_cannot_be_computed_again_is_kept_and_the_panel_says_so(tmp_path, monkeypatch, block):
    monkeypatch.setattr(llama, "TransformerBlock", block)
    monkeypatch.setattr(Lends, "lent", None)
    learner = learner_of(write_model(tmp_path), Full())
    assert_keeps_all(learner, "differs by")
    learner.step([make_batch(0)], 1e-3)


def test_code_that_fails_when_computed_again_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr(recompute, "_floats", lambda _: 1 / 0)
    assert_keeps_all(learner_of(write_model(tmp_path), Full()), "fails on it, ZeroDivisionError")


def assert_keeps_all(learner, told):
    assert not learner.network.forward.around
    assert any(note.startswith(KEEPS_ALL) and told in note for note in learner.decisions.notes)


def test_nothing_is_said_where_it_is_exact_or_not_asked_for(tmp_path):
    kept, again = both(write_model(tmp_path), Full())
    assert kept.decisions.notes == again.decisions.notes == ()


# Memory


LAYERS, WIDTH, FEATURES, TOKENS = 8, 64, 192, 512


@pytest.fixture(scope="module")
def deep_model(tmp_path_factory):
    """Eight layers whose insides are larger than their weights."""
    shape = {"hidden_size": WIDTH, "intermediate_size": FEATURES, "max_position_embeddings": 1024}
    return write_model(tmp_path_factory.mktemp("deep"), num_hidden_layers=LAYERS, **shape)


def peak_bytes(learner):
    return step_peak_bytes(learner, [make_batch(0, lengths=(TOKENS + 1,))])


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "strategy",
    [Full(), Lora(rank=4, dropout=0.1)],
    ids=["full", "lora"],
)
def test_the_inside_of_one_layer_is_held_at_a_time(deep_model, strategy):
    kept, again = (peak_bytes(each) for each in both(deep_model, strategy))
    assert again < 0.5 * kept


@pytest.mark.slow
@pytest.mark.usefixtures("on_cpu")
def test_more_would_be_held_if_the_inputs_gradient_did_not_wait_for_those_of_the_weights(deep_model, monkeypatch):
    learner = learner_of(deep_model, Full(), clip_norm=1.0)
    waiting, depends = peak_bytes(learner), mx.depends
    monkeypatch.setattr(mx, "depends", lambda arrays, on: arrays if len(arrays) == 1 else depends(arrays, on))
    assert peak_bytes(learner) > 1.5 * waiting


@pytest.mark.slow
def test_the_self_check_of_the_longest_rows_takes_no_more_than_a_step(deep_model):
    peaks = []
    for checkpoints in (True, False):
        blueprint = MlxBlueprint(Job(deep_model, "fp32", Full(), AdamW(), 1.0, 0, grad_checkpoint=checkpoints))
        row = TokenRow(np.arange(512, dtype=np.int32) % 90, np.arange(512) > 0, "")
        work = Work(listed([row]), collate([row], [0]), None, 512, Passes(1, 1), "random")
        mx.synchronize()
        mx.reset_peak_memory()
        learner = blueprint.learner(work)
        peaks.append(mx.get_peak_memory())
        del learner
        gc.collect()
    assert peaks[0] < 0.6 * peaks[1]


@pytest.mark.slow
def test_the_check_holds_few_gradients_at_a_time(tmp_path, monkeypatch):
    """Of both passes together they would be twice the weights."""
    write_model(tmp_path, num_hidden_layers=6, hidden_size=256, intermediate_size=768)
    peaks, worst = [], recompute._worst

    def watched(*gradients):
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        found = worst(*gradients)
        peaks.append(mx.get_peak_memory() - before)
        return found

    monkeypatch.setattr(recompute, "_worst", watched)
    learner = learner_of(tmp_path, Full())
    assert peaks[0] < 0.7 * sum(array.nbytes for array in learner.trained.weights.values())
