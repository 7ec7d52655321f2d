"""The translation in hand: what was given, what it becomes, and every fault on the way."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from mlxtune.errors import BadSetting, MlxtuneError
from mlxtune.recipe.from_mlx_lm.keys import DEFAULTS

Recipe = dict[str, dict[str, Any]]


@dataclass
class Translation:
    """The work in hand: `given` is the file, `value` fills mlx-lm's defaults in."""

    given: Mapping[str, Any]
    recipe: Recipe = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[MlxtuneError] = field(default_factory=list)

    def value(self, key: str) -> Any:
        value = self.given.get(key)
        return DEFAULTS[key] if value is None else value

    def set(self, key: str, value: Any) -> None:
        section, _, name = key.partition(".")
        self.recipe.setdefault(section, {})[name] = value

    def refuse(self, where: str, expected: str, found: Any, remedy: str = "") -> None:
        self.faults.append(BadSetting(where, expected=expected, found=str(found), remedy=remedy))

    def count(self, key: str) -> int:
        """A whole number above 0; 1, and a fault, where it is none."""
        value = self.value(key)
        if type(value) is int and value > 0:
            return value
        self.refuse(key, "a whole number above 0", repr(value))
        return 1

    def is_section(self, where: str, value: Any) -> bool:
        """Whether the value is a mapping; a fault where it is not."""
        if not isinstance(value, Mapping):
            self.refuse(where, "a section of keys", repr(value))
        return isinstance(value, Mapping)

    def refuse_unknown(self, where: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
        """A fault for each key that mlx-lm would not read, with the nearest that it would."""
        known = list(known)
        for key in given:
            if key not in known:
                near = get_close_matches(str(key), known, n=1, cutoff=0.0)[0]
                place = f"{where}.{key}" if where else str(key)
                self.refuse(place, "a key that mlx-lm reads", "one that it does not", f"The nearest is {near}.")
