"""Text out of a model that is asked, as soon as it is certain."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from mlxtune.backends.base import Sampling, Speaker
from mlxtune.data.special import Special
from mlxtune.data.template import prompt_text
from mlxtune.data.tokens import prompt_tokens
from mlxtune.errors import BadData

Messages = list[dict[str, str]]


class Prompt(NamedTuple):
    """Tokens that an answer follows. is_turn: it is a turn of its own, else it goes on with their text."""

    tokens: tuple[int, ...]
    is_turn: bool


class Loaded(NamedTuple):
    """A model ready to be asked, and its tokenizer."""

    speaker: Speaker
    tokenizer: Any  # transformers' fast tokenizer
    special: Special  # what is around text, and where an answer ends


def prompt(text: str, tokenizer: Any, special: Special, now: datetime) -> Prompt:
    """A text as the user's turn where the tokenizer has a template, else as what comes before. Raises BadData."""
    if tokenizer.chat_template and not special.is_rendered(text):
        return turn([{"role": "user", "content": text}], tokenizer, special, now)
    tokens = prompt_tokens(text, tokenizer, special)
    if not tokens:
        raise BadData("prompt", expected="a text to go on from", found="one of no token")
    return Prompt(tuple(tokens), is_turn=False)


def turn(messages: Messages, tokenizer: Any, special: Special, now: datetime) -> Prompt:
    """A conversation up to where the assistant writes."""
    text = prompt_text(special.ended(messages), tokenizer, now)
    return Prompt(tuple(tokenizer.encode(text, add_special_tokens=False)), is_turn=True)


def complete(loaded: Loaded, text: str, sampling: Sampling) -> Iterator[str]:
    """The text that follows a prompt, piece by piece: as the assistant's turn where the tokenizer has a template."""
    return answer(loaded, prompt(text, loaded.tokenizer, loaded.special, datetime.now()), sampling)


def reply(loaded: Loaded, messages: Messages, sampling: Sampling) -> Iterator[str]:
    """The assistant's turn after the messages, piece by piece."""
    return answer(loaded, turn(messages, loaded.tokenizer, loaded.special, datetime.now()), sampling)


def answer(loaded: Loaded, prompt: Prompt, sampling: Sampling) -> Iterator[str]:
    """What follows the prompt. A character may be several tokens, so the whole is decoded each time, and what may be
    the beginning of a text that ends the answer waits."""
    said, text, tokens = "", "", [] if prompt.is_turn else list(prompt.tokens[-1:])  # text follows it, blank and all
    start = len(decoded(tokens, loaded.tokenizer))
    for token in loaded.speaker.generate(prompt.tokens, sampling, loaded.special.stops):
        tokens.append(token)
        text = decoded(tokens, loaded.tokenizer)[start:]
        if ends := [place for end in loaded.special.texts if (place := text.find(end)) >= 0]:
            yield text[len(said) : min(ends)]
            return
        certain = text[: len(text) - _waiting(text, loaded.special.texts)]
        if not text.endswith("\ufffd") and len(certain) > len(said):  # no half a character
            yield certain[len(said) :]
            said = certain
    if len(text) > len(said) and not text.endswith("\ufffd"):
        yield text[len(said) :]


def decoded(tokens: Sequence[int], tokenizer: Any) -> str:
    """Text without the tokenizer's special tokens."""
    return str(tokenizer.decode(list(tokens), skip_special_tokens=True))


def _waiting(text: str, ends: Sequence[str]) -> int:
    """How many last characters may be the beginning of one of the ends.

    >>> _waiting("and so on <|im", ["<|im_end|>"]), _waiting("and so on", ["<|im_end|>"])
    (4, 0)
    """
    lengths = (length for end in ends for length in range(1, len(end)) if text.endswith(end[:length]))
    return max(lengths, default=0)
