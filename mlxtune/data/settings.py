"""The settings of the data: where the rows are, and which of their tokens carry loss."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from mlxtune.data import urls
from mlxtune.data.columns import parsed
from mlxtune.data.renaming import check
from mlxtune.errors import BadSetting
from mlxtune.format import shown
from mlxtune.settings import section

LossOn = Literal["auto", "all", "assistant", "last"]
Dedup = Literal["exact", "off"]
Overlong = Literal["skip", "truncate", "split"]
USUAL_LENGTH = 2048  # tokens that a row may have where nothing is said and the model can read as many


@section
class DataSettings:
    """loss_on "auto": of a chat every assistant turn, of a prompt and its completion the completion, of text all.

    >>> DataSettings(max_seq_length=512).loss_on
    'auto'
    """

    # A file, a folder, a pattern of files, a hub data set, or any of these by its URL; None is the built-in data.
    path: str | None = None
    # The column that each name is under: {prompt: question}, or "prompt=question". None: under the name itself.
    columns: Annotated[dict[str, str] | None, BeforeValidator(parsed)] = None
    system: Annotated[str, Field(pattern=r"\S")] | None = None  # a message before conversations and prompts without one
    # Tokens; one token has nothing to be predicted from. None: as many as are usual, within the model's context.
    max_seq_length: Annotated[int, Field(ge=2, le=10**9)] | None = None
    # Of rows whose loss ends beyond that: truncate keeps their beginnings, split cuts them as a document.
    overlong: Overlong = "skip"
    loss_on: LossOn = "auto"
    end_of_turn: Annotated[str, Field(min_length=1)] | None = None  # after each answer; none: nothing, and no warning
    skip_bad_rows: bool = False  # skip, count and list rows that cannot be read, instead of stopping
    max_rows: Annotated[int, Field(ge=1)] | None = (
        None  # examples to train on or to measure, before a share is held out
    )
    min_tokens: Annotated[int, Field(ge=1)] | None = None  # rows with fewer are left out
    dedup: Dedup = "off"  # exact: a row with the tokens and the mask of one before it is left out
    valid: str | None = None  # validation rows that lie elsewhere; None: those of the data, or a share of its rows
    valid_share: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the rows, where there is no validation file
    now: str | None = None  # the time that chat templates may write, 2026-07-26T12:00:00; None is the run's start

    def __post_init__(self) -> None:
        urls.check(self.path)
        urls.check(self.valid, "data.valid")
        if self.columns is not None:
            check(self.columns)
        try:
            _ = self.time
        except ValueError:
            expected, remedy = "a time like 2026-07-26T12:00:00", "Leave it out for the time at which the run starts."
            raise BadSetting("data.now", expected=expected, found=shown(self.now), remedy=remedy) from None

    @property
    def time(self) -> datetime:
        """`now`, or this moment."""
        return datetime.fromisoformat(self.now) if self.now is not None else datetime.now()

    def elsewhere(self, change: Callable[[str], str]) -> "DataSettings":
        """With each place where rows lie called otherwise."""
        path, valid = (place and change(place) for place in (self.path, self.valid))
        return replace(self, path=path, valid=valid)

    @property
    def longest(self) -> int:
        """How many tokens a row may have."""
        return self.max_seq_length or USUAL_LENGTH


def within(settings: DataSettings, context: int) -> DataSettings:
    """The settings with a length that the model can read. context: the model's, in tokens; 0 where it is not known.

    >>> within(DataSettings(), 512).max_seq_length
    512
    """
    if settings.max_seq_length is None:
        return replace(settings, max_seq_length=min(USUAL_LENGTH, max(2, context or USUAL_LENGTH)))
    if context and settings.max_seq_length > context:
        raise BadSetting(
            "data.max_seq_length",
            expected=f"at most {context:,} tokens, the model's context",
            found=f"{settings.max_seq_length:,}",
            remedy=f"Give --max-seq-length {context} or less: the model was not made for longer rows.",
        )
    return settings
