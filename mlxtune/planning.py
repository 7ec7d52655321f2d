"""From a recipe to the plan of its memory: with the learner that is to run, or from the model's outline alone."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mlxtune.backends import choose
from mlxtune.backends.base import Learner
from mlxtune.backends.numpy.device import PREFIX_SHARE, memory_bytes
from mlxtune.backends.row_file import PAYS_FROM
from mlxtune.data import load as data
from mlxtune.data.batches import MULTIPLE, eval_plan
from mlxtune.data.types import Dataset, TokenRow
from mlxtune.engine import Feed, Pace, pace
from mlxtune.memory import fit, kept_ratio
from mlxtune.memory import outline as outlines
from mlxtune.memory.plan import Plan, plan
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models import hub, tokenizer
from mlxtune.models import outline as model_outline
from mlxtune.models.aliases import TINY
from mlxtune.models.config import ModelConfig
from mlxtune.models.dimensions import Dimensions
from mlxtune.recipe import Recipe, as_tree, build
from mlxtune.strategies.choose import check_layers, select
from mlxtune.strategies.selection import Anatomy, Selection
from mlxtune.strategies.size import MASTER_BYTES, MOMENT_BYTES

PRECISION_BYTES = {"bf16": 2, "fp16": 2, "fp32": 4}
NO_DATA = "No --data: every row is taken to have {:,} tokens (--max-seq-length), all with loss."
NO_FAMILY = "{} is planned as a model of the Llama family of its sizes: --measure shows how far that is off."
MAY_BE_NUMPY = "Planned for MLX. Without a GPU, as here, --backend auto may take NumPy: --backend numpy plans that."
MEASURED = "Corrected by {:.3f}, as measured on this machine with this model."


class Planned(NamedTuple):
    """rows: the largest micro-batch; evaluated: the largest batch of the validation."""

    recipe: Recipe
    plan: Plan
    setup: Setup
    rows: Rows
    evaluated: Rows | None


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
        keeps = self.backend == "mlx" and self._keeps(recipe)
        selection = select(recipe.strategy, anatomy)
        setup = setup_of(recipe, self.backend, anatomy, selection, self.dimensions, keeps, self.machine.on_gpu)
        rows, evaluated = self._rows(recipe, setup)
        tokens = 0 if self.dataset is None else kept_tokens(recipe, setup, self._feed(recipe))
        return Planned(recipe, plan(setup, rows, evaluated, tokens, self.factor), setup, rows, evaluated)

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

    def _keeps(self, recipe: Recipe) -> bool:
        """Whether the frozen layers' output is likely to be kept; the run itself also looks at the disk."""
        if self.dataset is None or recipe.backend.prefix_cache != "auto":
            return recipe.backend.prefix_cache == "on"
        feed = self._feed(recipe)
        return row_passes(feed, pace(recipe.train, feed)) >= PAYS_FROM * (len(feed.train) + len(feed.valid))

    def _rows(self, recipe: Recipe, setup: Setup) -> tuple[Rows, Rows | None]:
        if self.dataset is None:
            count, longest = recipe.train.batch_size, recipe.data.max_seq_length
            return rows_of([longest] * count, count * (longest - 1), MULTIPLE), None
        feed = self._feed(recipe)
        return of_feed(setup, feed, pace(recipe.train, feed).total)

    def _feed(self, recipe: Recipe) -> Feed:
        """The rows that are short enough, in this recipe's batches."""
        assert self.dataset is not None
        train, longest = recipe.train, recipe.data.max_seq_length
        within = [
            [row for row in rows if len(row.tokens) <= longest] for rows in (self.dataset.train, self.dataset.valid)
        ]
        return Feed(
            within[0] or self.dataset.train, within[1], train.batch_size, train.grad_accum, train.seed, MULTIPLE
        )

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
    tree = {name: dict(keys) for name, keys in as_tree(recipe).items()}
    if "strategy.target" not in changes and tree["strategy"].get("target") is not None:
        tree["strategy"]["target"] = tuple(tree["strategy"]["target"])
    try:
        return build(tree, changes)
    except ValueError:
        return None


def settled(recipe: Recipe) -> Recipe:
    """The recipe with the backend that it gets here: `auto` is planned as MLX, and on a processor may be NumPy."""
    if recipe.backend.name != "auto":
        return recipe
    folder = hub.resolve(recipe.model.name, revision=recipe.model.revision)
    return _changed(recipe, {"backend.name": choose.choose(recipe.backend, folder).name}) or recipe


def row_passes(feed: Feed, paces: Pace) -> int:
    """How many rows a run reads, each time counted."""
    passes = paces.total * feed.batch_size * feed.grad_accum
    return passes + (1 + paces.total // paces.eval_every) * len(feed.valid)


def setup_of(
    recipe: Recipe,
    backend: str,
    anatomy: Anatomy,
    selection: Selection,
    dimensions: Dimensions,
    keeps_prefix: bool,
    on_gpu: bool,
) -> Setup:
    """All that memory depends on but the rows."""
    train, optimizer, precision = recipe.train, recipe.optimizer, recipe.backend.precision
    ordered = train.clip_norm is None and train.grad_accum == 1 and precision != "fp16"
    return Setup(
        backend=backend,
        gpu=on_gpu,
        anatomy=anatomy,
        selection=selection,
        dimensions=dimensions,
        element_bytes=4 if backend == "numpy" else PRECISION_BYTES[precision],
        moment_bytes=MOMENT_BYTES[optimizer.moments],
        master_bytes=MASTER_BYTES if optimizer.low_precision == "master" else 0,
        clips=not ordered or recipe.backend.update_order == "after",
        accumulates=train.grad_accum > 1,
        grad_checkpoint=recipe.backend.grad_checkpoint,
        keeps_prefix=keeps_prefix and selection.first_layer > 0,
        packs=backend == "mlx",
    )


def of_learner(recipe: Recipe, learner: Learner, config: ModelConfig) -> Setup:
    """The same from what a learner knows."""
    dimensions = outlines.dimensions(config)
    anatomy, selection, keeps = learner.anatomy, learner.selection, learner.keeps_prefix
    found = setup_of(recipe, learner.backend, anatomy, selection, dimensions, keeps, learner.on_gpu)
    return found._replace(packs=learner.packs_rows, is_known_family=Dimensions.of(config) is not None)


def kept_tokens(recipe: Recipe, setup: Setup, feed: Feed) -> int:
    """Of the distinct rows whose frozen layers' output NumPy keeps in memory."""
    if recipe.backend.prefix_cache == "off" or setup.selection.first_layer == 0:
        return 0
    most = PREFIX_SHARE * memory_bytes() / (4 * setup.dimensions.hidden_size)
    return min(int(most), sum(map(len, {row.tokens[:-1].tobytes() for row in (*feed.train, *feed.valid)})) // 4)


def largest(setup: Setup, batches: Iterable[Sequence[int]], rows: Sequence[TokenRow]) -> Sequence[int] | None:
    """Of batches of row numbers the one that takes the most."""
    shapes = {micro_batch(rows, batch): batch for batch in batches}
    few = {max(shapes, key=measure) for measure in _measures(setup)} if shapes else set()
    return shapes[max(few, key=lambda shape: plan(setup, shape).parts.total)] if few else None


def micro_batch(rows: Sequence[TokenRow], batch: Sequence[int]) -> Rows:
    """The shape of one batch of row numbers."""
    supervised = sum(int(rows[index].supervised[1:].sum()) for index in batch)
    return rows_of([len(rows[index].tokens) for index in batch], supervised, MULTIPLE)


def _measures(setup: Setup) -> tuple[Callable[[Rows], int], ...]:
    """What memory grows with: a batch that has the most of none of them is not the largest."""
    packed = setup.packs
    return (
        lambda shape: shape.places(packed=packed),
        lambda shape: shape.squares(packed=packed),
        lambda shape: shape.n_supervised,
    )


def of_feed(setup: Setup, feed: Feed, steps: int) -> tuple[Rows, Rows | None]:
    """The shapes of the largest batches."""
    train, valid = largest_batches(setup, feed, steps)
    return micro_batch(feed.train, train), None if valid is None else micro_batch(feed.valid, valid)


def largest_batches(setup: Setup, feed: Feed, steps: int) -> tuple[Sequence[int], Sequence[int] | None]:
    """The largest micro-batch of the first epoch, or of the steps if they are fewer, and of the validation."""
    train = largest(setup, (batch for window in feed.windows(0)[:steps] for batch in window), feed.train)
    assert train is not None, "a feed has rows"
    valid = eval_plan([len(row.tokens) for row in feed.valid], batch_size=feed.batch_size) if feed.valid else []
    return train, largest(setup, valid, feed.valid)
