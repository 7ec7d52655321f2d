"""The settings of the data: where the rows are, and which of their tokens carry loss."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from mlxtune.errors import BadSetting
from mlxtune.settings import section
from mlxtune.words import shown

LossOn = Literal["auto", "all", "assistant", "last"]


@section
class DataSettings:
    """loss_on "auto": of a chat every assistant turn, of a prompt and its completion the completion, of text all.

    >>> DataSettings(max_seq_length=512).loss_on
    'auto'
    """

    path: str | None = None  # a file, a folder or a hub data set; None is the built-in data
    max_seq_length: Annotated[int, Field(ge=2)] = 2048  # tokens; one token has nothing to be predicted from
    loss_on: LossOn = "auto"
    skip_bad_rows: bool = False  # skip, count and list rows that cannot be read, instead of stopping
    valid_share: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the rows, where there is no validation file
    now: str | None = None  # the time that chat templates may write, 2026-07-26T12:00:00; None is the run's start

    def __post_init__(self) -> None:
        try:
            _ = self.time
        except ValueError:
            expected, remedy = "a time like 2026-07-26T12:00:00", "Leave it out for the time at which the run starts."
            raise BadSetting("data.now", expected=expected, found=shown(self.now), remedy=remedy) from None

    @property
    def time(self) -> datetime:
        """`now`, or this moment."""
        return datetime.fromisoformat(self.now) if self.now is not None else datetime.now()
