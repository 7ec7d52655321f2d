"""From a recipe to the plan of its memory: with the learner that is to run, or from the model's outline alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune.backends import choose
from mlxtune.backends.choose import Choice, Machine
from mlxtune.backends.decisions import Decisions, decide
from mlxtune.data.batches import MULTIPLE
from mlxtune.data.dataset import Dataset
from mlxtune.errors import BadData, BadSetting, Missing
from mlxtune.feed import Feed
from mlxtune.format import size
from mlxtune.memory import fit, kept_ratio
from mlxtune.memory import outline as outlines
from mlxtune.memory.plan import Plan, plan
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models import outline as model_outline
from mlxtune.models.aliases import TINY
from mlxtune.pace import pace
from mlxtune.planning.rows import SPARED, Lost, PlannedRows
from mlxtune.planning.shape import (
    PRECISION_BYTES,
    Trained,
    check_rows,
    check_selection,
    feed_of,
    for_model,
    kept_tokens,
    of_feed,
    passes,
    setup_of,
)
from mlxtune.recipe.recipe import Recipe, as_tree, build
from mlxtune.strategies.choose import select
from mlxtune.strategies.selection import Anatomy, Selection

NO_DATA = "No --data: every row is taken to have {:,} tokens (--max-seq-length), all with loss."
SHORTER = "rows of more than {:,} tokens; --data shows how many"
NO_FAMILY = "{} is planned as a Llama model of the same sizes: --measure shows how far that is off."
OTHER_MACHINE = "Planned for this machine. `mlxtune memory --for mac` plans what a Mac would run, from any machine."
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
    """Plans of one model and its rows under many recipes, from config.json, headers and rows. Reads no weights.

    recipe: as it would run, with the backend that it gets and the length of its rows. notes: what the figures rest on.
    for_mac: plan what a Mac with Apple Silicon would run, whatever this machine is. as_a_run: without data the built-in
    rows are planned, which `train` would take; else rows as long as may be, for a config alone can be planned.
    without_rows: so for data that is given, too, as its tokens cannot be counted.

    Raises MlxtuneError for what cannot be read, and for what `train` would refuse.
    """

    def __init__(
        self, recipe: Recipe, *, for_mac: bool = False, as_a_run: bool = False, without_rows: bool = False
    ) -> None:
        self.for_mac = for_mac
        self.outline = model_outline.outline(recipe.model.name, recipe.model.revision)
        config = self.outline.config
        self.place = Path(self.outline.place)
        recipe = for_model(recipe, config, self.place)
        choice = self._choice(recipe)
        self.backend = choice.name
        self.recipe = _changed(recipe, {"backend.name": choice.name}) or recipe
        self.machine = Machine(0, on_gpu=True) if for_mac else choose.machine(recipe.backend, choice.name)
        self.limit_bytes = recipe.backend.memory_limit_bytes or self.machine.limit_bytes
        self.dimensions = outlines.dimensions(config)
        has_rows = as_a_run or recipe.data.path is not None or recipe.model.name in (None, TINY)
        self.rows = PlannedRows(recipe, config) if has_rows and not without_rows else None
        self.factor = 1.0 if for_mac else kept_ratio.read(config, self.backend)
        self.notes = self._notes(choice)

    def plan(self, recipe: Recipe) -> Planned:
        """The plan of a recipe for this model and these rows."""
        recipe = for_model(recipe, self.outline.config, self.place)
        element = 4 if self.backend == "numpy" else PRECISION_BYTES[recipe.backend.precision]
        anatomy = outlines.anatomy(self.outline, element)
        selection = select(recipe.strategy, anatomy)
        check_selection(recipe, selection)
        feed = self._feed(recipe, anatomy, selection)
        model = Trained(anatomy, selection, self.dimensions, self._decisions(recipe, anatomy, selection, feed))
        setup = setup_of(recipe, model, self.backend, on_gpu=self.machine.on_gpu)
        rows, evaluated = self._largest(recipe, setup, feed)
        if self.rows is None or feed is None:
            return Planned(recipe, plan(setup, rows, evaluated, 0, self.factor), setup, rows, evaluated)
        trained = self.rows.distinct(recipe.data.longest)
        kept = kept_tokens(recipe, setup, feed, pace(recipe.train, feed).total, trained)
        found = plan(setup, rows, evaluated, kept, self.factor)
        per_token = setup.element_bytes * setup.dimensions.hidden_size if setup.decisions.keeps_prefix else 0
        return Planned(recipe, found, setup, rows, evaluated, per_token * trained.plus(feed.valid).tokens)

    def savings(self, recipe: Recipe) -> list[tuple[str, int]]:
        """The single changes that would save most: what they are as flags, and how many bytes."""
        now = self.plan(recipe).plan.peak_bytes
        found = []
        for change in fit.single_changes(as_tree(recipe), self.outline.config.n_layers):
            peak_bytes = self._peak(recipe, change)
            if peak_bytes is not None:
                found.append((fit.as_flags(change), now - peak_bytes))
        return sorted((each for each in found if each[1] > 0), key=lambda each: -each[1])

    def fitting(self, recipe: Recipe, limit_bytes: int) -> tuple[Planned, fit.Changes]:
        """The recipe with the changes that cost least and fit.

        Raises BadSetting where nothing fits, or only what would leave out more rows than a user can want unasked.
        """
        tree, n_layers = as_tree(recipe), self.outline.config.n_layers
        lengths = self._lengths(recipe)

        def search(shorter: list[int]) -> fit.Changes:
            return fit.search(lambda each: self._peak(recipe, each), tree, n_layers, limit_bytes, shorter)

        try:
            changes = search([n for n in lengths if self.lost(n).share <= SPARED])
        except fit.NothingFits:
            self._refuse_losses(limit_bytes, [n for n in lengths if self.lost(n).share > SPARED], search)
            raise
        return self.plan(_changed(recipe, changes) or recipe), changes

    def left_out(self, recipe: Recipe) -> str:
        """What a recipe with shorter rows leaves out, in words; empty where that is nothing."""
        length = recipe.data.longest
        if self.rows is None:
            return SHORTER.format(length) if length < self.recipe.data.longest else ""
        lost = self.lost(length)
        return lost.words if lost.rows else ""

    def lost(self, length: int) -> Lost:
        """What rows of at most so many tokens leave out of the recipe's."""
        return self.rows.lost(length) if self.rows else Lost(0, 0, 0, 0)

    def _refuse_losses(self, limit_bytes: int, lengths: list[int], search: Any) -> None:
        """Raise BadSetting that says what would fit, and what that costs, if the user were to ask for it."""
        for length in lengths:
            try:
                changes = search([length])
            except fit.NothingFits:
                continue
            remedy = f"If you can spare them, ask for it: --max-seq-length {length}, with --fit as now."
            raise BadSetting(
                "--fit",
                expected=f"settings that fit {size(limit_bytes)} and keep {1 - SPARED:.0%} of what carries loss",
                found=f"none; {fit.as_flags(changes)} fits, but leaves out {self.lost(length).words}",
                remedy=remedy,
            )

    def _lengths(self, recipe: Recipe) -> list[int]:
        """The lengths to try, longest first."""
        halves = fit.shorter(recipe.data.longest)
        return self.rows.lengths(halves) if self.rows else halves

    def _peak(self, recipe: Recipe, changes: fit.Changes) -> int | None:
        """None where the changes contradict the recipe, or leave no rows."""
        changed = _changed(recipe, changes)
        try:
            return None if changed is None else self.plan(changed).plan.peak_bytes
        except (BadSetting, BadData):
            return None

    def _choice(self, recipe: Recipe) -> Choice:
        """The backend that a run gets, here or on a Mac."""
        if self.for_mac:
            if recipe.backend.name == "numpy":
                raise BadSetting("backend.name", expected="auto or mlx for a Mac", found="numpy")
            return Choice("mlx", ())
        try:
            return choose.of_outline(recipe.backend, self.outline)
        except Missing as error:
            error.remedy += "\n`mlxtune memory --for mac` plans what a Mac would run, from any machine."
            raise

    def _decisions(self, recipe: Recipe, anatomy: Anatomy, selection: Selection, feed: Feed | None) -> Decisions:
        """What a run decides; it also looks at the disk. On NumPy what is kept is beside the frozen layers' weights."""
        read = None
        if feed is not None:
            n_rows = len(feed.train) + len(self._dataset(recipe).valid)
            read = passes(feed, pace(recipe.train, feed), n_rows)
        cache = recipe.backend.prefix_cache if self.backend == "mlx" else "off"
        checkpoints = recipe.backend.grad_checkpoint
        return decide(anatomy, selection, prefix_cache=cache, checkpoints=checkpoints, passes=read)

    def _largest(self, recipe: Recipe, setup: Setup, feed: Feed | None) -> tuple[Rows, Rows | None]:
        if feed is None:
            count, longest = recipe.train.batch_size, recipe.data.longest
            return rows_of([longest] * count, count * (longest - 1), MULTIPLE), None
        paces = pace(recipe.train, feed)
        check_rows(recipe, feed, paces)
        return of_feed(setup, feed, paces.total)

    def _feed(self, recipe: Recipe, anatomy: Anatomy, selection: Selection) -> Feed | None:
        """The rows in this recipe's batches; None where the rows are not known."""
        return None if self.rows is None else feed_of(recipe, self._dataset(recipe), anatomy, selection)

    def _dataset(self, recipe: Recipe) -> Dataset:
        assert self.rows is not None
        return self.rows.of(recipe.data.longest)

    def _notes(self, choice: Choice) -> tuple[str, ...]:
        longest = self.recipe.data.longest
        notes = [NO_DATA.format(longest)] if self.rows is None else [*self.rows.of(longest).notes]
        if self.outline.dimensions is None:
            notes.append(NO_FAMILY.format(self.outline.config.model_type))
        notes += choice.notes
        if not (self.for_mac or choose.is_a_mac()):
            notes.append(OTHER_MACHINE)
        return (*notes, *([] if self.factor == 1 else [MEASURED.format(self.factor)]))


def _changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe | None:
    """The recipe with other values of some keys; None where they contradict the rest."""
    try:
        return build(as_tree(recipe), changes)
    except ValueError:
        return None
