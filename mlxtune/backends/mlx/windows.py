"""Sliding windows of attention that mlx-lm leaves out: Mistral's are put in, Qwen's are refused.

mlx-lm reads Mistral with its Llama code, whose layers can slide; but it takes which do from `layer_types`, a key that a
Mistral config does not have. Every layer of Mistral slides (transformers, `modeling_mistral.py`). Its code for Qwen2
and Qwen3 has no windows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlx.nn as nn

from mlxtune.errors import BadModel

DEFAULT = 4096  # of transformers' MistralConfig, where config.json does not say
DEFAULT_FULL_LAYERS = 28  # of transformers' Qwen2Config and Qwen3Config


def slide(model: nn.Module, config: Mapping[str, Any], folder: Path) -> None:
    """Let each token of a Mistral see the window's tokens, itself among them; generation's cache follows."""
    if config["model_type"] in ("qwen2", "qwen3") and _has_windows(config):
        raise BadModel(
            f"{folder / 'config.json'}",
            expected="attention over the whole text, which is all that mlx-lm has for this family",
            found=f"use_sliding_window with a window of {config.get('sliding_window'):,} tokens",
            remedy="Such a model trains with --backend numpy.",
        )
    window = config.get("sliding_window", DEFAULT)
    if config["model_type"] != "mistral" or window is None:
        return
    for layer in model.layers:
        layer.use_sliding = True
    model.model.sliding_window, model.model.swa_idx = window, 0


def _has_windows(config: Mapping[str, Any]) -> bool:
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return False
    if kinds := config.get("layer_types"):
        return "sliding_attention" in kinds
    return int(config.get("max_window_layers", DEFAULT_FULL_LAYERS)) < int(config["num_hidden_layers"])
