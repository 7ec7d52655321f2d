"""Rotary position embedding: the angle of every pair of features at every position, with the ways to stretch it.

Su and others, arXiv:2104.09864; linear: Chen and others, arXiv:2306.15595; yarn: Peng and others, arXiv:2309.00071;
llama3: as in Meta's Llama 3.1. The formulas are those of transformers' `modeling_rope_utils`.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class Rope:
    head_dim: int
    theta: float = 10_000.0
    kind: str = "default"
    scaling: Mapping[str, Any] = field(default_factory=dict)  # the config's own keys: factor, beta_fast, ...


class Tables(NamedTuple):
    """cos and signed sin of position times frequency, (T, heads, head_dim), with what the heads are multiplied by."""

    cos: NDArray[Any]
    sin: NDArray[Any]


def read(text: Mapping[str, Any], head_dim: int, max_positions: int) -> Rope:
    """The Rope of a config.json, in its old spelling (rope_scaling) or its new one (rope_parameters)."""
    scaling = _scaling(text)
    theta = scaling.get("rope_theta") or text.get("rope_theta") or 10_000.0
    return Rope(head_dim, float(theta), _kind(scaling), {"original_max_position_embeddings": max_positions, **scaling})


def outside(text: Mapping[str, Any]) -> Iterator[str]:
    """What of a config's RoPE is not here, in words."""
    scaling = _scaling(text)
    if _kind(scaling) not in TYPES:
        yield f"RoPE type {_kind(scaling)}"
    elif missing := [key for key in NEEDED.get(_kind(scaling), ()) if not isinstance(scaling.get(key), int | float)]:
        yield f"RoPE type {_kind(scaling)} without {', '.join(missing)}"
    if scaling.get("partial_rotary_factor", text.get("partial_rotary_factor", 1.0)) != 1.0:
        yield "partial_rotary_factor"


NEEDED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",)}


def _scaling(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """The older spelling goes first, as in transformers."""
    return text.get("rope_scaling") or text.get("rope_parameters") or {}


def _kind(scaling: Mapping[str, Any]) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def tables(rope: Rope, n_positions: int, factors: Sequence[float]) -> Tables:
    """The tables of positions 0 to n_positions - 1, float32, computed in float64. factors: one for each head."""
    frequencies, factor = inverse_frequencies(rope)
    angles = np.arange(n_positions, dtype=np.float64)[:, None] * frequencies
    cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
    heads = np.array(factors, np.float32)[:, None]
    cos_Th, sin_Th = np.concatenate([cos, cos], -1), np.concatenate([-sin, sin], -1)
    return Tables(*(table.astype(np.float32)[:, None] * heads for table in (cos_Th, sin_Th)))


def inverse_frequencies(rope: Rope) -> tuple[NDArray[np.float64], float]:
    """Radians a position for each pair of features, and what to multiply cos and sin by.

    >>> inverse_frequencies(Rope(head_dim=4, theta=100.0))[0].round(3).tolist()
    [1.0, 0.1]
    """
    plain = rope.theta ** (-np.arange(0, rope.head_dim, 2, dtype=np.float64) / rope.head_dim)
    match rope.kind:
        case "linear":
            return plain / rope.scaling["factor"], 1.0
        case "llama3":
            return _llama3(plain, rope.scaling), 1.0
        case "yarn":
            return _yarn(plain, rope), _yarn_attention_factor(rope.scaling)
    return plain, 1.0


def _llama3(plain: NDArray[np.float64], scaling: Mapping[str, Any]) -> NDArray[np.float64]:
    """Slow turns are stretched by the factor, fast ones stay, and those between are blended."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)  # within the original context
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    stretched: NDArray[np.float64] = (1 - share) * plain / scaling["factor"] + share * plain
    return stretched


def _yarn(plain: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
    """Features that turn more than beta_fast times stay, those below beta_slow are stretched, a ramp between."""
    scaling, dim = rope.scaling, rope.head_dim

    def feature(turns: float) -> float:
        original = scaling["original_max_position_embeddings"]
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = feature(scaling.get("beta_fast") or 32), feature(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    stretched = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    blended: NDArray[np.float64] = plain * (stretched / scaling["factor"] + 1 - stretched)
    return blended


def _yarn_attention_factor(scaling: Mapping[str, Any]) -> float:
    def mscale(weight: float) -> float:
        return 1.0 if scaling["factor"] <= 1 else 0.1 * weight * math.log(scaling["factor"]) + 1.0

    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    if scaling.get("mscale") and scaling.get("mscale_all_dim"):
        return mscale(scaling["mscale"]) / mscale(scaling["mscale_all_dim"])
    return mscale(1.0)
