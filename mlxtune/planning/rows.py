"""The rows of a plan at any length that rows may have, and what a shorter length leaves out."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from mlxtune.data import load as data
from mlxtune.data.dataset import Dataset
from mlxtune.data.distinct import NOTHING, Distinct
from mlxtune.errors import BadData
from mlxtune.format import counted, share
from mlxtune.models import hub, stopping, tokenizer
from mlxtune.models.config import ModelConfig
from mlxtune.models.context import context
from mlxtune.recipe.recipe import Recipe

SPARED = 0.02  # of the tokens that carry loss: more is not left out unless it is asked for


class Lost(NamedTuple):
    """What a length leaves out, of how much."""

    rows: int
    of_rows: int
    tokens: int  # that carry loss
    of_tokens: int

    @property
    def share(self) -> float:
        """Of the tokens that carry loss."""
        return self.tokens / self.of_tokens if self.of_tokens else 0.0

    @property
    def words(self) -> str:
        """As a message says it.

        >>> Lost(3, 1100, 120, 60000).words
        '3 of 1,100 rows, 120 of 60,000 tokens that carry loss (0.2%)'
        """
        tokens = f"{self.tokens:,} of {counted(self.of_tokens, 'token')} that carry loss ({share(self.share)})"
        return f"{self.rows:,} of {counted(self.of_rows, 'row')}, {tokens}"


class PlannedRows:
    """Tokenized once; each length that is asked for is a view."""

    def __init__(self, recipe: Recipe, config: ModelConfig) -> None:
        self.settings, self.seed, self.context = recipe.data, recipe.train.seed, context(config)
        folder = hub.small(recipe.model.name, recipe.model.revision)
        tokens = tokenizer.load(folder)
        reader = data.Reader(tokens, frozenset(stopping.ids(folder, tokens)), partial(tokenizer.load, folder))
        self.examples = data.read(recipe.data, reader, pairs=recipe.objective.rows_per_example > 1)
        self.made: dict[int, Dataset] = {}
        self._distinct: dict[int, Distinct] = {}
        self.of(recipe.data.longest)

    def of(self, length: int) -> Dataset:
        """The dataset with rows of at most so many tokens. Raises BadData where none is left."""
        if length not in self.made:
            settings = replace(self.settings, max_seq_length=length)
            self.made[length] = data.prepare(self.examples, settings, seed=self.seed, context=self.context)
        return self.made[length]

    def distinct(self, length: int) -> Distinct:
        """Of the training rows of at most so many tokens."""
        if length not in self._distinct:
            self._distinct[length] = NOTHING.plus(self.of(length).train)
        return self._distinct[length]

    def lost(self, length: int) -> Lost:
        """What it leaves out of the recipe's rows. A long text is cut into more rows, and loses nothing."""
        whole = self.of(self.settings.longest)
        tokens, rows = _tokens(whole), len(whole.train) + len(whole.valid)
        try:
            left = self.of(length)
        except BadData:
            return Lost(rows, rows, tokens, tokens)
        fewer = len(left.refused) - len(whole.refused)
        return Lost(max(0, fewer), rows, max(0, tokens - _tokens(left)) if fewer > 0 else 0, tokens)

    def lengths(self, halves: Sequence[int]) -> list[int]:
        """The halves, and the shortest length that leaves out as little as may be spared; longest first."""
        whole = self.of(self.settings.longest)
        rows = whole.train.then(whole.valid)
        order = np.argsort(-rows.lengths_B, kind="stable")
        lengths, gone = rows.lengths_B[order], np.cumsum(rows.supervised_B[order], dtype=np.int64)
        n_spared = min(int(np.searchsorted(gone, SPARED * _tokens(whole), side="right")), len(rows) - 1)
        longest, shortest = int(lengths[0]), int(lengths[n_spared if _tokens(whole) else 0])
        return sorted({n for n in (*halves, shortest) if 2 <= n < longest}, reverse=True)


def _tokens(dataset: Dataset) -> int:
    return int(dataset.train.supervised_B.sum()) + int(dataset.valid.supervised_B.sum())
