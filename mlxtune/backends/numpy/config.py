"""config.json as a decoder of the Llama family, or a refusal that says what is outside of it.

Keys and defaults are those of transformers' configurations of the same names.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlxtune.errors import BadModel
from mlxtune.models import config as model_config
from mlxtune.models import fit, rope
from mlxtune.models.config import ModelConfig
from mlxtune.models.dimensions import Dimensions
from mlxtune.models.rope import Rope

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SUPPORTED = (
    f"The NumPy backend has the families {', '.join(FAMILIES)}: RMSNorm, SwiGLU, grouped-query attention, and the\n"
    f"RoPE types {', '.join(rope.NEEDED)}. Other architectures run on MLX: --backend mlx."
)


@dataclass(frozen=True)
class Decoder(Dimensions):
    """All that the arithmetic depends on besides the weights."""

    epsilon: float  # of every RMSNorm
    rope: Rope
    windows: tuple[int | None, ...]  # of each layer: how many tokens a token sees, itself among them; None is all


def read(folder: Path) -> Decoder:
    """The decoder of a model folder. Raises BadModel where it is outside the family or quantised."""
    return of(model_config.read(folder), str(folder))


def of(config: ModelConfig, place: str) -> Decoder:
    """The decoder of a config. place: the model's folder or repository, for messages."""
    text = config.raw
    outside = list(_outside(config, text))
    if outside:
        raise BadModel(
            f"{place}/config.json",
            expected="a model of the Llama family",
            found=f"{_name(config)} with {', '.join(outside)}",
            remedy=SUPPORTED,
        )
    if config.quantized:
        raise fit.quantised(Path(place), config.quantized)
    dimensions = Dimensions.of(config)
    assert dimensions is not None  # or it would be outside
    return Decoder(
        **vars(dimensions),
        epsilon=float(text.get("rms_norm_eps", 1e-6)),
        rope=rope.read(rope.of_config(text), dimensions.head_dim, config.max_positions),
        windows=_windows(config, text),
    )


def _name(config: ModelConfig) -> str:
    return config.architectures[0] if config.architectures else config.model_type


def _outside(config: ModelConfig, text: Mapping[str, Any]) -> Iterator[str]:
    """What of the config the family does not have, in the config's own words."""
    if config.model_type not in FAMILIES:
        yield f"model_type {config.model_type}"
        return
    if not config.intermediate_size:
        yield "no intermediate_size"
    if text.get("hidden_act", "silu") != "silu":
        yield f"hidden_act {text['hidden_act']}"
    for key in ("mlp_bias", "rope_traditional", "rope_interleaved"):
        if text.get(key):
            yield key
    if config.model_type in ("llama", "mistral") and set(text.get("layer_types") or ()) - {"full_attention"}:
        yield "layer_types"
    parameters = rope.of_config(text)
    yield from rope.faults(parameters)
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        yield "partial_rotary_factor"


def _windows(config: ModelConfig, text: Mapping[str, Any]) -> tuple[int | None, ...]:
    window = text.get("sliding_window", 4096)
    if config.model_type == "mistral":
        return (window,) * config.n_layers
    if config.model_type == "llama" or not text.get("use_sliding_window"):
        return (None,) * config.n_layers
    first = text.get("max_window_layers", 28)
    kinds = text.get("layer_types") or ["full_attention"] * first + ["sliding_attention"] * config.n_layers
    return tuple(window if kind == "sliding_attention" else None for kind in kinds[: config.n_layers])
