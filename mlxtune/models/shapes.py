"""The parameters of a decoder: names as in Hugging Face, shapes, and what files hold besides."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

from mlxtune.models.dimensions import Dimensions

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
UNUSED = ".rotary_emb.inv_freq"  # saved by old versions of transformers, computed here

Shape = tuple[int, ...]
Stored = TypeVar("Stored")


def layer_prefix(layer: int) -> str:
    """As every parameter of a layer begins.

    >>> layer_prefix(3)
    'model.layers.3.'
    """
    return f"model.layers.{layer}."


def shapes(dimensions: Dimensions) -> dict[str, Shape]:
    """Every parameter of the model, in its order."""
    made: dict[str, Shape] = {EMBEDDING: (dimensions.vocab_size, dimensions.hidden_size)}
    for layer in range(dimensions.n_layers):
        made |= {layer_prefix(layer) + name: shape for name, shape in _layer(dimensions)}
    made[FINAL_NORM] = (dimensions.hidden_size,)
    if not dimensions.tied:
        made[HEAD] = made[EMBEDDING]
    return made


def linears(dimensions: Dimensions) -> dict[str, tuple[int, int]]:
    """Module names and (in, out) of the linear layers, the head among them."""
    return {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in shapes(dimensions).items()
        if len(shape) == 2 and name != EMBEDDING
    }


def _layer(dimensions: Dimensions) -> Iterator[tuple[str, Shape]]:
    hidden, inner = dimensions.hidden_size, dimensions.intermediate_size
    yield "input_layernorm.weight", (hidden,)
    yield from ((f"self_attn.{name}", shape) for name, shape in _attention(dimensions))
    yield "post_attention_layernorm.weight", (hidden,)
    if dimensions.sandwich_norms:
        yield "pre_feedforward_layernorm.weight", (hidden,)
    yield "mlp.gate_proj.weight", (inner, hidden)
    yield "mlp.up_proj.weight", (inner, hidden)
    yield "mlp.down_proj.weight", (hidden, inner)
    if dimensions.sandwich_norms:
        yield "post_feedforward_layernorm.weight", (hidden,)


def _attention(dimensions: Dimensions) -> Iterator[tuple[str, Shape]]:
    hidden, head_dim = dimensions.hidden_size, dimensions.head_dim
    heads, kv_heads = dimensions.n_heads * head_dim, dimensions.n_kv_heads * head_dim
    widths = {"q_proj": heads, "k_proj": kv_heads, "v_proj": kv_heads}
    yield from ((f"{name}.weight", (width, hidden)) for name, width in widths.items())
    if dimensions.qkv_bias:
        yield from ((f"{name}.bias", (width,)) for name, width in widths.items())
    if dimensions.qk_norm:
        yield "q_norm.weight", (head_dim,)
        yield "k_norm.weight", (head_dim,)
    yield "o_proj.weight", (hidden, heads)
    if dimensions.output_bias:
        yield "o_proj.bias", (hidden,)


def as_loaded(stored: Mapping[str, Stored], tied: bool) -> dict[str, Stored]:
    """The tensors of a folder's files under the names that a model has them by.

    What is computed is left out, and so is a tied model's head: it is the embedding, and stands for it where only the
    head was saved.

    >>> as_loaded({"lm_head.weight": (5, 2), "model.norm.weight": (2,)}, tied=True)
    {'model.embed_tokens.weight': (5, 2), 'model.norm.weight': (2,)}
    """
    used = {name: tensor for name, tensor in stored.items() if not name.endswith(UNUSED)}
    if not tied:
        return used
    if any("embed" in name or name.endswith("wte.weight") for name in used):
        return {name: tensor for name, tensor in used.items() if not name.endswith(HEAD)}
    return {name.replace(HEAD, EMBEDDING): tensor for name, tensor in used.items()}
