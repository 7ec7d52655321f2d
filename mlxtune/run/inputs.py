"""What a run reads before it is planned: the model's small files, its tokenizer, and the rows."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlxtune.data import load as data
from mlxtune.data import special as specials
from mlxtune.data.dataset import Dataset
from mlxtune.data.special import Special
from mlxtune.data.store.store import Store
from mlxtune.errors import BadData
from mlxtune.events import Event, Preparing
from mlxtune.format import counted
from mlxtune.models import config as model_config
from mlxtune.models import hub, stopping, tokenizer, weights
from mlxtune.models.config import ModelConfig
from mlxtune.models.context import context
from mlxtune.planning import shape as run_shape
from mlxtune.recipe.recipe import Recipe


class Inputs(NamedTuple):
    """recipe: with the length of rows, which depends on the model. notes: of the tokenizer."""

    recipe: Recipe
    folder: Path
    config: ModelConfig
    tokenizer: Any
    special: Special
    dataset: Dataset
    notes: tuple[str, ...]


def read(recipe: Recipe, tell: Callable[[Event], None]) -> Inputs:
    """Find the model and tokenize the rows. Raises MlxtuneError; reads headers, never weights."""
    pairs = recipe.objective.rows_per_example > 1
    if not hub.is_here(recipe.model.name, recipe.model.revision):
        tell(Preparing("reading the rows"))
        data.check_rows(recipe.data, pairs=pairs)  # what is wrong with them comes before a model is fetched
    tell(Preparing(f"looking for {recipe.model.name or 'the built-in model'}"))
    folder = hub.resolve(recipe.model.name, revision=recipe.model.revision)
    config = model_config.read(folder)
    weights.headers(folder)
    recipe = run_shape.for_model(recipe, config, folder)
    tell(Preparing("reading the tokenizer"))
    tokens = tokenizer.load(folder)
    notes = (*tokenizer.check_vocabulary(tokens, config), *tokenizer.differences(folder, tokens))
    most, stops = context(config), stopping.ids(folder, tokens)
    reader = data.Reader(tokens, frozenset(stops), partial(tokenizer.load, folder))
    examples = data.read(recipe.data, reader, pairs=pairs, tell=tell)
    recipe = replace(recipe, data=examples.wanted.settings)
    dataset = data.prepare(examples, recipe.data, seed=recipe.train.seed, context=most)
    _check_tokens(dataset, examples.store, config.vocab_size)
    special = specials.read(tokens, stops, recipe.data.end_of_turn)
    return Inputs(recipe, folder, config, tokens, special, dataset, notes)


def _check_tokens(dataset: Dataset, store: Store, n_vocabulary: int) -> None:
    """Refuse rows with tokens that the embedding has no row for."""
    beyond = store.beyond(n_vocabulary)
    found = (rows.take(np.flatnonzero(np.isin(rows.numbers_B, beyond))) for rows in (dataset.train, dataset.valid))
    rows = [row for each in found for row in each if int(row.tokens.max()) >= n_vocabulary]
    if rows:
        token = int(rows[0].tokens.max())
        raise BadData(
            rows[0].source,
            expected=f"tokens below {n_vocabulary:,}, as the model's embedding has rows",
            found=f"token {token:,}" + (f", and {counted(len(rows) - 1, 'more row')} like it" if rows[1:] else ""),
            remedy="Leave the special token out of the text, or name a model that has it.",
        )
