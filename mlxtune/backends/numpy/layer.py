"""One decoder layer, forward and backward.

N tokens of all rows, D hidden size, F features of the MLP, H heads, K key-value heads, G = H / K, h head size
B rows of T tokens each in a band, P = B * K pairs of a row and a key-value head, M = T * G queries of a pair

    x -> x + output(attend(rotate(qkv(norm1 x)))) -> x + down(swiglu(gate_up(norm2 x)))

What is cheap to compute is not kept for the backward pass but computed again: the normalised input from the input and
its scale, the output of SwiGLU from gate, up and the sigmoid.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Shapes, Workspace
from mlxtune.backends.numpy.cache import Cache
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.kernels.attention import Attention, Heads, attend, attend_backward
from mlxtune.backends.numpy.kernels.linear import Linear, input_gradient, linear, weight_gradients
from mlxtune.backends.numpy.kernels.norm import rms_norm, rms_norm_backward
from mlxtune.backends.numpy.kernels.rotary import rotate, rotate_backward
from mlxtune.backends.numpy.kernels.swiglu import swiglu, swiglu_backward
from mlxtune.backends.numpy.rope import Tables


class Norm(NamedTuple):
    weight: Array
    gradient: Array | None  # None where frozen


class Layer(NamedTuple):
    """The parameters of a layer, as views, with their gradients'."""

    norm1: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    output: Linear
    norm2: Norm
    gate_up: Linear
    down: Linear
    window: int | None


class Band(NamedTuple):
    """Rows of one length, side by side: what looks from token to token computes them together."""

    places: slice  # of N
    n_rows: int
    n_tokens: int  # of each row
    tables: Tables  # of queries, with the scale of the scores, and keys


class Pass(NamedTuple):
    """What all layers share in one pass over a batch."""

    bands: Sequence[Band]
    heads_HKh: tuple[int, int, int]
    epsilon: float
    dropout: Dropout | None
    ws: Workspace

    def by_rows(self, heads_NAh: Array) -> Iterator[Array]:
        """Views (B, T, A, h), a band each."""
        for places, n_rows, n_tokens, _ in self.bands:
            yield heads_NAh[places].reshape(n_rows, n_tokens, *heads_NAh.shape[1:])

    def by_key_head(self, heads_NAh: Array) -> Iterator[Array]:
        """Views (B, K, T, A / K, h), a band each."""
        n_kv, (_, n_heads, size) = self.heads_HKh[1], heads_NAh.shape
        for places, n_rows, n_tokens, _ in self.bands:
            of_band = heads_NAh[places].reshape(n_rows, n_tokens, n_kv, n_heads // n_kv, size)
            yield of_band.transpose(0, 2, 1, 3, 4)

    def shapes(self, heads_NAh: Array) -> Shapes:
        """Of such heads in the attention, (P, M, h), of each band."""
        n_kv, (_, n_heads, size) = self.heads_HKh[1], heads_NAh.shape
        return tuple((band.n_rows * n_kv, band.n_tokens * n_heads // n_kv, size) for band in self.bands)


class Kept(NamedTuple):
    """What the backward pass needs of one layer."""

    x_ND: Array
    scale1_N: Array
    qkv: Array  # before QK norm; of use only where there is one
    scales_qk: tuple[Array, Array] | None
    heads: list[Heads]  # of each band
    attention: list[Attention]
    attended_NO: Array
    middle_ND: Array  # after the attention's residual
    scale2_N: Array
    gate_up_2FN: Array
    sigmoid_FN: Array


def forward(
    layer: Layer, x_ND: Array, p: Pass, place: str, keep: bool, cache: Cache | None = None
) -> tuple[Array, Kept]:
    """The layer's output, and what the backward pass needs, whose memory is good only if `keep`.

    place: names the memory of the output, and of all that is kept.
    """
    activated_FN, kept = _inside(layer, x_ND, p, place if keep else "", cache)
    next_ND = linear(activated_FN.T, layer.down, p.ws(f"{place}next", *x_ND.shape), p.dropout, p.ws)
    next_ND += kept.middle_ND
    return next_ND, kept


def keep_again(layer: Layer, x_ND: Array, p: Pass, place: str) -> Kept:
    """What a forward pass that kept nothing would have kept; the output is not made."""
    return _inside(layer, x_ND, p, place, None)[1]


def _inside(layer: Layer, x_ND: Array, p: Pass, inner: str, cache: Cache | None) -> tuple[Array, Kept]:
    """What enters the last product, and what is to be kept, in memory named by `inner`; "" for what no one keeps."""
    ws = p.ws
    n_tokens, n_hidden = x_ND.shape
    normed_ND = ws("normed", n_tokens, n_hidden)
    scale1_N = rms_norm(x_ND, layer.norm1.weight, p.epsilon, normed_ND)
    qkv_place = f"{inner}qkv" if layer.q_norm is not None else "qkv"
    qkv = linear(normed_ND, layer.qkv, ws(qkv_place, n_tokens, len(layer.qkv.weight_OI)), p.dropout, ws)
    heads, scales_qk = _heads(layer, qkv, p, inner)
    if cache is not None:
        heads = [cache.extend(*heads)]
    n_heads, n_kv, size = p.heads_HKh
    outs, attention = attend(heads, n_heads // n_kv, layer.window, ws, inner or None)
    attended_NO = ws(f"{inner}attended", n_tokens, n_heads * size)
    _unmerged(outs, attended_NO.reshape(-1, n_heads, size), p)
    middle_ND = linear(attended_NO, layer.output, ws(f"{inner}middle", n_tokens, n_hidden), p.dropout, ws)
    middle_ND += x_ND
    scale2_N = rms_norm(middle_ND, layer.norm2.weight, p.epsilon, normed_ND)
    n_features = len(layer.gate_up.weight_OI) // 2
    gate_up_2FN = ws(f"{inner}gate_up", 2 * n_features, n_tokens)
    linear(normed_ND, layer.gate_up, gate_up_2FN.T, p.dropout, ws)
    sigmoid_FN, activated_FN = ws(f"{inner}sigmoid", n_features, n_tokens), ws("activated", n_features, n_tokens)
    swiglu(gate_up_2FN, sigmoid_FN, activated_FN)
    kept = Kept(
        x_ND, scale1_N, qkv, scales_qk, heads, attention, attended_NO, middle_ND, scale2_N, gate_up_2FN, sigmoid_FN
    )
    return activated_FN, kept


def _heads(layer: Layer, qkv: Array, p: Pass, place: str) -> tuple[list[Heads], tuple[Array, Array] | None]:
    """Queries, keys and values of the attention, out of the product of their joined matrix."""
    ws, n_heads = p.ws, p.heads_HKh[0]
    qk, v = _split(qkv, p)
    scales = None
    if layer.q_norm is not None and layer.k_norm is not None:
        normed = ws("normed_qk", *qk.shape)
        scale_q = rms_norm(qk[:, :n_heads], layer.q_norm.weight, p.epsilon, normed[:, :n_heads])
        scale_k = rms_norm(qk[:, n_heads:], layer.k_norm.weight, p.epsilon, normed[:, n_heads:])
        qk, scales = normed, (scale_q, scale_k)
    rotated = ws("rotated", *qk.shape)
    for band, of_band, out in zip(p.bands, p.by_rows(qk), p.by_rows(rotated), strict=True):
        rotate(of_band, band.tables, out, ws)
    parts = {"queries": rotated[:, :n_heads], "keys": rotated[:, n_heads:], "values": v}
    merged = [_merged(ws.parts(f"{place}{name}", p.shapes(part)), part, p) for name, part in parts.items()]
    return [Heads(*of_band) for of_band in zip(*merged, strict=True)], scales


def _split(qkv: Array, p: Pass) -> tuple[Array, Array]:
    """Views (N, heads, h) of what lies side by side: queries with keys, and values."""
    n_heads, n_kv, size = p.heads_HKh
    all_NAh = qkv.reshape(-1, n_heads + 2 * n_kv, size)
    return all_NAh[:, : n_heads + n_kv], all_NAh[:, n_heads + n_kv :]


def _merged(outs: Sequence[Array], heads_NAh: Array, p: Pass) -> Sequence[Array]:
    """Writes each band's heads as the attention has them, (P, M, h)."""
    for out, of_band in zip(outs, p.by_key_head(heads_NAh), strict=True):
        out.reshape(of_band.shape)[...] = of_band
    return outs


def _unmerged(heads: Sequence[Array], out_NAh: Array, p: Pass) -> None:
    """Writes the heads of all bands as tokens have them."""
    for of_band, out in zip(heads, p.by_key_head(out_NAh), strict=True):
        out[...] = of_band.reshape(out.shape)


def backward(layer: Layer, gradient_ND: Array, kept: Kept, p: Pass, through: bool) -> None:
    """Turns the gradient of the output into that of the input, in place, and writes those of what trains.

    through: whether the gradient of the input is wanted; the first layer that trains may do without.
    """
    ws = p.ws
    shape_FN = kept.sigmoid_FN.shape
    d_activated_FN, activated_FN = ws("d_activated", *shape_FN), ws("activated", *shape_FN)
    input_gradient(gradient_ND, layer.down, d_activated_FN.T, p.dropout, ws)
    d_gate_up_2FN = ws("d_gate_up", *kept.gate_up_2FN.shape)
    swiglu_backward(d_activated_FN, kept.gate_up_2FN, kept.sigmoid_FN, d_gate_up_2FN, activated_FN)
    weight_gradients(gradient_ND, activated_FN.T, layer.down, p.dropout, ws)
    gradient_ND += _through_norm(d_gate_up_2FN.T, layer.gate_up, layer.norm2, kept.middle_ND, kept.scale2_N, p)
    d_attended = input_gradient(gradient_ND, layer.output, ws("d_attended", *kept.attended_NO.shape), p.dropout, ws)
    weight_gradients(gradient_ND, kept.attended_NO, layer.output, p.dropout, ws)
    d_qkv = _attention_backward(layer, d_attended, kept, p)
    if through or layer.norm1.gradient is not None:
        gradient_ND += _through_norm(d_qkv, layer.qkv, layer.norm1, kept.x_ND, kept.scale1_N, p)
    else:
        weight_gradients(d_qkv, _normed(layer.norm1, kept.x_ND, kept.scale1_N, p), layer.qkv, p.dropout, ws)


def _normed(norm: Norm, x_ND: Array, scale_N: Array, p: Pass) -> Array:
    """The norm's output, once more."""
    normed_ND = np.multiply(x_ND, scale_N[:, None], out=p.ws("normed", *x_ND.shape))
    normed_ND *= norm.weight
    return normed_ND


def _through_norm(gradient_NO: Array, module: Linear, norm: Norm, x_ND: Array, scale_N: Array, p: Pass) -> Array:
    """The gradient of x, where y = linear(norm(x)), and those of what trains of the two."""
    normed_ND = _normed(norm, x_ND, scale_N, p)
    weight_gradients(gradient_NO, normed_ND, module, p.dropout, p.ws)
    d_normed_ND = input_gradient(gradient_NO, module, p.ws("d_normed", *x_ND.shape), p.dropout, p.ws)
    rms_norm_backward(d_normed_ND, x_ND, scale_N, norm.weight, norm.gradient, spare_ND=normed_ND)
    return d_normed_ND


def _attention_backward(layer: Layer, gradient_NO: Array, kept: Kept, p: Pass) -> Array:
    """The gradient of the joined product of queries, keys and values."""
    ws, (n_heads, n_kv, size) = p.ws, p.heads_HKh
    gradient_NHh, attended_NHh = (array.reshape(-1, n_heads, size) for array in (gradient_NO, kept.attended_NO))
    gradients = _merged(ws.parts("d_out", p.shapes(gradient_NHh)), gradient_NHh, p)
    products_NH1 = np.vecdot(gradient_NHh, attended_NHh)[..., None]
    products = [
        of_band.reshape(gradient.shape[:2])
        for of_band, gradient in zip(p.by_key_head(products_NH1), gradients, strict=True)
    ]
    d_queries, d_keys, d_values = attend_backward(gradients, products, kept.heads, kept.attention, ws)
    d_qkv = ws("d_qkv", len(gradient_NO), (n_heads + 2 * n_kv) * size)
    d_qk, d_v = _split(d_qkv, p)
    _unmerged(d_queries, d_qk[:, :n_heads], p)
    _unmerged(d_keys, d_qk[:, n_heads:], p)
    _unmerged(d_values, d_v, p)
    for band, of_band in zip(p.bands, p.by_rows(d_qk), strict=True):
        rotate_backward(of_band, band.tables, ws)
    if layer.q_norm is not None and layer.k_norm is not None and kept.scales_qk is not None:
        qk, _ = _split(kept.qkv, p)
        for norm, heads, scale in zip(
            (layer.q_norm, layer.k_norm), (slice(n_heads), slice(n_heads, None)), kept.scales_qk, strict=True
        ):
            spare = ws("normed_qk", *qk[:, heads].shape)
            rms_norm_backward(d_qk[:, heads], qk[:, heads], scale, norm.weight, norm.gradient, spare)
    return d_qkv
