"""Tiny models of many architectures of mlx-lm, with random weights, as folders."""

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map

COMMON: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 8,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "vocab_size": 97,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
    "rope_theta": 1e4,
}
YARN = {
    "type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
    "llama_4_scaling_beta": 0.1,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
GEMMA3N = {
    "model_type": "gemma3n_text",
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": 97,
    "num_kv_shared_layers": 3,
    "laurel_rank": 8,
    "altup_num_inputs": 4,
    "altup_coef_clip": 120.0,
    "altup_active_idx": 0,
    "altup_correct_scale": True,
    "activation_sparsity_pattern": [0.0] * 8,
    "final_logit_softcapping": 30.0,
    "query_rescale_scalar": 1.0,
    "query_pre_attn_scalar": 16.0,
    "sliding_window": 9,
    "layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 2,
    "rope_local_base_freq": 1e4,
    "rope_scaling": None,
    "intermediate_size": [96] * 8,
}
GEMMA3 = {
    "query_pre_attn_scalar": 16.0,
    "sliding_window": 9,
    "sliding_window_pattern": 3,
    "rope_local_base_freq": 1e4,
    "rope_global_base_freq": 1e5,
}
GPT2 = {"n_ctx": 512, "n_embd": 64, "n_head": 4, "n_layer": 8, "n_positions": 512, "layer_norm_epsilon": 1e-5}
QWEN3_5 = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "full_attention_interval": 4,
}
MAMBA2 = {
    "num_heads": 8,
    "state_size": 16,
    "layer_norm_epsilon": 1e-5,
    "conv_kernel": 4,
    "n_groups": 1,
    "use_bias": False,
    "use_conv_bias": True,
    "time_step_limit": (0.0, 10.0),
    "time_step_rank": "auto",
}
COHERE2 = {
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.06,
    "sliding_window": 9,
    "sliding_window_pattern": 4,
    "attention_bias": False,
    "layer_norm_bias": False,
}
GRANITE = {
    "logits_scaling": 8.0,
    "attention_multiplier": 0.2,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.2,
    "attention_bias": False,
    "mlp_bias": False,
}
LFM2 = {
    "norm_eps": 1e-5,
    "conv_bias": False,
    "conv_L_cache": 3,
    "block_dim": 64,
    "block_ff_dim": 96,
    "block_multiple_of": 8,
    "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False,
    "full_attn_idxs": [2, 5],
}
JAMBA = {
    "attn_layer_offset": 1,
    "attn_layer_period": 4,
    "expert_layer_offset": 1,
    "expert_layer_period": 2,
    "mamba_d_conv": 4,
    "mamba_d_state": 8,
    "mamba_expand": 2,
    "num_experts": 1,  # mlx-lm weighs several otherwise than transformers
    "num_experts_per_tok": 1,
    "mamba_proj_bias": False,
    "mamba_dt_rank": 4,
    "mamba_conv_bias": True,
    "use_mamba_kernels": False,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
SLIDING = {"layer_types": ["sliding_attention", "full_attention"] * 4, "sliding_window": 9}

# Name -> (model_type, what its config has besides COMMON).
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, sliding": ("llama", SLIDING),
    "llama, tied": ("llama", {"tie_word_embeddings": True}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral3": ("mistral3", {"text_config": {**COMMON, "model_type": "mistral"}}),
    "mistral3 of ministral3": (
        "mistral3",
        {"text_config": {**COMMON, "model_type": "ministral3", "rope_parameters": YARN}},
    ),
    "ministral3": ("ministral3", {"rope_parameters": YARN}),
    "mixtral": ("mixtral", EXPERTS),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16.0, "sliding_window": 9}),
    "gemma3_text": ("gemma3_text", GEMMA3),
    "gemma3n": ("gemma3n", {"text_config": {**COMMON, **GEMMA3N}}),
    "phi3": ("phi3", {"rope_scaling": None}),
    "olmo2": ("olmo2", {}),
    "cohere2": ("cohere2", COHERE2),
    "granite": ("granite", GRANITE),
    "gpt_oss": ("gpt_oss", {**EXPERTS, "sliding_window": 9}),
    "gpt2": ("gpt2", GPT2),
    "qwen3_5": ("qwen3_5", QWEN3_5),
    "mamba2": ("mamba2", MAMBA2),
    "lfm2": ("lfm2", LFM2),
    "jamba": ("jamba", JAMBA),
}


def write_architecture(folder: Path, name: str) -> Path:
    """A model folder as mlx-lm reads it."""
    model_type, changes = ARCHITECTURES[name]
    config = {**COMMON, "model_type": model_type, **changes}
    module = importlib.import_module(f"mlx_lm.models.{model_type}")
    mx.random.seed(3)
    model = module.Model(module.ModelArgs.from_dict(config))
    noisy = tree_map(lambda array: array + 0.05 * mx.random.normal(array.shape), model.parameters())
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(noisy)), {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
