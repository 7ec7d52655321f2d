"""A file's tensors as transformers stores them, under the names and in the values that mlx-lm's code takes."""

import re
from typing import Any

import mlx.core as mx

Weights = dict[str, mx.array]

IN_ONE = re.compile(r"\.experts\.(gate_up_proj|down_proj)$")  # (experts, in, out), where mlx-lm has (experts, out, in)
HEAD, HEAD_INSIDE = "lm_head.weight", "model.lm_head.weight"


def as_mlx_lm(args: Any, weights: Weights) -> Weights:
    """Before mlx-lm renames them. Of GPT-2 it knows the names without prefix, of GPT-OSS only experts in 4 bits."""
    if args.model_type == "gpt2":
        return {name.removeprefix("transformer."): array for name, array in weights.items()}
    if args.model_type == "gpt_oss":
        turned = {name: array.swapaxes(-1, -2) for name, array in weights.items() if IN_ONE.search(name)}
        return {name + ".weight" * (name in turned): turned.get(name, array) for name, array in weights.items()}
    return _falcon_h1(args, weights) if args.model_type == "falcon_h1" else weights


def at_the_top(weights: Weights) -> Weights:
    """After mlx-lm renamed them: GPT-2's code puts the head into the decoder."""
    if HEAD_INSIDE in weights:
        weights = {HEAD if name == HEAD_INSIDE else name: array for name, array in weights.items()}
    return weights


def _falcon_h1(args: Any, weights: Weights) -> Weights:
    """mlx-lm multiplies the weights by the config's multipliers, but for keys' own and for values."""
    convolution = weights.get("model.layers.0.mamba.conv1d.weight")
    if convolution is None or convolution.shape[-1] <= convolution.shape[1]:
        return weights  # mlx-lm's own format
    left_out = {"k_proj": args.key_multiplier, "v_proj": args.attention_in_multiplier}
    return {name: array * left_out.get(name.split(".")[-2], 1.0) for name, array in weights.items()}
