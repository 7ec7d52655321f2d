"""Three real steps at the largest batch, beside the plan: how far the plan is off on this machine for this model."""

from collections.abc import Callable
from typing import NamedTuple

from mlxtune.events import Event
from mlxtune.memory import kept_ratio
from mlxtune.memory.plan import Plan
from mlxtune.models import config as model_config
from mlxtune.models import hub
from mlxtune.prepare import prepare
from mlxtune.recipe import Recipe

STEPS = 3
RATE = 1e-9  # the weights that are read are thrown away after it


class Part(NamedTuple):
    """Bytes."""

    name: str
    predicted: int
    measured: int


class Measured(NamedTuple):
    plan: Plan
    peak_bytes: int
    parts: tuple[Part, ...]
    ratio: float  # measured over predicted, without what was measured before


def measure(recipe: Recipe, tell: Callable[[Event], None]) -> Measured:
    """Prepare the run, make its three largest steps and keep the ratio. Nothing is written but that."""
    prepared = prepare(recipe)
    learner, feed, plan = prepared.learner, prepared.feed, prepared.plan
    learner.limit(prepared.guard.limit_bytes, plan.cache_bytes)
    try:
        learner.prepare(tell)
        batches = [feed.largest()] * recipe.train.grad_accum
        for _ in range(STEPS):
            learner.step(batches, RATE)
        learner.evaluate(batches[0])
        memory = learner.memory()
        trains = sum(tensor.info.bytes for tensor in learner.weights())
        state = sum(tensor.info.bytes for tensor in learner.optimizer_state())
    finally:
        learner.close()
    held, peak = memory.active_memory_bytes, memory.peak_memory_bytes
    ratio = peak / plan.parts.total
    folder = hub.resolve(recipe.model.name, revision=recipe.model.revision)
    kept_ratio.write(model_config.read(folder), learner.backend, ratio)
    resident = plan.resident
    parts = (
        Part("trainable weights", resident.trainable_weights, trains),
        Part("optimizer", resident.optimizer, state),
        Part("frozen weights and data", resident.frozen_weights + resident.data, held - trains - state),
        Part("a step, beyond what stays", plan.parts.total - resident.total, peak - held),
        Part("peak", plan.parts.total, peak),
    )
    return Measured(plan, peak, parts, ratio)
