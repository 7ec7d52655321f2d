"""What transformers takes a config.json to say: its class of the model_type gives every key a meaning and a default.

Files leave out what has its default, and spell keys in older ways. The classes need no PyTorch, and run no code of the
model's folder.
"""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Keys that change nothing of what a forward pass computes for one row: token ids, what matters in training from scratch
# or in generation, bookkeeping, and dropout, which no fine-tuning here applies. A test changes each of them in
# transformers' models and sees the same logits.
INERT = frozenset({
    "bos_token_id", "eos_token_id", "eod_token_id", "pad_token_id", "sep_token_id", "im_start_id", "im_end_id",
    "initializer_range", "use_cache", "cache_implementation", "w_init_variance_scale", "rescale_prenorm_residual",
    "attention_dropout", "attn_dropout", "attn_pdrop", "emb_pdrop", "embd_pdrop", "resid_pdrop", "hidden_dropout",
    "residual_dropout", "embedding_dropout", "classifier_dropout", "input_jitter_noise", "router_jitter_noise",
    "output_router_logits", "router_aux_loss_coef", "aux_loss_alpha", "seq_aux", "pretraining_tp", "ep_size",
    "num_logits_to_keep", "num_mtp_layers", "num_nextn_predict_layers", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj", "is_decoder",
    "reorder_and_upcast_attn", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "residual_in_fp32",
    "use_mamba_kernels", "use_mambapy", "use_associative_scan", "chunk_size", "mamba_chunk_size", "block_size",
    "time_step_floor", "time_step_init_scheme", "time_step_max", "time_step_min", "time_step_scale",
    "mamba_expand", "moe_capacity", "max_position_embeddings", "original_max_position_embeddings",
})  # fmt: skip

NOT_INERT = {"phimoe": frozenset({"router_jitter_noise"})}  # which experts count depends on it there

# Keys that the stored tensors' names and shapes tell as well: they are checked against the model's.
SHAPES = frozenset({
    "intermediate_size", "n_inner", "head_dim", "num_key_value_heads", "lru_width", "expand", "attention_bias",
    "mlp_bias", "use_bias", "bias", "qkv_bias", "lm_head_bias", "qk_layernorm", "moe_intermediate_size",
})  # fmt: skip


def read(raw: Mapping[str, Any]) -> Any | None:
    """transformers' configuration of a config.json; None for a family that it lacks, or what it refuses.

    None, too, for a multimodal model whose language model has no `text_config`, as mlx-lm writes some.
    """
    from transformers import CONFIG_MAPPING

    try:
        with _quiet():
            config = CONFIG_MAPPING[raw["model_type"]](**_arguments(raw))
            is_nested = config.get_text_config() is not config
    except Exception:  # strict classes raise errors of many kinds: what they refuse, mlx-lm may still have
        return None
    return config if is_nested == ("text_config" in raw) else None


def _arguments(raw: Mapping[str, Any]) -> dict[str, Any]:
    left_out = (
        "model_type",
        "quantization",
        "quantization_config",
        "architectures",
        "auto_map",
        "dtype",
        "torch_dtype",
    )
    return {key: copy.deepcopy(value) for key, value in raw.items() if key not in left_out}


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers says of a key, we say in our own words or not at all."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def value(config: Any, key: str) -> Any:
    """A key's value under any name that transformers has for it; None where it has none."""
    return getattr(config, key, None)


def keys(config: Any) -> set[str]:
    """The keys that transformers' class itself declares, and other names of theirs."""
    from dataclasses import fields

    from transformers import PretrainedConfig

    own = {field.name for field in fields(config)} - {field.name for field in fields(PretrainedConfig)}
    return own | set(config.attribute_map)


def inert(config: Any) -> frozenset[str]:
    """The keys that change nothing in this family."""
    return INERT - NOT_INERT.get(config.model_type, frozenset())


def matters(raw: Mapping[str, Any], key: str, config: Any) -> bool:
    """Whether a key has another value than it would have if the file did not say it."""
    return bool(without(raw, key) != value(config, key))


def without(raw: Mapping[str, Any], key: str) -> Any:
    """The value that a key would have if the file did not say it."""
    config = read({name: found for name, found in raw.items() if name != key})
    return None if config is None else value(config, key)


def windows(config: Any) -> list[int | None]:
    """Of each layer: how many tokens a token sees, itself among them; None is all."""
    window, n_layers = value(config, "sliding_window"), config.num_hidden_layers
    if window is None or value(config, "use_sliding_window") is False:
        return [None] * n_layers
    kinds = value(config, "layer_types") or ["sliding_attention"] * n_layers
    return [window if kind == "sliding_attention" else None for kind in kinds]


def rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    """Of each layer. Families with several types of attention may have settings for each of them."""
    parameters = value(config, "rope_parameters") or {}
    if not is_by_kind(parameters):
        return [parameters] * config.num_hidden_layers
    return [parameters.get(kind) or {} for kind in value(config, "layer_types")]


def is_by_kind(parameters: Mapping[str, Any]) -> bool:
    """Whether RoPE has settings for each type of attention."""
    return any(isinstance(entry, Mapping) for entry in parameters.values())


def head_dim(config: Any) -> int:
    """Features of a query head, or what is rotated of them by themselves where that is a part of its own."""
    return int(value(config, "head_dim") or config.hidden_size // config.num_attention_heads)


def pattern(config: Any) -> int | None:
    """Every how many layers attention is over the whole text, the others sliding; None where there is no such rule."""
    kinds = value(config, "layer_types") or []
    if "full_attention" not in kinds:
        return None
    every = kinds.index("full_attention") + 1
    regular = all((kind == "full_attention") == ((place + 1) % every == 0) for place, kind in enumerate(kinds))
    return every if regular else None


def activation(config: Any) -> str | None:
    """The name of the feed-forward's activation. Files may have it under the names of other families, too."""
    names = ("hidden_activation", "hidden_act", "activation_function")
    return next((value(config, name) for name in names if name in keys(config)), None)
