"""The parameters of a decoder: names as in Hugging Face, shapes, and their places in one flat buffer.

The buffer holds what is frozen, then the matrices that train, then the vectors that train: gradients and moments are
buffers of the trained part's length, and weight decay stops at one place. Within each part the order is the model's,
so q, k and v, and gate and up, lie side by side and each is one matrix to the arithmetic.
"""

from collections.abc import Collection, Iterator, Mapping
from math import prod
from typing import NamedTuple

from mlxtune.backends.numpy.config import Decoder
from mlxtune.strategies.selection import Anatomy, LoraAdapter, Parameter

EMBEDDING, FINAL_NORM, HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
FLOAT_BYTES = 4

Shapes = Mapping[str, tuple[int, ...]]


class Layout(NamedTuple):
    """Where each parameter lies: buffer[begin : begin + size] has its shape."""

    places: Mapping[str, tuple[int, tuple[int, ...]]]  # name -> begin, shape; in the buffer's order
    trained: tuple[str, ...]  # in the model's order
    trained_begin: int
    vectors_begin: int  # of the trained vectors: norms and biases
    size: int


def layer_prefix(layer: int) -> str:
    """As every parameter of a layer begins.

    >>> layer_prefix(3)
    'model.layers.3.'
    """
    return f"model.layers.{layer}."


def base_shapes(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model, in its order."""
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (decoder.vocab_size, decoder.hidden_size)}
    for layer in range(decoder.n_layers):
        shapes |= {layer_prefix(layer) + name: shape for name, shape in _layer_shapes(decoder)}
    shapes[FINAL_NORM] = (decoder.hidden_size,)
    if not decoder.tied:
        shapes[HEAD] = shapes[EMBEDDING]
    return shapes


def linears(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Module names and (in, out) of the linear layers, the head among them."""
    return {
        name.removesuffix(".weight"): (shape[1], shape[0])
        for name, shape in base_shapes(decoder).items()
        if len(shape) == 2 and name != EMBEDDING
    }


def _layer_shapes(decoder: Decoder) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = decoder.hidden_size, decoder.intermediate_size
    heads, kv_heads = decoder.n_heads * decoder.head_dim, decoder.n_kv_heads * decoder.head_dim
    yield "input_layernorm.weight", (hidden,)
    for name, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
        yield f"self_attn.{name}_proj.weight", (width, hidden)
    if decoder.qkv_bias:
        for name, width in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            yield f"self_attn.{name}_proj.bias", (width,)
    if decoder.qk_norm:
        yield "self_attn.q_norm.weight", (decoder.head_dim,)
        yield "self_attn.k_norm.weight", (decoder.head_dim,)
    yield "self_attn.o_proj.weight", (hidden, heads)
    if decoder.output_bias:
        yield "self_attn.o_proj.bias", (hidden,)
    yield "post_attention_layernorm.weight", (hidden,)
    yield "mlp.gate_proj.weight", (inner, hidden)
    yield "mlp.up_proj.weight", (inner, hidden)
    yield "mlp.down_proj.weight", (hidden, inner)


def anatomy(decoder: Decoder) -> Anatomy:
    """What a strategy has to know. Weights take four bytes here, whatever they are saved as."""
    shapes = base_shapes(decoder)
    return Anatomy(
        parameters={name: Parameter(shape, FLOAT_BYTES * prod(shape)) for name, shape in shapes.items()},
        linears=linears(decoder),
        layers=tuple(layer_prefix(layer) for layer in range(decoder.n_layers)),
        head=None if decoder.tied else HEAD,
        embedding=EMBEDDING,
        final_norm=(FINAL_NORM,),
    )


def adapter_shapes(adapters: Collection[LoraAdapter]) -> dict[str, tuple[int, ...]]:
    """The parameters that adapters add."""
    shapes: dict[str, tuple[int, ...]] = {}
    for adapter in adapters:
        n_in, n_out = adapter.shape
        shapes[f"{adapter.module}.lora_a"] = (n_in, adapter.rank)
        shapes[f"{adapter.module}.lora_b"] = (adapter.rank, n_out)
    return shapes


def lay_out(shapes: Shapes, trained: Collection[str]) -> Layout:
    """Places for the shapes, which are in the model's order.

    >>> lay_out({"a": (2, 2), "b": (3,), "c": (1, 2)}, ["b", "c"]).places
    {'a': (0, (2, 2)), 'c': (4, (1, 2)), 'b': (6, (3,))}
    """
    chosen = frozenset(trained)
    parts = (
        [name for name in shapes if name not in chosen],
        [name for name, shape in shapes.items() if name in chosen and len(shape) > 1],
        [name for name, shape in shapes.items() if name in chosen and len(shape) == 1],
    )
    places, begins, at = {}, [], 0
    for part in parts:
        begins.append(at)
        for name in part:
            places[name] = (at, shapes[name])
            at += prod(shapes[name])
    return Layout(places, tuple(name for name in shapes if name in chosen), begins[1], begins[2], at)
