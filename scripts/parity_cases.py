"""The models of the parity table: small random ones of many families, and what their configurations may say.

Rows of the table have 41, 30 and 22 tokens: windows of 16 and contexts of 24 and 32 are shorter than most of them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "vocab_size": 160,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
MLA = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "n_shared_experts": 1,
}
GPT = {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 128, "n_inner": 256}

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
ROUTED_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
ERNIE_EXPERTS = {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, "moe_num_shared_experts": 1}
GRANITE = {
    "embedding_multiplier": 2.0,
    "attention_multiplier": 0.3,
    "residual_multiplier": 0.5,
    "logits_scaling": 3.0,
}
FALCON_H1 = {
    "mamba_d_ssm": 64,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_chunk_size": 16,
    "head_dim": 16,
}
JAMBA = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "mamba_d_state": 8,
    "mamba_dt_rank": 4,
    "attn_layer_offset": 1,
    "attn_layer_period": 2,
    "use_mamba_kernels": False,
}
QWEN3_NEXT = {
    **EXPERTS,
    "head_dim": 16,
    "shared_expert_intermediate_size": 48,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
GEMMA = {"hidden_size": 80, "head_dim": 16}  # the root of 80 is no whole number: embeddings are multiplied by it

# What the configuration of a family has besides SHAPE.
FAMILIES: dict[str, dict[str, Any]] = {
    "afmoe": {**EXPERTS, "num_dense_layers": 1, "head_dim": 16, "sliding_window": 16},
    "apertus": {},
    "bitnet": {},
    "cohere": {},
    "cohere2": {"sliding_window": 16},
    "deepseek_v2": {**MLA, "topk_method": "greedy"},
    "deepseek_v3": {**MLA},
    "dots1": {**ROUTED_EXPERTS, "first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": 16},
    "ernie4_5": {"head_dim": 16},
    "ernie4_5_moe": {**ERNIE_EXPERTS, "moe_layer_start_index": 1},
    "exaone4": {"sliding_window": 16, "sliding_window_pattern": 4},
    "falcon_h1": FALCON_H1,
    "gemma": {**GEMMA},
    "gemma2": {**GEMMA, "query_pre_attn_scalar": 16, "sliding_window": 16},
    "gemma3_text": {**GEMMA, "num_hidden_layers": 6, "query_pre_attn_scalar": 16, "sliding_window": 16},
    "glm": {"head_dim": 16},
    "glm4": {"head_dim": 16},
    "glm4_moe": {"head_dim": 16, **ROUTED_EXPERTS, "first_k_dense_replace": 1},
    "gpt2": GPT,
    "gpt_bigcode": GPT,
    "gpt_neox": {"intermediate_size": 256},
    "gpt_oss": {"head_dim": 16, **LOCAL_EXPERTS, "sliding_window": 16},
    "gptj": {**GPT, "n_inner": 256, "rotary_dim": 8},
    "granite": GRANITE,
    "granitemoe": {**LOCAL_EXPERTS, **GRANITE},
    "helium": {"head_dim": 16},
    "hunyuan_v1_dense": {"head_dim": 16},
    "internlm3": {"head_dim": 16},
    "jamba": JAMBA,
    "lfm2": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "llama": {},
    "mamba": {"state_size": 8},
    "mamba2": {"state_size": 16, "num_heads": 8, "head_dim": 16, "n_groups": 1, "chunk_size": 16},
    "ministral3": {"head_dim": 16},
    "mistral": {"sliding_window": 16},
    "mixtral": {**LOCAL_EXPERTS},
    "nanochat": {},
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 16},
    "olmoe": {**EXPERTS},
    "phi": {},
    "phi3": {},
    "phimoe": {"attention_bias": True, "lm_head_bias": True, **LOCAL_EXPERTS},
    "qwen2": {},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 48},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "qwen3_next": QWEN3_NEXT,
    "recurrent_gemma": {"num_key_value_heads": 1, "attention_window_size": 16, "lru_width": 64, "head_dim": 16},
    "seed_oss": {"head_dim": 16},
    "smollm3": {},
    "stablelm": {},
    "starcoder2": {},
}  # fmt: skip


YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
SHORT = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]
LONG = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
LONGROPE = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": SHORT, "long_factor": LONG}
PART = {**LONGROPE, "short_factor": SHORT[:6], "long_factor": LONG[:6], "partial_rotary_factor": 0.75}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
BY_KIND = {
    "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
}
MINISTRAL = {
    **YARN,
    "original_max_position_embeddings": 16,
    "llama_4_scaling_beta": 0.1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
MULTIPLIERS = {
    "attention_in_multiplier": 0.5,
    "attention_out_multiplier": 0.7,
    "embedding_multiplier": 2.0,
    "key_multiplier": 0.5,
    "lm_head_multiplier": 2.0,
    "mlp_multipliers": [0.5, 2.0],
    "ssm_multipliers": [0.5, 2.0, 1.0, 0.7, 1.2],
}
SLIDING, FULL = "sliding_attention", "full_attention"
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
WINDOW = {"use_sliding_window": True, "sliding_window": 16}


def rope(settings: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {**settings, **more}}


# Family -> variant -> changes to its configuration.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "tied": TIED,
        "biases": {"attention_bias": True, "mlp_bias": True},
        "head_dim 32": {"head_dim": 32},
        "rms_norm_eps 0.01": {"rms_norm_eps": 1e-2},
        "gelu": {"hidden_act": "gelu"},
        "tanh gelu": {"hidden_act": "gelu_pytorch_tanh"},
        "relu": {"hidden_act": "relu"},
        "linear": rope({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        "llama3": rope(LLAMA3),
        "dynamic": rope(DYNAMIC),
        "dynamic, longer rows": {**rope(DYNAMIC), "max_position_embeddings": 24},
        "yarn": rope(YARN),
        "yarn, attention_factor": rope(YARN, attention_factor=0.8),
        "yarn, betas": rope(YARN, beta_fast=8.0, beta_slow=2.0),
        "yarn, mscale": rope(YARN, mscale=0.7),
        "yarn, both mscales": rope(YARN, mscale=0.7, mscale_all_dim=0.5),
        "yarn, not truncated": rope(YARN, truncate=False),
        "longrope, shorter rows": rope(LONGROPE, original_max_position_embeddings=64, factor=2.0),
        "longrope": rope(LONGROPE, original_max_position_embeddings=32, factor=2.0),
    },
    "mistral": {"no window": {"sliding_window": None}, "gelu": {"hidden_act": "gelu"}},
    "ministral3": {"yarn": rope(MINISTRAL), "window": {"sliding_window": 16}},
    "qwen2": {
        "tied": TIED,
        "windows": {**WINDOW, "max_window_layers": 2},
        "windows by layer": {**WINDOW, "layer_types": [SLIDING, FULL] * 2},
    },
    "qwen3": {
        "windows": {**WINDOW, "max_window_layers": 2},
        "biases": {"attention_bias": True},
        "yarn, attention_factor": rope(YARN, attention_factor=0.8),
    },
    "phi3": {
        "window": {"sliding_window": 16},
        "tied": TIED,
        "gelu": {"hidden_act": "gelu"},
        "longrope, shorter rows": {**rope(LONGROPE), "original_max_position_embeddings": 64},
        "longrope": {**rope(LONGROPE), "original_max_position_embeddings": 32},
        "longrope, part of the heads": {**rope(PART), "original_max_position_embeddings": 32},
    },
    "gemma": {"untied": UNTIED, "gelu": {"hidden_act": "gelu"}},
    "gemma2": {
        "untied": UNTIED,
        "window of 64": {"sliding_window": 64},
        "soft caps": {"final_logit_softcapping": 5.0, "attn_logit_softcapping": 2.0},
        "no soft cap": {"attn_logit_softcapping": None},
        "both ways": {"use_bidirectional_attention": True},
    },
    "gemma3_text": {
        "untied": UNTIED,
        "every second layer full": {"layer_types": [SLIDING, FULL] * 3},
        "full first": {"layer_types": [FULL, SLIDING] * 3},
        "RoPE by kind": {"rope_parameters": BY_KIND},
        "soft cap": {"final_logit_softcapping": 5.0},
    },
    "starcoder2": {
        "window": {"sliding_window": 16},
        "gelu": {"hidden_act": "gelu"},
        "norm_epsilon 0.01": {"norm_epsilon": 1e-2},
        "untied": UNTIED,
        "no bias": {"use_bias": False},
    },
    "mixtral": {"window": {"sliding_window": 16}, "gelu": {"hidden_act": "gelu"}},
    "phimoe": {"window": {"sliding_window": 16}},
    "qwen2_moe": {
        "tied": TIED,
        "windows": {**WINDOW, "max_window_layers": 2},
        "yarn": rope(YARN),
        "norm_topk_prob": {"norm_topk_prob": True},
        "decoder_sparse_step 2": {"decoder_sparse_step": 2},
    },
    "qwen3_moe": {
        "tied": TIED,
        "window": WINDOW,
        "norm_topk_prob": {"norm_topk_prob": True},
        "mlp_only_layers": {"mlp_only_layers": [1]},
    },
    "cohere": {"untied": UNTIED, "qk norm": {"use_qk_norm": True}, "logit_scale": {"logit_scale": 0.3}},
    "cohere2": {
        "untied": UNTIED,
        "every second layer full": {"layer_types": [SLIDING, FULL] * 2},
        "full first": {"layer_types": [FULL, SLIDING] * 2},
    },
    "olmo2": {"gelu": {"hidden_act": "gelu"}},
    "olmo3": {"RoPE by kind": {"rope_parameters": {FULL: YARN, SLIDING: {"rope_type": "default", "rope_theta": 1e4}}}},
    "olmoe": {"clip_qkv": {"clip_qkv": 0.5}},
    "phi": {
        "partial_rotary_factor": {"partial_rotary_factor": 0.25},
        "gelu": {"hidden_act": "gelu"},
        "qk_layernorm": {"qk_layernorm": True},
        "tied": TIED,
    },
    "stablelm": {
        "biases": {"use_qkv_bias": True},
        "parallel": {"use_parallel_residual": True},
        "qk_layernorm": {"qk_layernorm": True},
        "tied": TIED,
    },
    "gpt_neox": {
        "not parallel": {"use_parallel_residual": False},
        "RoPE of a half": rope({"rope_type": "default", "rope_theta": 1e3, "partial_rotary_factor": 0.5}),
        "tied": TIED,
        "relu": {"hidden_act": "relu"},
    },
    "gpt2": {
        "untied": UNTIED,
        "relu": {"activation_function": "relu"},
        "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
        "n_inner 96": {"n_inner": 96},
    },
    "gpt_bigcode": {"untied": UNTIED, "no multi_query": {"multi_query": False}},
    "gpt_oss": {
        "tied": TIED,
        "full first": {"layer_types": [FULL, SLIDING] * 2},
        "swiglu_limit": {"swiglu_limit": 1.0},
    },
    "exaone4": {"tied": TIED, "every second layer full": {"layer_types": [SLIDING, FULL] * 2}},
    "glm4": {"tied": TIED, "RoPE of a quarter": {"partial_rotary_factor": 0.25}},
    "glm4_moe": {"qk norm": {"use_qk_norm": True}, "groups": {"n_group": 2, "topk_group": 1}, "yarn": rope(YARN)},
    "helium": {"tied": TIED, "biases": {"attention_bias": True}},
    "smollm3": {"untied": UNTIED, "no_rope_layers": {"no_rope_layers": [1, 0, 1, 0]}},
    "deepseek_v2": {
        "tied": TIED,
        "no q_lora_rank": {"q_lora_rank": None},
        "groups": {"topk_method": "group_limited_greedy"},
        "yarn": rope(YARN, mscale=0.7, mscale_all_dim=0.5),
        "yarn, attention_factor": rope(YARN, attention_factor=0.8),
        "norm_topk_prob": {"norm_topk_prob": True},
    },
    "deepseek_v3": {
        "no q_lora_rank": {"q_lora_rank": None},
        "yarn": rope(YARN, mscale=0.7, mscale_all_dim=0.5),
        "norm_topk_prob": {"norm_topk_prob": False},
        "rope_interleave": {"rope_interleave": False},
    },
    "dots1": {"window": {"layer_types": [SLIDING, FULL] * 2, "sliding_window": 16}},
    "ernie4_5": {"biases": {"use_bias": True}, "untied": UNTIED},
    "ernie4_5_moe": {"moe_norm_min": {"moe_norm_min": 0.5}},
    "granite": {"tied": TIED, "biases": {"attention_bias": True, "mlp_bias": True}},
    "nemotron": {"gelu": {"hidden_act": "gelu"}},
    "apertus": {"yarn": rope(YARN), "silu": {"hidden_act": "silu"}},
    "mamba": {"untied": UNTIED, "biases": {"use_bias": True}, "epsilon 0.01": {"layer_norm_epsilon": 1e-2}},
    "mamba2": {"tied": TIED, "no biases": {"use_conv_bias": False}},
    "falcon_h1": {"multipliers": MULTIPLIERS, "time_step_limit": {"time_step_limit": [0.1, 0.2]}},
    "hunyuan_v1_dense": {
        "biases": {"attention_bias": True},
        "dynamic": rope({"rope_type": "dynamic", "rope_theta": 1e4, "factor": 1.0, "alpha": 1000.0}),
    },
    "internlm3": {"dynamic": rope({**DYNAMIC, "factor": 6.0})},
    "seed_oss": {"biases": {"attention_out_bias": True}, "yarn": rope(YARN)},
    "lfm2": {"biases": {"conv_bias": True}},
    "jamba": {"no experts": {"num_experts": 1, "num_experts_per_tok": 1}},
}


@dataclass(frozen=True)
class Case:
    family: str
    variant: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.family}, {self.variant}" if self.variant else self.family


CASES = [
    case
    for family in FAMILIES
    for case in (Case(family), *(Case(family, name, more) for name, more in VARIANTS.get(family, {}).items()))
]


def write(folder: Path, case: Case) -> Path:
    """A model of random weights, saved as transformers saves it. Norms and biases are random too."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(case.family, **{**SHAPE, **FAMILIES[case.family], **case.changes})
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def rewrite(folder: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> Path:
    """Other keys in a folder's config.json than it was saved with."""
    path = folder / "config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if key not in without}
    path.write_text(json.dumps({**kept, **changes}))
    return folder
