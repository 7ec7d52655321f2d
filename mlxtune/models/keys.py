"""The kinds and ranges of config.json's keys: a bad value is told by its key, and not by what it leads to.

Keys may be absent or null, and those that are not named here may be anything. The sizes, which have several
spellings, are `config`'s.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

LAX = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

Count = Annotated[int, Field(ge=0, le=10**6)]
Length = Annotated[int, Field(ge=1, le=2**31)]  # tokens
Factor = Annotated[float, Field(ge=0, le=1e9)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
Share = Annotated[float, Field(gt=0, le=1)]
Theta = Annotated[float, Field(gt=1, le=1e15)]
Epsilon = Annotated[float, Field(ge=0, lt=1)]


class RopeKeys(BaseModel, frozen=True):
    """`rope_scaling` and `rope_parameters`; the latter may have such settings for each kind of layer."""

    model_config = LAX

    rope_type: str | None = None
    type: str | None = None
    rope_theta: Theta | None = None
    factor: Positive | None = None
    low_freq_factor: Positive | None = None
    high_freq_factor: Positive | None = None
    original_max_position_embeddings: Length | None = None
    beta_fast: Positive | None = None
    beta_slow: Positive | None = None
    attention_factor: Positive | None = None
    mscale: Factor | None = None
    mscale_all_dim: Factor | None = None
    truncate: bool | None = None
    partial_rotary_factor: Share | None = None
    short_factor: list[Positive] | None = None
    long_factor: list[Positive] | None = None
    full_attention: "RopeKeys | None" = None
    sliding_attention: "RopeKeys | None" = None


class Keys(BaseModel, frozen=True):
    """config.json, or the `text_config` in it. Keys of families that compute with them may be absent but not null."""

    model_config = LAX

    model_type: str | None = None
    architectures: list[str] | None = None
    text_config: dict[str, Any] | None = None
    quantization: dict[str, Any] | None = None
    quantization_config: dict[str, Any] | None = None
    tie_word_embeddings: bool | None = None
    attention_bias: bool | None = None
    mlp_bias: bool | None = None
    rope_traditional: bool | None = None
    hidden_act: str | None = None
    rms_norm_eps: Epsilon = 1e-6
    layer_norm_eps: Epsilon = 1e-5
    rope_theta: Theta | None = None
    rope_local_base_freq: Theta | None = None
    rope_scaling: RopeKeys | None = None
    rope_parameters: RopeKeys | None = None
    partial_rotary_factor: Share | None = None
    original_max_position_embeddings: Length | None = None
    use_sliding_window: bool | None = None
    sliding_window: Length | None = None
    max_window_layers: Count = 28
    layer_types: list[str] | None = None
    query_pre_attn_scalar: Positive | None = None
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    num_local_experts: Count | None = None
    num_experts: Count | None = None
    num_experts_per_tok: Count | None = None
    moe_intermediate_size: Count | None = None
