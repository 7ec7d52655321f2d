"""config.json as the dimensions of a decoder whose parameters follow from them, without its weights.

Keys and defaults are those of transformers' configurations of the same names.
"""

from dataclasses import dataclass

from mlxtune.models.config import ModelConfig

GEMMA = ("gemma", "gemma2", "gemma3_text")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", *GEMMA, "smollm3")

# Where config.json is silent, these families do not divide the hidden size among the heads.
HEAD_DIM = {"qwen3": 128, **dict.fromkeys(GEMMA, 256)}


@dataclass(frozen=True)
class Dimensions:
    """What the shapes of all parameters depend on."""

    n_layers: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    tied: bool  # the head is the embedding
    qkv_bias: bool
    output_bias: bool  # of the attention's output
    qk_norm: bool  # an RMSNorm over each head's query and key (Qwen3, Gemma 3)
    sandwich_norms: bool  # four norms a layer, before and after attention and feed-forward (Gemma 2 and 3)

    @staticmethod
    def of(config: ModelConfig) -> "Dimensions | None":
        """The dimensions of a config, or None for what they cannot say: other families, biases in the feed-forward."""
        family, raw = config.model_type, config.raw
        if family not in FAMILIES or not config.intermediate_size or raw.get("mlp_bias"):
            return None
        attention_bias = bool(raw.get("attention_bias"))
        return Dimensions(
            n_layers=config.n_layers,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            n_heads=config.n_heads,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim if "head_dim" in raw else HEAD_DIM.get(family, config.head_dim),
            tied=config.tied,
            qkv_bias=attention_bias or family == "qwen2",
            output_bias=attention_bias and family != "qwen2",
            qk_norm=family in ("qwen3", "gemma3_text"),
            sandwich_norms=family in ("gemma2", "gemma3_text"),
        )
