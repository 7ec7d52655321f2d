"""What `memory --fit` and `train --fit` share: the option's value, and the recipe that fits."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from typer.core import TyperCommand

from mlxtune.errors import BadSetting
from mlxtune.words import n_bytes

HERE = "here"  # --fit without a value: what this machine can safely give
SAFE_SHARE = 0.9  # of what is free


class Fitted(NamedTuple):
    recipe: Any
    changes: Mapping[str, Any]
    limit_bytes: int  # that it was to fit


class FitCommand(TyperCommand):
    """A command whose option --fit may stand alone."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As typer does, with the value that a lone --fit stands for."""
        return super().parse_args(ctx, with_value(args))


def with_value(args: Sequence[str]) -> list[str]:
    """The arguments with a value after each --fit.

    >>> with_value(["--fit", "--json"]), with_value(["--fit", "8GB"]), with_value(["--fit"])
    (['--fit', 'here', '--json'], ['--fit', '8GB'], ['--fit', 'here'])
    """
    found: list[str] = []
    for place, argument in enumerate(args):
        found.append(argument)
        if argument == "--fit" and n_bytes(" ".join(args[place + 1 : place + 2])) is None:
            found.append(HERE)
    return found


def fitted(recipe: Any, wanted: str, planner: Any = None) -> Fitted:
    """The recipe with the changes that let it fit. Raises BadSetting where nothing fits."""
    from mlxtune.planning import Planner

    planner = planner or Planner(recipe)
    limit = safe_bytes(planner.limit_bytes) if wanted == HERE else n_bytes(wanted)
    if limit is None:
        raise BadSetting("--fit", expected="bytes, like 24GB", found=repr(wanted))
    planned, changes = planner.fitting(recipe, limit)
    return Fitted(planned.recipe, changes, limit)


def safe_bytes(limit_bytes: int) -> int:
    """What a run may take without other programs being paged out."""
    from mlxtune.memory.readings import now

    available = now().available
    return int(SAFE_SHARE * (limit_bytes if available is None else min(limit_bytes, available)))
