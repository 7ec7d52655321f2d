"""What `memory --fit` and `train --fit` share: the option's value, and the recipe that fits."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlxtune.cli.usage import HERE
from mlxtune.errors import BadSetting
from mlxtune.format import n_bytes

SAFE_SHARE = 0.9  # of what is free


class Fitted(NamedTuple):
    recipe: Any
    changes: Mapping[str, Any]
    limit_bytes: int  # that it was to fit
    lost: str  # rows and tokens that shorter rows leave out, in words; empty where none are


def fitted(planner: Any, wanted: str) -> Fitted:
    """The planner's recipe with the changes that let it fit. Raises BadSetting where nothing fits.

    wanted: bytes for the run; of a plan for a Mac, the Mac's memory.
    """
    from mlxtune.memory import macs

    limit = safe_bytes(planner.limit_bytes) if wanted == HERE else n_bytes(wanted)
    if not limit:
        raise BadSetting("--fit", expected="bytes, like 24GB", found=repr(wanted))
    if planner.for_mac:
        limit = macs.gives(macs.gib(limit))
    planned, changes = planner.fitting(planner.recipe, limit)
    return Fitted(planned.recipe, changes, limit, planner.left_out(planned.recipe))


def safe_bytes(limit_bytes: int) -> int:
    """What a run may take without other programs being paged out. Raises BadSetting where that is not known."""
    from mlxtune.memory.readings import now

    if not limit_bytes:
        remedy = "Give the bytes, as in --fit 16GB: what another machine has free is not known."
        raise BadSetting("--fit", expected="bytes, like 24GB", found="none", remedy=remedy)
    available = now().available
    return int(SAFE_SHARE * (limit_bytes if available is None else min(limit_bytes, available)))
