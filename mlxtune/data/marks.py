"""Marks that a turn or a row is not to be trained, as chat data sets write them."""

from collections.abc import Mapping
from typing import Any

from mlxtune.data.faults import BadRow
from mlxtune.format import shown

MARKS = ("weight", "loss_weight", "train", "loss")
VERDICTS = ("label", "kto_tag")
# Each means one thing here and another there.
UNCLEAR = ("loss_mask", "mask", "masked", "train_detail", "train_on_turn", "trainable", "weights", "loss_weights")

_KNOWN = frozenset((*MARKS, *UNCLEAR))


def is_trained(given: Mapping[str, Any], where: str) -> bool:
    """Whether no mark says otherwise. Raises BadRow for a mark that is neither 0 nor 1: no loss is weighted.

    >>> is_trained({"content": "x"}, "row"), is_trained({"weight": 1.0}, "row"), is_trained({"train": False}, "row")
    (True, True, False)
    """
    if _KNOWN.isdisjoint(given):
        return True
    if unclear := next((key for key in UNCLEAR if isinstance(given.get(key), int | float | list)), None):
        raise BadRow("`train: false` or `weight: 0` on what is not to be trained", f"`{unclear}` at `{where}`")
    found = [_mark(given[key], key, where) for key in MARKS if given.get(key) is not None]
    return all(found)


def is_bad_answer(given: Mapping[str, Any]) -> bool:
    """Whether a row of good and bad answers, as KTO takes them, is one of the bad ones."""
    return any(key in given and verdict(given[key], key) is False for key in VERDICTS)


def _mark(value: object, key: str, where: str) -> bool:
    known = _flag(value)
    if known is None:
        remedy = f"No loss is weighted. Where `{key}` means something else, rename it."
        raise BadRow(f"0 or 1 as `{key}`", f"{shown(value)} at `{where}`", kind=key, remedy=remedy)
    return known


def _flag(value: object) -> bool | None:
    """0 or 1, however it is written; a table's empty cell is no mark. None for anything else."""
    if isinstance(value, str):
        return {"true": True, "false": False, "": True}.get(value.strip().lower(), _number(value))
    return bool(value) if isinstance(value, int | float) and value in (0, 1) else None


def _number(value: str) -> bool | None:
    try:
        return {0.0: False, 1.0: True}.get(float(value))
    except ValueError:
        return None


def verdict(value: object, key: str) -> bool | None:
    """True or false; anything else is some other label. A number may be either, so it is asked for."""
    text = str(value).strip().lower() if isinstance(value, str | int | float) else ""
    if text in ("0", "1", "0.0", "1.0"):
        raise BadRow(f"true or false as `{key}`, which says whether an answer is good", shown(value))
    return {"true": True, "false": False}.get(text)
