"""Cases of one test, of which plain `pytest` runs a few and scripts/test all."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pytest


def all_but(fast: Collection[str], cases: Mapping[str, Any] | Iterable[str]) -> list[Any]:
    """The cases as pytest's parameters, each of them slow but for the fast ones, which must be among them.

    cases: names, which are the parameters too, or parameters by name. A plain tuple holds several parameters.
    """
    named = cases if isinstance(cases, Mapping) else {name: name for name in cases}
    assert set(fast) <= set(named), f"expected some of {[*named]}, found {[*fast]}"
    return [_case(name, value, () if name in fast else (pytest.mark.slow,)) for name, value in named.items()]


def _case(name: str, value: Any, marks: Collection[Any]) -> Any:
    values = value if type(value) is tuple else (value,)
    return pytest.param(*values, id=name, marks=marks)
