"""The plan: how much memory a run takes at its largest moment, and for what. Arithmetic on shapes; nothing is loaded.

`mlx.py` and `numpy.py` have the formulas, each beside the backend that it describes.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

from mlxtune.format import size
from mlxtune.memory import mlx, numpy
from mlxtune.memory.parts import Parts, largest
from mlxtune.memory.setup import Rows, Setup

# Of what a step takes and gives back, for buffers that MLX keeps to use again. On a processor none at all is as fast;
# on a GPU, where buffers cost more, all that a step gives back may stay.
CACHE_SHARE = {False: 0.25, True: 1.0}
LEAST_CACHE_BYTES = 64 << 20


class Plan(NamedTuple):
    """moment: when the peak is. factor: measured over predicted, on this machine and model; 1 if never."""

    parts: Parts
    moment: str
    moments: Mapping[str, Parts]
    resident: Parts  # between two steps
    cache_share: float
    factor: float = 1.0

    @property
    def peak_bytes(self) -> int:
        """The largest sum, active memory alone: the allocator's cache comes on top."""
        return round(self.parts.total * self.factor)

    @property
    def cache_bytes(self) -> int:
        """What the allocator may keep beside it."""
        return max(LEAST_CACHE_BYTES, round(self.cache_share * (self.peak_bytes - self.resident.total)))


def plan(setup: Setup, rows: Rows, evaluated: Rows | None = None, kept_tokens: int = 0, factor: float = 1.0) -> Plan:
    """The plan of a run whose largest micro-batch is `rows`.

    evaluated: the largest batch of the validation. kept_tokens: of the rows whose frozen layers' output is in memory,
    as NumPy keeps it.
    """
    if setup.backend == "numpy":
        found, resident = numpy.moments(setup, rows, evaluated, kept_tokens), numpy.resident(setup, kept_tokens)
    else:
        found, resident = mlx.moments(setup, rows, evaluated), mlx.resident(setup)
    moment = largest(found)
    return Plan(found[moment], moment, found, resident, CACHE_SHARE[setup.gpu], factor)


def as_json(plan: Plan, limit_bytes: int, measured_bytes: int | None = None) -> dict[str, Any]:
    """The document of `mlxtune memory --json`. limit_bytes: 0 where it is not known."""
    return {
        "predicted_peak_bytes": plan.peak_bytes,
        "parts": asdict(plan.parts),
        "moment": plan.moment,
        "cache_bytes": plan.cache_bytes,
        "measured_factor": plan.factor,
        "limit_bytes": limit_bytes or None,
        "fits": plan.peak_bytes <= limit_bytes if limit_bytes else None,
        "measured_peak_bytes": measured_bytes,
    }


def in_parts(plan: Plan) -> str:
    """The peak's parts in words, largest first, what is nothing left out."""
    parts = sorted(asdict(plan.parts).items(), key=lambda each: -each[1])
    return ", ".join(f"{name.replace('_', ' ')} {size(n_bytes)}" for name, n_bytes in parts if n_bytes)
