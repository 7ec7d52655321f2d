"""Trying the result: the loss of a model on rows, and the text that it writes, with or without an adapter."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mlxtune import engine
from mlxtune.adapters import folder as adapters
from mlxtune.backends.base import BackendSettings, Sampling
from mlxtune.backends.choose import speaker as make_speaker
from mlxtune.data import special as specials
from mlxtune.data import urls
from mlxtune.data.batches import eval_batches
from mlxtune.data.load import Reader, load_for_eval
from mlxtune.data.settings import DataSettings, within
from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import hub, stopping, tokenizer, weights
from mlxtune.models.aliases import TINY
from mlxtune.models.context import context
from mlxtune.speech import Loaded, Messages, reply

EVAL_BATCH_ROWS = 8


class Score(NamedTuple):
    """What `eval --json` prints. loss: nats a supervised token. split: of the data, which rows these are."""

    loss: float
    perplexity: float
    tokens: int
    rows: int
    model: str
    adapter: str | None
    data: str
    split: str
    notes: tuple[str, ...]  # of the rows: what was skipped, and why


def load(model: str | None, adapter: Path | None, backend: BackendSettings) -> Loaded:
    """A model with its adapter. Raises MlxtuneError."""
    folder = hub.resolve(model)
    weights.headers(folder)
    found = adapters.find(adapter) if adapter else None
    tokens = tokenizer.load(folder)
    special = specials.read(tokens, stopping.ids(folder, tokens), found.end_of_turn if found else None)
    return Loaded(make_speaker(backend, folder, found), tokens, special)


def score(model: str | None, adapter: Path | None, data: DataSettings, backend: BackendSettings) -> Score:
    """The loss on all rows of a data set, which are read before the model's weights are."""
    folder = hub.resolve(model)
    weights.headers(folder)
    most = context(model_config.read(folder))
    found = adapters.find(adapter) if adapter else None
    if found and data.end_of_turn is None:  # the rows as the adapter learnt them
        data = replace(data, end_of_turn=found.end_of_turn)
    tokens = tokenizer.load(folder)
    reader = Reader(tokens, frozenset(stopping.ids(folder, tokens)), partial(tokenizer.load, folder))
    dataset = load_for_eval(within(data, most), reader, most)
    rows = dataset.valid
    speaker = make_speaker(backend, folder, found)
    batches = eval_batches(rows.lengths_B, batch_size=EVAL_BATCH_ROWS, by_length=True)
    total, n_tokens = engine.evaluate(speaker, rows, batches)
    about = (model or TINY, str(adapter) if adapter else None, urls.shown(data.path or "the built-in rows"))
    return Score(total.mean, engine.perplexity(total.mean), n_tokens, len(rows), *about, dataset.split, dataset.notes)


class Conversation:
    """Turns that follow one another. Raises BadModel for a tokenizer that has no chat template."""

    def __init__(self, loaded: Loaded, sampling: Sampling, system: str | None = None) -> None:
        if not loaded.tokenizer.chat_template:
            remedy = "Use mlxtune generate, or name a model that was made to chat."
            raise BadModel("tokenizer", expected="a chat template", found="none", remedy=remedy)
        self.loaded, self.sampling = loaded, sampling
        self.messages: Messages = []
        self._first: Messages = [{"role": "system", "content": system}] if system else []
        self.reset()

    def reset(self) -> None:
        """Forget all turns but the system message."""
        self.messages = [*self._first]

    def ask(self, text: str) -> Iterator[str]:
        """The answer, piece by piece. What was said of it stays, if it is left early; the question too, if it was."""
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []
        try:
            sampling = self.sampling._replace(seed=self.sampling.seed + len(self.messages))
            for piece in reply(self.loaded, self.messages, sampling):
                pieces.append(piece)
                yield piece
        finally:
            if pieces:
                self.messages.append({"role": "assistant", "content": "".join(pieces)})
            else:
                self.messages.pop()
