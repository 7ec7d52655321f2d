"""Everything that a run needs, checked, before a weight is read or a file written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune import validating
from mlxtune.backends.base import Blueprint, Job, Work
from mlxtune.backends.choose import blueprint as make_blueprint
from mlxtune.backends.decisions import Decisions
from mlxtune.data.batches import padding_waste
from mlxtune.data.dataset import Dataset
from mlxtune.data.fingerprint import fingerprint
from mlxtune.data.special import Special
from mlxtune.errors import BadSetting
from mlxtune.events import Event, Memory, Preparing, Start, ignore
from mlxtune.feed import Feed
from mlxtune.format import size as in_bytes
from mlxtune.memory import kept_ratio
from mlxtune.memory.guard import LOWER, Guard, in_words
from mlxtune.memory.plan import Plan, in_parts, plan
from mlxtune.memory.setup import Rows, Setup
from mlxtune.models.fingerprint import fingerprint as model_fingerprint
from mlxtune.pace import Pace, pace
from mlxtune.planning import shape as run_shape
from mlxtune.progress import Progress
from mlxtune.recipe.recipe import Recipe
from mlxtune.run.inputs import Inputs, read
from mlxtune.samples import Asked, asked
from mlxtune.strategies.size import Sizes, sizes

NOTHING = Memory(0, 0, 0)


class Questions(NamedTuple):
    """What the model is asked while it trains, and what its answers are read with."""

    asked: tuple[Asked, ...]
    tokenizer: Any
    special: Special


class Prepared(NamedTuple):
    recipe: Recipe
    dataset: Dataset
    blueprint: Blueprint
    work: Work
    decisions: Decisions  # what is to be expected, and of a learner that is made, what is so
    feed: Feed
    pace: Pace
    size: Sizes
    fingerprints: dict[str, str]
    notes: tuple[str, ...]  # what the user should know
    late: tuple[str, ...]  # and of a late step that will not fit
    questions: Questions
    plan: Plan  # of the largest batch
    guard: Guard

    @property
    def held_bytes(self) -> int:
        """To which the backend is held.

        MLX works some operations ahead of what is done, up to a fifth above the plan, unless it is held: it then waits,
        which took no time that was seen. On a GPU, and for families whose layers are not known, the plan was never
        measured, and makes no one wait.
        """
        plan, guard = self.plan, self.guard
        free = guard.setup.gpu or not guard.setup.is_known_family
        return guard.limit_bytes if free else min(plan.peak_bytes, guard.limit_bytes or plan.peak_bytes)


def prepare(recipe: Recipe, tell: Callable[[Event], None] = ignore) -> Prepared:
    """Find the model, read the data, choose what trains. Raises MlxtuneError; reads headers, never weights."""
    inputs = read(recipe, tell)
    tell(Preparing("planning the run"))
    recipe, dataset, config = inputs.recipe, inputs.dataset, inputs.config
    blueprint = make_blueprint(recipe.backend, _job(recipe, inputs.folder))
    anatomy, selection = blueprint.anatomy, blueprint.selection
    run_shape.check_selection(recipe, selection)
    feed = run_shape.feed_of(recipe, dataset, anatomy, selection)
    paces = pace(recipe.train, feed)
    said = run_shape.check_rows(recipe, feed, paces)
    fingerprints = {"model": model_fingerprint(inputs.folder, tell), "data": fingerprint(dataset)}
    work = _work(feed, paces, dataset, fingerprints["model"])
    decisions = blueprint.decide(work)
    setup = run_shape.of_blueprint(recipe, blueprint, decisions, config)
    limit_bytes = recipe.backend.memory_limit_bytes or blueprint.memory_limit_bytes
    kept_tokens = run_shape.kept_tokens(recipe, setup, feed, paces.total)
    found, guard = _memory(setup, feed, paces, limit_bytes, kept_ratio.read(config, blueprint.backend), kept_tokens)
    return Prepared(
        recipe=recipe,
        dataset=dataset,
        blueprint=blueprint,
        work=work,
        decisions=decisions,
        feed=feed,
        pace=paces,
        size=sizes(anatomy, selection, recipe.optimizer.slot_bytes, recipe.optimizer.master_bytes),
        fingerprints=fingerprints,
        notes=(*selection.notes, *dataset.notes, *inputs.notes, *said),
        late=_late(guard, feed, paces, found),
        questions=_questions(inputs, feed),
        plan=found,
        guard=guard,
    )


def _questions(inputs: Inputs, feed: Feed) -> Questions:
    """What the model is asked while it trains."""
    recipe, beginnings = inputs.recipe, feed.evaluated[:: feed.rows_per_example]
    found = asked(recipe.sample, beginnings, inputs.tokenizer, inputs.special, recipe.data.time, recipe.data.longest)
    return Questions(found, inputs.tokenizer, inputs.special)


def as_made(prepared: Prepared, decisions: Decisions, valid_rows: int) -> Prepared:
    """With what turned out to be so, and with as many validation rows as the run began with.

    Raises BadSetting where the run does not fit that way.
    """
    guard, feed = prepared.guard, prepared.feed
    if (decisions, valid_rows) == (prepared.decisions, feed.n_valid):
        return prepared
    feed = feed._replace(valid=prepared.dataset.valid).validating(valid_rows)
    paces = pace(prepared.recipe.train, feed)
    setup = guard.setup._replace(decisions=decisions)
    plan, guard = _memory(setup, feed, paces, guard.limit_bytes, guard.factor, guard.kept_tokens)
    late = _late(guard, feed, paces, plan)
    return prepared._replace(decisions=decisions, feed=feed, pace=paces, guard=guard, plan=plan, late=late)


def _memory(
    setup: Setup, feed: Feed, paces: Pace, limit_bytes: int, factor: float, kept_tokens: int
) -> tuple[Plan, Guard]:
    """The plan of the largest batch, and what holds the run to it."""
    rows, evaluated = run_shape.of_feed(setup, feed, paces.total)
    found = plan(setup, rows, evaluated, kept_tokens, factor)
    return found, Guard(setup, limit_bytes, factor, evaluated, kept_tokens)


def _late(guard: Guard, feed: Feed, paces: Pace, found: Plan) -> tuple[str, ...]:
    """A note where a late step will not fit. Raises BadSetting, with the plan, where an early one does not.

    Early is the first half of the run: more than that is worth having, with a checkpoint to go on from.
    """
    if found.peak_bytes <= guard.limit_bytes or not guard.limit_bytes:
        return ()
    step, rows = _first_too_large(guard, feed, paces.total)
    if rows is None:
        return ()  # in an epoch that the run does not reach
    if step > paces.total / 2:
        needed = in_bytes(guard.needed(rows).peak_bytes)
        said = f"{in_words(rows)}, would need {needed} of {in_bytes(guard.limit_bytes)}"
        return (f"The run will stop before step {step:,}, with a checkpoint: its batch, {said}.",)
    raise BadSetting(
        "backend.memory_limit_bytes",
        expected=f"a run that fits {in_bytes(guard.limit_bytes)}",
        found=f"one that needs {in_bytes(found.peak_bytes)}: {in_parts(found)}",
        remedy=LOWER,
    )


def _first_too_large(guard: Guard, feed: Feed, steps: int) -> tuple[int, Rows | None]:
    """The first step with a batch that does not fit, and the batch."""
    per_epoch = len(feed.windows(0))
    for epoch in range(-(-steps // per_epoch)):
        for place, window in enumerate(feed.windows(epoch)[: steps - epoch * per_epoch]):
            for rows in (run_shape.micro_batch(feed.train, batch) for batch in window):
                if not guard.fits(rows):
                    return epoch * per_epoch + place + 1, rows
    return steps, None


def _job(recipe: Recipe, folder: Path) -> Job:
    train = recipe.train
    backend = recipe.backend
    return Job(
        folder,
        backend.precision,
        recipe.strategy,
        recipe.optimizer,
        train.clip_norm,
        train.seed,
        backend.prefix_cache,
        backend.grad_checkpoint,
        train.batch_size * recipe.objective.rows_per_example,
        recipe.objective,
    )


def _work(feed: Feed, paces: Pace, dataset: Dataset, fingerprint: str) -> Work:
    """What the run will ask, from its first step on."""
    rows, evaluated = dataset.train.then(dataset.valid), feed.largest_evaluated()
    most = max(int(b.lengths_B.sum()) for b in (feed.largest(paces.per_epoch), evaluated))
    passes = run_shape.passes(feed, paces, len(rows))
    return Work(rows, feed.largest(paces.total), evaluated, most, passes, fingerprint)


def start_event(prepared: Prepared, run: str, progress: Progress, memory: Memory = NOTHING) -> Start:
    """What the opening panel says. memory: before the first step."""
    recipe, blueprint, size = prepared.recipe, prepared.blueprint, prepared.size
    train, batches = prepared.feed.train, prepared.feed.windows(progress.epoch).batches
    return Start(
        run=run,
        model=recipe.model.name or "tiny",
        backend=blueprint.backend,
        device=blueprint.device,
        precision=blueprint.precision,
        strategy=blueprint.selection.words,
        trainable_tensors=size.trainable_tensors,
        trainable_parameters=size.trainable_parameters,
        frozen_tensors=size.frozen_tensors,
        frozen_parameters=size.frozen_parameters,
        trainable_bytes=size.trainable_bytes,
        frozen_bytes=size.frozen_bytes,
        gradient_bytes=size.gradient_bytes,
        optimizer_bytes=size.optimizer_bytes,
        full_bytes=size.full_bytes,
        train_rows=prepared.feed.n_train,
        valid_rows=prepared.feed.n_valid,
        skipped_rows=len(prepared.dataset.refused),
        steps=prepared.pace.total,
        first_step=progress.step + 1,
        steps_per_epoch=prepared.pace.per_epoch,
        padding_waste=0.0 if prepared.decisions.packs_rows else padding_waste(train.lengths_B, batches),
        memory_limit_bytes=prepared.guard.limit_bytes,
        predicted_peak_bytes=prepared.plan.peak_bytes,
        memory=memory,
        notes=(*prepared.notes, *_spared(prepared), *prepared.late, *blueprint.notes, *prepared.decisions.notes),
        best_eval_loss=progress.best_loss,
        best_step=progress.best_step,
        eval_every=prepared.pace.eval_every if prepared.feed.valid else 0,
    )


def _spared(prepared: Prepared) -> tuple[str, ...]:
    """A note where not all validation rows are used."""
    size = prepared.feed.rows_per_example
    used, there = prepared.feed.n_valid, len(prepared.dataset.valid) // size
    if used == there:
        return ()
    share = f"{validating.SHARE:.0%} of the time"
    return (f"Validation takes {used:,} of {there:,} rows: all would take more than {share}. --eval-every has all.",)
