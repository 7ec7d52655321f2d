"""Trying the result: the loss of a model on rows, and the text that it writes, with or without an adapter."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlxtune import engine
from mlxtune.backends.base import BackendSettings, Sampling, Speaker
from mlxtune.backends.choose import speaker as make_speaker
from mlxtune.data.batches import eval_plan
from mlxtune.data.load import load_for_eval
from mlxtune.data.settings import DataSettings, within
from mlxtune.data.template import prompt_text
from mlxtune.errors import BadModel
from mlxtune.export import adapter as adapters
from mlxtune.models import config as model_config
from mlxtune.models import hub, tokenizer, weights
from mlxtune.models.aliases import TINY
from mlxtune.models.context import context

EVAL_BATCH_ROWS = 8
Messages = list[dict[str, str]]


class Loaded(NamedTuple):
    """A model ready to be tried, and its tokenizer."""

    speaker: Speaker
    tokenizer: Any  # transformers' fast tokenizer


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
    return Loaded(make_speaker(backend, folder, found), tokenizer.load(folder))


def score(model: str | None, adapter: Path | None, data: DataSettings, backend: BackendSettings) -> Score:
    """The loss on all rows of a data set, which are read before the model's weights are."""
    folder = hub.resolve(model)
    most = context(model_config.read(folder))
    dataset = load_for_eval(within(data, most), tokenizer.load(folder), most)
    rows = dataset.valid
    speaker = load(model, adapter, backend).speaker
    batches = eval_plan([len(row.tokens) for row in rows], batch_size=EVAL_BATCH_ROWS, packed=False)
    total = engine.evaluate(speaker, rows, batches)
    loss = total.loss_sum / total.n_tokens
    about = (model or TINY, str(adapter) if adapter else None, data.path or "the built-in rows")
    return Score(loss, engine.perplexity(loss), total.n_tokens, len(rows), *about, dataset.split, dataset.notes)


def complete(loaded: Loaded, prompt: str, sampling: Sampling) -> Iterator[str]:
    """The text that follows a prompt, piece by piece: as the assistant's turn where the tokenizer has a template."""
    if loaded.tokenizer.chat_template:
        return reply(loaded, [{"role": "user", "content": prompt}], sampling)
    return _pieces(loaded, loaded.tokenizer.encode(prompt), sampling)


def reply(loaded: Loaded, messages: Messages, sampling: Sampling) -> Iterator[str]:
    """The assistant's turn after the messages, piece by piece."""
    prompt = prompt_text(messages, loaded.tokenizer, datetime.now())
    return _pieces(loaded, loaded.tokenizer.encode(prompt, add_special_tokens=False), sampling)


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


def _pieces(loaded: Loaded, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
    """Text as soon as it is certain: a character may be several tokens, so the whole is decoded each time."""
    said, tokens = "", []
    for token in loaded.speaker.generate(prompt, sampling, stop_tokens(loaded.tokenizer)):
        tokens.append(token)
        text = loaded.tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # half a character
            yield text[len(said) :]
            said = text


def stop_tokens(tokenizer: Any) -> frozenset[int]:
    """The end of the text, and the end of a turn where the template has one of its own."""
    ends = {tokenizer.eos_token_id}
    known = tokenizer.get_vocab()
    ends |= {known[token] for token in END_OF_TURN if token in known}
    return frozenset(ends - {None})


# The tokens that end a turn in the chat templates that tokenizers come with, where eos_token may be another.
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<|endoftext|>", "<|end_of_text|>")
