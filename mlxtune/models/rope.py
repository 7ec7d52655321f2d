"""Rotary position embedding: how far each pair of features turns a position, with the ways to stretch it.

Su and others, arXiv:2104.09864; linear: Chen and others, arXiv:2306.15595; yarn: Peng and others, arXiv:2309.00071;
longrope: Ding and others, arXiv:2402.13753; llama3: as in Meta's Llama 3.1. The formulas are those of transformers'
`modeling_rope_utils`.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEEDED: Mapping[str, tuple[str, ...]] = {  # numbers, by the type of RoPE
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": (),
}
OF_ANY_TYPE = frozenset({"rope_theta", "partial_rotary_factor", "rope_type", "type"})


@dataclass(frozen=True)
class Rope:
    """dims: the features of a head that turn, which may be a part of them."""

    dims: int
    theta: float = 10_000.0
    kind: str = "default"
    scaling: Mapping[str, Any] = field(default_factory=dict)  # the config's own keys: factor, beta_fast, ...
    max_positions: int = 0

    @property
    def by_length(self) -> bool:
        """Whether the frequencies depend on how long the row is."""
        return self.kind in ("dynamic", "longrope")

    def regime(self, length: int) -> int:
        """Rows of lengths with one regime have the same frequencies; 0 where all rows have."""
        if self.kind == "dynamic":
            return max(length - self.max_positions, 0)
        return int(self.kind == "longrope" and length > self.scaling["original_max_position_embeddings"])


def of_config(text: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE settings of a config.json in one mapping. The older spelling goes first, as in transformers."""
    found = {**(text.get("rope_scaling") or text.get("rope_parameters") or {})}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if text.get(key) is not None:
            found.setdefault(key, text[key])
    return found


def read(parameters: Mapping[str, Any], head_dim: int, max_positions: int) -> Rope:
    """The Rope of such a mapping."""
    original = parameters.get("original_max_position_embeddings") or max_positions
    dims = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
    scaling = {**parameters, "original_max_position_embeddings": original}
    return Rope(dims, float(parameters.get("rope_theta") or 10_000.0), kind(parameters), scaling, max_positions)


def kind(parameters: Mapping[str, Any]) -> str:
    """The type; "su" is what longrope was called at first."""
    name = str(parameters.get("rope_type") or parameters.get("type") or "default")
    return "longrope" if name == "su" else name


def faults(parameters: Mapping[str, Any]) -> Iterator[str]:
    """What is not understood of `rope_parameters` (or `rope_scaling`), in words."""
    named = kind(parameters)
    if "rope_type" not in parameters and "type" not in parameters and parameters.keys() - OF_ANY_TYPE:
        yield f"RoPE with {', '.join(sorted(parameters.keys() - OF_ANY_TYPE))} and no rope_type"
    elif named not in NEEDED:
        yield f"RoPE type {named}"
    elif missing := [key for key in NEEDED[named] if not isinstance(parameters.get(key), int | float)]:
        yield f"RoPE type {named} without {', '.join(missing)}"
    elif named == "longrope" and not all(
        isinstance(parameters.get(key), list) for key in ("short_factor", "long_factor")
    ):
        yield "RoPE type longrope without short_factor and long_factor"


def inverse_frequencies(rope: Rope, length: int = 1) -> tuple[NDArray[np.float64], float]:
    """Radians a position for each pair of features, and what to multiply cos and sin by. length: tokens of the row.

    >>> inverse_frequencies(Rope(dims=4, theta=100.0))[0].round(3).tolist()
    [1.0, 0.1]
    """
    plain = _plain(rope.dims, rope.theta)
    match rope.kind:
        case "linear":
            return plain / rope.scaling["factor"], 1.0
        case "dynamic":
            return _dynamic(rope, length), 1.0
        case "llama3":
            return _llama3(plain, rope.scaling), 1.0
        case "yarn":
            return _yarn(plain, rope), _yarn_attention_factor(rope.scaling)
        case "longrope":
            return _longrope(plain, rope, length), _longrope_attention_factor(rope)
    return plain, 1.0


def _plain(dims: int, theta: float) -> NDArray[np.float64]:
    frequencies: NDArray[np.float64] = theta ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    return frequencies


def _dynamic(rope: Rope, length: int) -> NDArray[np.float64]:
    """A row longer than the model's context has a larger base."""
    factor, context = rope.scaling["factor"], rope.max_positions
    stretch = factor * max(length, context) / context - (factor - 1)
    return _plain(rope.dims, rope.theta * stretch ** (rope.dims / (rope.dims - 2)))


def _llama3(plain: NDArray[np.float64], scaling: Mapping[str, Any]) -> NDArray[np.float64]:
    """Slow turns are stretched by the factor, fast ones stay, and those between are blended."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)  # within the original context
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    stretched: NDArray[np.float64] = (1 - share) * plain / scaling["factor"] + share * plain
    return stretched


def _yarn(plain: NDArray[np.float64], rope: Rope) -> NDArray[np.float64]:
    """Features that turn more than beta_fast times stay, those below beta_slow are stretched, a ramp between."""
    scaling, dims = rope.scaling, rope.dims

    def feature(turns: float) -> float:
        original = scaling["original_max_position_embeddings"]
        return dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = feature(scaling.get("beta_fast") or 32), feature(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    high += 0.001 * (low == high)
    stretched = np.clip((np.arange(dims // 2) - low) / (high - low), 0.0, 1.0)
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


def _longrope(plain: NDArray[np.float64], rope: Rope, length: int) -> NDArray[np.float64]:
    """Rows within the original context have factors of their own, the short ones."""
    factors = np.array(rope.scaling["long_factor" if rope.regime(length) else "short_factor"], np.float64)
    frequencies: NDArray[np.float64] = plain / factors
    return frequencies


def _longrope_attention_factor(rope: Rope) -> float:
    scaling, original = rope.scaling, rope.scaling["original_max_position_embeddings"]
    if scaling.get("attention_factor") is not None:
        return float(scaling["attention_factor"])
    factor = scaling.get("factor") or rope.max_positions / original
    return 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
