"""What a run is given of its data: rows to train on, rows to validate with, and what was left out."""

from dataclasses import dataclass

from mlxtune.data.refused import RefusedRows
from mlxtune.data.token_rows import TokenRows


@dataclass(frozen=True)
class Dataset:
    """Tokenized rows. notes: sentences for the opening panel (how validation was split, what was skipped)."""

    train: TokenRows
    valid: TokenRows
    refused: RefusedRows
    notes: tuple[str, ...]
    split: str = ""  # that the rows of `valid` are from, where they are all that is asked for
    rows_per_example: int = 1  # that lie side by side: of a pair, the chosen answer and then the rejected one
