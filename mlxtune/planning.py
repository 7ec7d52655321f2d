"""From a recipe to the plan of its memory: with the learner that is to run, or from the model's outline alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from mlxtune.backends import choose
from mlxtune.backends.row_file import PAYS_FROM
from mlxtune.data import load as data
from mlxtune.data.batches import MULTIPLE
from mlxtune.data.types import Dataset
from mlxtune.engine import Feed, pace
from mlxtune.memory import fit, kept_ratio
from mlxtune.memory import outline as outlines
from mlxtune.memory.plan import Plan, plan
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models import hub, tokenizer
from mlxtune.models import outline as model_outline
from mlxtune.models.aliases import TINY
from mlxtune.recipe import Recipe, as_tree, build
from mlxtune.run_shape import (
    PRECISION_BYTES,
    Trained,
    distinct_tokens,
    feed_of,
    kept_tokens,
    of_feed,
    row_passes,
    setup_of,
)
from mlxtune.strategies.choose import check_layers, select
from mlxtune.strategies.selection import Selection

NO_DATA = "No --data: every row is taken to have {:,} tokens (--max-seq-length), all with loss."
NO_FAMILY = "{} is planned as a model of the Llama family of its sizes: --measure shows how far that is off."
MAY_BE_NUMPY = "Planned for MLX. Without a GPU, as here, --backend auto may take NumPy: --backend numpy plans that."
MEASURED = "Corrected by {:.3f}, as measured on this machine with this model."


class Planned(NamedTuple):
    """rows: the largest micro-batch; evaluated: the largest batch of the validation.

    disk_bytes: of the frozen layers' output, where it is kept there.
    """

    recipe: Recipe
    plan: Plan
    setup: Setup
    rows: Rows
    evaluated: Rows | None
    disk_bytes: int = 0


class Planner:
    """Plans of one model and its rows under many recipes, from config.json, headers and rows. Needs no MLX.

    notes: what the figures rest on. Raises MlxtuneError for what cannot be read.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.outline = model_outline.outline(recipe.model.name, recipe.model.revision)
        self.backend = "numpy" if recipe.backend.name == "numpy" else "mlx"
        self.machine = choose.machine(recipe.backend, self.backend)
        self.limit_bytes = recipe.backend.memory_limit_bytes or self.machine.limit_bytes
        self.dimensions = outlines.dimensions(self.outline.config)
        self.dataset = _dataset(recipe)
        self.factor = kept_ratio.read(self.outline.config, self.backend)
        self.notes = self._notes(recipe)

    def plan(self, recipe: Recipe) -> Planned:
        """The plan of a recipe for this model and these rows."""
        check_layers(recipe.strategy, self.outline.config.n_layers)
        element = 4 if self.backend == "numpy" else PRECISION_BYTES[recipe.backend.precision]
        anatomy = outlines.anatomy(self.outline, element)
        selection = select(recipe.strategy, anatomy)
        keeps = self.backend == "mlx" and self._keeps(recipe, selection)
        model = Trained(anatomy, selection, self.dimensions)
        setup = setup_of(recipe, model, self.backend, keeps_prefix=keeps, on_gpu=self.machine.on_gpu)
        rows, evaluated = self._rows(recipe, setup)
        if self.dataset is None:
            return Planned(recipe, plan(setup, rows, evaluated, 0, self.factor), setup, rows, evaluated)
        feed = self._feed(recipe, selection)
        found = plan(setup, rows, evaluated, kept_tokens(recipe, setup, feed), self.factor)
        per_token = setup.element_bytes * setup.dimensions.hidden_size if setup.keeps_prefix else 0
        return Planned(recipe, found, setup, rows, evaluated, per_token * distinct_tokens(feed))

    def savings(self, recipe: Recipe) -> list[tuple[str, int]]:
        """The single changes that would save most: what they are as flags, and how many bytes."""
        now = self.plan(recipe).plan.peak_bytes
        found = []
        for change in fit.single_changes(as_tree(recipe), self.outline.config.n_layers):
            changed = _changed(recipe, change)
            if changed is not None:
                found.append((fit.as_flags(change), now - self.plan(changed).plan.peak_bytes))
        return sorted((each for each in found if each[1] > 0), key=lambda each: -each[1])

    def fitting(self, recipe: Recipe, limit_bytes: int) -> tuple[Planned, fit.Changes]:
        """The recipe with the changes that cost least and fit. Raises BadSetting that says the smallest that would."""

        def peak(changes: fit.Changes) -> int | None:
            changed = _changed(recipe, changes)
            return None if changed is None else self.plan(changed).plan.peak_bytes

        changes = fit.search(peak, as_tree(recipe), self.outline.config.n_layers, limit_bytes)
        return self.plan(_changed(recipe, changes) or recipe), changes

    def _keeps(self, recipe: Recipe, selection: Selection) -> bool:
        """Whether the frozen layers' output is likely to be kept; the run itself also looks at the disk."""
        if self.dataset is None or recipe.backend.prefix_cache != "auto":
            return recipe.backend.prefix_cache == "on"
        feed = self._feed(recipe, selection)
        return row_passes(feed, pace(recipe.train, feed)) >= PAYS_FROM * (len(feed.train) + len(self.dataset.valid))

    def _rows(self, recipe: Recipe, setup: Setup) -> tuple[Rows, Rows | None]:
        if self.dataset is None:
            count, longest = recipe.train.batch_size, recipe.data.max_seq_length
            return rows_of([longest] * count, count * (longest - 1), MULTIPLE), None
        feed = self._feed(recipe, setup.selection)
        return of_feed(setup, feed, pace(recipe.train, feed).total)

    def _feed(self, recipe: Recipe, selection: Selection) -> Feed:
        """The rows that are short enough, in this recipe's batches."""
        assert self.dataset is not None
        longest = recipe.data.max_seq_length
        train, valid = (
            tuple(row for row in rows if len(row.tokens) <= longest)
            for rows in (self.dataset.train, self.dataset.valid)
        )
        within = replace(self.dataset, train=train or self.dataset.train, valid=valid)
        return feed_of(recipe, within, selection, self.outline.config.n_layers)

    def _notes(self, recipe: Recipe) -> tuple[str, ...]:
        notes = (NO_DATA.format(recipe.data.max_seq_length),) if self.dataset is None else self.dataset.notes
        if self.outline.dimensions is None:
            notes = (*notes, NO_FAMILY.format(self.outline.config.model_type))
        if recipe.backend.name == "auto" and not self.machine.on_gpu:
            notes = (*notes, MAY_BE_NUMPY)
        return notes if self.factor == 1 else (*notes, MEASURED.format(self.factor))


def _dataset(recipe: Recipe) -> Dataset | None:
    """The recipe's rows; None where it names a model and no data: a config alone can be planned."""
    if recipe.data.path is None and recipe.model.name not in (None, TINY):
        return None
    tokens = tokenizer.load(hub.small(recipe.model.name, recipe.model.revision))
    return data.prepare(data.read(recipe.data), recipe.data, tokens, seed=recipe.train.seed)


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe | None:
    """The recipe with other values of some keys; None where they contradict the rest."""
    try:
        return build(as_tree(recipe), changes)
    except ValueError:
        return None


def settled(recipe: Recipe) -> Recipe:
    """The recipe with the backend that it gets here: `auto` is planned as MLX, and on a processor may be NumPy."""
    if recipe.backend.name != "auto":
        return recipe
    folder = hub.resolve(recipe.model.name, revision=recipe.model.revision)
    return _changed(recipe, {"backend.name": choose.choose(recipe.backend, folder).name}) or recipe
