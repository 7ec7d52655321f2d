"""What the plan of memory asks of a recipe, its model and its rows: the Setup, and the largest batches."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mlxtune import validating
from mlxtune.backends.base import Blueprint
from mlxtune.backends.decisions import Decisions, Passes
from mlxtune.backends.numpy.device import prefix_bytes, row_threads
from mlxtune.data.batches import MULTIPLE, Batches
from mlxtune.data.dataset import Dataset
from mlxtune.data.distinct import NOTHING, Distinct
from mlxtune.data.settings import within
from mlxtune.data.spread import NO_ROW
from mlxtune.data.token_rows import TokenRows
from mlxtune.errors import BadSetting, raise_all
from mlxtune.feed import Feed
from mlxtune.format import counted
from mlxtune.memory.outline import dimensions
from mlxtune.memory.plan import plan
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models.config import ModelConfig
from mlxtune.models.context import context
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.fit import quantised
from mlxtune.models.recurrence import attends_only
from mlxtune.optim.schedule import check_length
from mlxtune.pace import Pace, affordable
from mlxtune.recipe.recipe import Recipe
from mlxtune.storage.checkpoint import CheckpointSettings
from mlxtune.strategies.choose import check_layers
from mlxtune.strategies.selection import Anatomy, Selection

PRECISION_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}


def feed_of(recipe: Recipe, dataset: Dataset, anatomy: Anatomy, selection: Selection) -> Feed:
    """The rows in this recipe's batches, with the validation rows that it can afford."""
    train, cost = recipe.train, validating.cost(selection, len(anatomy.layers))
    feed = Feed(
        dataset.train,
        dataset.valid,
        train.batch_size,
        train.grad_accum,
        train.seed,
        by_length=not attends_only(anatomy.parameters),
        in_order=not train.shuffle,
        eval_cost=cost,
        rows_per_example=dataset.rows_per_example,
        needs_reference=recipe.objective.needs_reference,
    )
    return affordable(train, feed)


def for_model(recipe: Recipe, config: ModelConfig, place: Path) -> Recipe:
    """The recipe with the length of rows, which depends on the model.

    Raises BadSetting for what the model does not have, BadModel for one that is quantised. place: for messages.
    """
    if config.quantized:
        raise quantised(place, config.quantized)
    check_layers(recipe.strategy, config.n_layers)
    return replace(recipe, data=within(recipe.data, context(config)))


def check_selection(recipe: Recipe, selection: Selection) -> None:
    """Refuse to keep the output of frozen layers where there are none."""
    if recipe.backend.prefix_cache == "on" and selection.first_layer == 0:
        found = "a strategy that trains the first layer"
        raise BadSetting("backend.prefix_cache", expected="frozen layers before the first that trains", found=found)


def check_rows(recipe: Recipe, feed: Feed, paces: Pace) -> list[str]:
    """What is to be said of settings beside these rows. Raises BadSetting for one that could have no effect."""
    train, every = recipe.train, recipe.checkpoint.save_every
    check_length(recipe.schedule, paces.total)
    asked = {"train.patience": train.patience, "train.eval_every": train.eval_every}
    if not feed.valid:
        raise_all([_needs_validation(key, value) for key, value in asked.items() if value is not None])
    validations = 1 + math.ceil(paces.total / paces.eval_every)
    if train.patience is not None and train.patience >= validations:
        raise BadSetting(
            "train.patience",
            expected=f"fewer than the run's {counted(validations, 'validation')}",
            found=f"{train.patience:,}",
            remedy=f"Validation is every {counted(paces.eval_every, 'step')}: lower --eval-every, or leave it out.",
        )
    said = []
    if train.eval_every is not None and train.eval_every > paces.total:
        said.append(
            f"Validation is before the first step and after the last: --eval-every {train.eval_every} is later."
        )
    if every > paces.total and every != CheckpointSettings().save_every:
        said.append(f"The only checkpoint is that of the last step: --save-every {every} is later.")
    return said


def _needs_validation(key: str, value: int) -> BadSetting:
    remedy = "Leave it out, add a validation file, or hold some rows out: --valid 0.05."
    return BadSetting(key, expected="validation rows, of which there are none", found=f"{value:,}", remedy=remedy)


def passes(feed: Feed, paces: Pace, n_rows: int) -> Passes:
    """How often a run reads its rows. n_rows: all that are trained on, and all that could validate."""
    trained = paces.total * feed.batch_size * feed.grad_accum * feed.rows_per_example
    return Passes(trained + (1 + paces.total // paces.eval_every) * len(feed.valid), n_rows)


class Trained(NamedTuple):
    """A model, what trains of it, and how it is computed."""

    anatomy: Anatomy
    selection: Selection
    dimensions: Dimensions
    decisions: Decisions


def setup_of(recipe: Recipe, model: Trained, backend: str, *, on_gpu: bool) -> Setup:
    """All that memory depends on but the rows."""
    train, precision = recipe.train, recipe.backend.precision
    batch_rows = train.batch_size * recipe.objective.rows_per_example
    return Setup(
        backend=backend,
        gpu=on_gpu,
        anatomy=model.anatomy,
        selection=model.selection,
        dimensions=model.dimensions,
        element_bytes=4 if backend == "numpy" else PRECISION_BYTES[precision],
        optimizer=recipe.optimizer,
        accumulates=train.grad_accum > 1,
        decisions=model.decisions,
        sampled_tokens=recipe.data.longest + recipe.sample.max_tokens if recipe.sample.every else 0,
        row_threads=row_threads(batch_rows, recipe.backend.prefix_cache) if backend == "numpy" else 1,
    )


def of_blueprint(recipe: Recipe, blueprint: Blueprint, decisions: Decisions, config: ModelConfig) -> Setup:
    """The same from what a blueprint knows."""
    model = Trained(blueprint.anatomy, blueprint.selection, dimensions(config), decisions)
    found = setup_of(recipe, model, blueprint.backend, on_gpu=blueprint.on_gpu)
    return found._replace(is_known_family=Dimensions.of(config) is not None)


def kept_tokens(recipe: Recipe, setup: Setup, feed: Feed, steps: int, trained: Distinct | None = None) -> int:
    """Of the distinct rows whose frozen layers' output NumPy keeps in memory: those that the run reaches.

    trained: all of the training, if known.
    """
    if setup.backend != "numpy" or setup.selection.first_layer == 0:
        return 0
    windows = feed.windows(0)
    if steps < len(windows) and not feed.needs_reference:
        reached = windows.of_steps(steps).rows
        rows = NOTHING.plus(feed.train.take(reached[reached != NO_ROW])).plus(feed.valid)
    else:
        rows = (trained or NOTHING.plus(feed.train)).plus(feed.valid)
    return min(prefix_bytes(recipe.backend.prefix_cache) // (4 * setup.dimensions.hidden_size), rows.tokens)


def largest(setup: Setup, batches: Batches, rows: TokenRows) -> Sequence[int]:
    """Of batches of row numbers the one that takes the most: one of those with the most of what memory grows with."""
    read_B = rows.lengths_B.astype(np.int64) - 1
    longest = batches.largest(read_B)
    if setup.decisions.packs_rows:
        grown = [batches.summed(read_B), batches.summed(read_B**2), longest]
    else:
        grown = [batches.counts * -(-(longest + 1) // MULTIPLE), batches.counts * (-(-(longest + 1) // MULTIPLE)) ** 2]
    few = dict.fromkeys(int(each.argmax()) for each in (*grown, batches.summed(rows.supervised_B)))
    return max((batches[place] for place in few), key=lambda batch: plan(setup, micro_batch(rows, batch)).parts.total)


def micro_batch(rows: TokenRows, batch: Sequence[int]) -> Rows:
    """The shape of one batch of row numbers."""
    chosen = np.asarray(batch, np.intp)
    return rows_of(rows.lengths_B[chosen].tolist(), int(rows.supervised_B[chosen].sum()), MULTIPLE)


def of_feed(setup: Setup, feed: Feed, steps: int) -> tuple[Rows, Rows]:
    """The shapes of the largest batches. All rows are evaluated where the model of the start is asked first."""
    trained, validated = largest_batches(setup, feed, steps)
    train, evaluated = micro_batch(feed.train, trained), micro_batch(feed.evaluated, validated)
    if feed.needs_reference:
        evaluated = max(train, evaluated, key=lambda rows: rows.places(packed=setup.decisions.packs_rows))
    return train, evaluated


def largest_batches(setup: Setup, feed: Feed, steps: int) -> tuple[Sequence[int], Sequence[int]]:
    """The largest micro-batch of the first epoch, or of the steps if they are fewer, and of what is evaluated."""
    train = largest(setup, feed.windows(0).of_steps(steps), feed.train)
    return train, largest(setup, feed.eval_batches(), feed.evaluated)
