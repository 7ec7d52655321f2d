"""Three real steps at the largest batch, beside the plan: how far the plan is off on this machine for this model."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mlxtune.data.batches import collate
from mlxtune.data.types import Batch
from mlxtune.events import Event, Memory, Preparing
from mlxtune.memory import kept_ratio
from mlxtune.memory.plan import Plan
from mlxtune.memory.plan import plan as make_plan
from mlxtune.models import config as model_config
from mlxtune.models import hub
from mlxtune.planning import shape as run_shape
from mlxtune.recipe.recipe import Recipe
from mlxtune.run.prepare import Prepared, prepare

STEPS = 3
RATE = 1e-9  # the weights that are read are thrown away after it


class Part(NamedTuple):
    """Bytes."""

    name: str
    predicted: int
    measured: int


class Measured(NamedTuple):
    plan: Plan  # of the batches that were measured
    peak_bytes: int
    parts: tuple[Part, ...]
    ratio: float  # measured over predicted, without what was measured before


def measure(recipe: Recipe, tell: Callable[[Event], None]) -> Measured:
    """Prepare the run, make its three largest steps and keep the ratio. Nothing is written but that."""
    prepared = prepare(recipe, tell)
    blueprint, (train, evaluated) = prepared.blueprint, _batches(prepared)
    with blueprint.limited(prepared.held_bytes, prepared.plan.cache_bytes):  # as a run: what it takes otherwise is more
        tell(Preparing("loading the model"))
        learner = blueprint.learner(prepared.work, tell)
        tell(Preparing("making three steps"))
        for _ in range(STEPS):
            learner.step([train] * recipe.train.grad_accum, RATE)
        learner.evaluate(evaluated)
        memory = learner.memory()
        trains = sum(tensor.info.bytes for tensor in learner.weights())
        state = sum(tensor.info.bytes for tensor in learner.optimizer_state())
    plan = _of_these(prepared)
    ratio = memory.peak_memory_bytes / plan.parts.total
    folder = hub.resolve(recipe.model.name, revision=recipe.model.revision)
    kept_ratio.write(model_config.read(folder), blueprint.backend, ratio)
    return Measured(plan, memory.peak_memory_bytes, _parts(plan, memory, trains, state), ratio)


def _largest(prepared: Prepared) -> tuple[Sequence[int], Sequence[int]]:
    return run_shape.largest_batches(prepared.guard.setup, prepared.feed, prepared.pace.total)


def _batches(prepared: Prepared) -> tuple[Batch, Batch]:
    """The largest of what is trained on and of what is evaluated."""
    feed, (train, evaluated) = prepared.feed, _largest(prepared)
    return collate(feed.train, train), collate(feed.evaluated, evaluated)


def _of_these(prepared: Prepared) -> Plan:
    """The plan of these batches alone: NumPy keeps the frozen layers' output of the rows that it has seen."""
    guard, feed, (train, evaluated) = prepared.guard, prepared.feed, _largest(prepared)
    seen = feed._replace(train=feed.train.take(train), valid=feed.evaluated.take(evaluated))
    kept_tokens = run_shape.kept_tokens(prepared.recipe, guard.setup, seen, STEPS)
    return make_plan(guard.setup, run_shape.micro_batch(feed.train, train), guard.evaluated, kept_tokens)


def _parts(plan: Plan, memory: Memory, trains: int, state: int) -> tuple[Part, ...]:
    """Predicted and measured. trains, state: bytes of the weights that train, and of the optimizer."""
    held, peak, resident = memory.active_memory_bytes, memory.peak_memory_bytes, plan.resident
    return (
        Part("trainable weights", resident.trainable_weights, trains),
        Part("optimizer", resident.optimizer, state),
        Part("frozen weights and data", resident.frozen_weights + resident.data, held - trains - state),
        Part("a step, beyond what stays", plan.parts.total - resident.total, peak - held),
        Part("peak", plan.parts.total, peak),
    )
