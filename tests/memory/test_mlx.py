"""The plan of a run on MLX beside learners that step: the peak within a tenth, what stays between steps to the byte."""

import gc
from typing import Any, NamedTuple

import mlx.core as mx
import pytest

from mlxtune.backends.mlx import device
from mlxtune.recipe.recipe import build
from mlxtune.run.prepare import Prepared, prepare
from tests.support.memory import text_of, whole_folder
from tests.support.slow import all_but

LORA = {"strategy.name": "lora", "strategy.rank": 8}
FULL = {"strategy.name": "full"}
LAST = {"strategy.last_n": 2}
SGD = {"optimizer.name": "sgd"}
MOMENTUM = SGD | {"optimizer.momentum": 0.9}
NOT_OF_A_STEP = ("evaluation", "pass of the frozen layers")
KEPT, NOT_KEPT = {"backend.prefix_cache": "on"}, {"backend.prefix_cache": "off"}


class Case(NamedTuple):
    """A run. shape: changes to the small model's config."""

    settings: dict[str, Any]
    shape: dict[str, Any]
    batch: int = 2
    length: int = 256


CASES = {
    "last 2, kept": Case(LAST | KEPT, {}, 4),
    "last 2, not kept": Case(LAST | NOT_KEPT, {"vocab_size": 8000}, 4),
    "last 2, head of its own from a tied one": Case(
        LAST | NOT_KEPT | {"strategy.head": True}, {"tie_word_embeddings": True, "vocab_size": 6000}
    ),
    "full": Case(FULL, {"vocab_size": 4000}),
    "full, recomputed": Case(FULL | {"backend.grad_checkpoint": True}, {}, 4),
    "full, accumulated, bf16": Case(FULL | {"train.grad_accum": 2, "backend.precision": "bf16"}, {}, 1, 128),
    "lora": Case(LORA, {"num_hidden_layers": 6}),
    "full, adam that decays": Case(FULL | {"optimizer.name": "adam", "optimizer.weight_decay": 0.1}, {}, 1, 64),
    "full, sgd": Case(FULL | SGD, {}, 1, 64),
    "full, sgd, momentum, bf16": Case(FULL | MOMENTUM | {"backend.precision": "bf16"}, {"vocab_size": 8000}, 1, 64),
    "full, sgd, momentum": Case(
        FULL | MOMENTUM | {"optimizer.nesterov": True, "optimizer.weight_decay": 0.1}, {}, 1, 64
    ),
    "last 2, sgd, momentum in bf16": Case(LAST | NOT_KEPT | MOMENTUM | {"optimizer.moments": "bf16"}, {}, 1, 64),
}


def prepared_of(case: Case, place) -> Prepared:
    n_tokens = case.batch * case.length * case.settings.get("train.grad_accum", 1) * 3
    settings = {
        "model.name": str(
            whole_folder(place / "model", **{"hidden_size": 256, "intermediate_size": 768, **case.shape})
        ),
        "data.path": str(text_of(place / "rows.txt", n_tokens)),
        "data.max_seq_length": case.length,
        "data.valid_share": 0.0,
        "train.batch_size": case.batch,
        "train.max_steps": 3,
        "backend.name": "mlx",
        "backend.precision": "fp32",
    }
    return prepare(build({}, settings | case.settings))


class Ran(NamedTuple):
    prepared: Prepared
    step_peak: int  # of the second step alone
    active: int  # after it
    trains: int
    state: int


@pytest.fixture(scope="module", params=all_but(["full, sgd"], CASES))
def ran(request, tmp_path_factory):
    prepared = prepared_of(request.param, tmp_path_factory.mktemp("case"))
    gc.collect()  # what other tests left goes now, not between the two readings
    mx.synchronize()
    feed, before = prepared.feed, mx.get_active_memory()
    with prepared.blueprint.limited(prepared.held_bytes, prepared.plan.cache_bytes):  # as a run does
        learner = prepared.blueprint.learner(prepared.work)
        windows = [feed.batches(window) for window in feed.windows(0)]
        learner.step(windows[0], 1e-4)
        device.forget_peak()
        learner.step(windows[1], 1e-4)
        peak, active = mx.get_peak_memory() - before, mx.get_active_memory() - before
        trains = sum(tensor.info.bytes for tensor in learner.weights())
        state = sum(tensor.info.bytes for tensor in learner.optimizer_state())
    return Ran(prepared, peak, active, trains, state)


def test_the_peak_of_a_step_is_within_a_tenth_of_the_plan(ran):
    moments = ran.prepared.plan.moments
    planned = max(parts.total for name, parts in moments.items() if name not in NOT_OF_A_STEP)
    assert planned == pytest.approx(ran.step_peak, rel=0.1)


def test_what_trains_and_its_state_are_planned_to_the_byte(ran):
    resident = ran.prepared.plan.resident
    assert resident.trainable_weights == ran.trains
    assert resident.optimizer == ran.state


def test_what_stays_between_two_steps_is_what_is_planned_but_for_the_pages_of_buffers(ran):
    planned = ran.prepared.plan.resident.total
    assert planned <= ran.active < 1.03 * planned
