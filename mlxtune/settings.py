"""What all sections of settings share: frozen, keyword only, strict about types, and checked when they are made.

A section stands beside the code that obeys it; `recipe` composes them. A fault raises pydantic's ValidationError,
which `recipe` turns into one message that lists them all.
"""

from typing import Any, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

T = TypeVar("T")

# A section that is made by hand may be given a password in a URL: pydantic quotes no value, we what may be shown of it.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(Field,))
def section(cls: type[T]) -> type[T]:
    """Make a class of annotated fields a section of settings."""
    made: Any = dataclass(frozen=True, kw_only=True, config=STRICT)(cls)
    return made  # type: ignore[no-any-return]
