"""What the model says while it is trained: answers to a few prompts, the same each time.

Nothing of a run depends on them: sampling has a random state of its own, and changes no weight.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from mlxtune.backends.base import Sampling
from mlxtune.data.special import Special
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadSetting
from mlxtune.settings import section
from mlxtune.speech import Prompt, decoded, prompt

PROMPTS, AMONG = 2, 100  # beginnings of rows that are the prompts where none are given; rows that are looked at
FEWEST, MOST = 4, 32  # tokens that a row's beginning has where all of it carries loss


@section
class SampleSettings:
    """every: steps between samples, with one before the first step and one after the last; None is none.

    prompts: texts; none are the beginnings of the first rows that validate, or train where none do. temperature 0 takes
    the likeliest token each time.
    """

    every: Annotated[int, Field(ge=1, le=10**9)] | None = None
    prompts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    max_tokens: Annotated[int, Field(ge=1, le=10**6)] = 64
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0

    def __post_init__(self) -> None:
        idle = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        if self.every is None and idle:
            raise BadSetting(
                f"sample.{idle[0]}",
                expected="a setting that does something",
                found="no samples are asked for",
                remedy="Give --sample-every, or leave it out.",
            )

    def is_due(self, step: int, last: int) -> bool:
        """Whether there is one at this step.

        >>> [SampleSettings(every=4).is_due(step, 6) for step in (0, 1, 4, 6)]
        [True, False, True, True]
        """
        return self.every is not None and (step % self.every == 0 or step >= last)

    def sampling(self, seed: int) -> Sampling:
        """How tokens are chosen."""
        return Sampling(self.max_tokens, self.temperature, 1.0, seed)


class Asked(NamedTuple):
    """A prompt, and the text that a reader sees of it."""

    text: str
    prompt: Prompt


def asked(
    settings: SampleSettings, rows: Sequence[TokenRow], tokenizer: Any, special: Special, now: datetime, longest: int
) -> tuple[Asked, ...]:
    """What the model is asked. longest: tokens that a prompt may have, as a row. Raises BadSetting and BadData."""
    if settings.every is None:
        return ()
    if not settings.prompts:
        begun = islice(dict.fromkeys(_begun(rows[:AMONG])), PROMPTS)
        return tuple(Asked(decoded(tokens, tokenizer), Prompt(tokens, is_turn=False)) for tokens in begun)
    made = tuple(Asked(text, prompt(text, tokenizer, special, now)) for text in settings.prompts)
    for each in made:
        if len(each.prompt.tokens) > longest:
            raise BadSetting(
                "sample.prompts",
                expected=f"prompts of at most {longest:,} tokens, as rows have (--max-seq-length)",
                found=f"one of {len(each.prompt.tokens):,}",
                remedy="Give a shorter prompt, or a larger --max-seq-length.",
            )
    return made


def _begun(rows: Iterable[TokenRow]) -> Iterator[tuple[int, ...]]:
    """Rows up to where they carry loss; of a row that does from the start, up to half."""
    for row in rows:
        first = int(row.supervised.argmax())
        end = first if first >= FEWEST else max(1, min(MOST, len(row.tokens) // 2))
        yield tuple(row.tokens[:end].tolist())
