"""How many tokens a model was made for."""

from collections.abc import Mapping

from mlxtune.models.config import ModelConfig

# RoPE types that stretch the context by their factor. llama3's factor is none of it, and longrope's
# max_position_embeddings is the stretched context.
STRETCHES = ("linear", "dynamic", "yarn")


def context(config: ModelConfig) -> int:
    """The tokens of the longest row that the model's positions are made for; 0 where config.json does not say.

    That is max_position_embeddings. Where RoPE is scaled, some models write the length before the scaling there.
    """
    scaling = _scaling(config.raw)
    factor, kind = scaling.get("factor"), scaling.get("rope_type") or scaling.get("type")
    if kind not in STRETCHES or not isinstance(factor, int | float) or not 1 <= factor < 1e6:
        return config.max_positions
    original = scaling.get("original_max_position_embeddings")
    if not isinstance(original, int) or original < 1:
        original = config.max_positions
    return max(config.max_positions, int(factor * original))


def _scaling(raw: Mapping[str, object]) -> Mapping[str, object]:
    text = raw.get("text_config")
    flat = {**raw, **(text if isinstance(text, Mapping) else {})}
    for key in ("rope_scaling", "rope_parameters"):
        found = flat.get(key)
        if isinstance(found, Mapping) and found.get("factor") is not None:
            return found
    return {}
