"""The head and the cross-entropy in one, a shard of the vocabulary at a time, with a gradient made by hand.

The plain way holds logits, probabilities and their gradients for the whole vocabulary at once, in float32. Here each
shard's logits become exponentials, which are all that is kept of them; when the sum over all shards is known, each is
turned into the gradient of its logits, used, and dropped. The gradients are made together with the loss, so each
logit has one product and one exponential, and the backward pass only multiplies by the cotangent. MLX orders a lazy
graph from its outputs: without `mx.depends` from shard to shard it would hold them all at once.

N supervised tokens, D hidden size, V vocabulary, R rows of one shard of the head
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import mlx.core as mx

from mlxtune.backends.mlx.head.exponential import exp
from mlxtune.backends.mlx.head.output import IDENTITY, Output
from mlxtune.backends.shards import shard_rows

Arrays = Sequence[mx.array]
# float16 ends at 6e-8: its exponentials are kept this much larger, so that they reach down to 2e-12.
ENLARGED = {mx.float16: 2.0**15}
SMALLEST = 1e-37  # of float32, nearly


class Head(NamedTuple):
    """The last product of a model, and what follows it."""

    shards: Arrays  # of the weight (V, D), each (R, D), in order
    bias_V: mx.array | None = None
    output: Output = IDENTITY


# Takes the gradient of shard i (after the last: of the bias) and gives the arrays that it made of it.
Consume = Callable[[int, mx.array], Arrays]


def cut(head_VD: mx.array, rows: int) -> list[mx.array]:
    """The head as arrays of their own, evaluated: a slice would keep the whole alive, and could not be freed alone."""
    shards = []
    for start in range(0, head_VD.shape[0], rows):
        shards.append(mx.contiguous(head_VD[start : start + rows]))
        mx.eval(shards[-1])
    return shards


def slices(head_VD: mx.array) -> list[mx.array]:
    """The head's shards as views of it, where it stays whole: frozen, or tied to the embedding.

    Its gradient is the shards' in a row. MLX would add up one array of the head's size for each.
    """
    rows = shard_rows(head_VD.shape[0])
    cut: Any = mx.custom_function(lambda head: [head[start : start + rows] for start in range(0, head.shape[0], rows)])
    cut.vjp(lambda _, gradients, __: mx.concatenate(gradients))
    return list(cut(head_VD))


def head_loss(hidden_ND: mx.array, head: Head, targets_N: mx.array, scale: float = 1.0) -> mx.array:
    """The summed cross-entropy, nats, a float32 scalar. Its gradient reaches `hidden_ND` and not the head.

    scale: what the loss will be multiplied by before it is differentiated. It changes no result but for rounding: the
    logits' gradients are scaled before they are rounded to 16 bits, and so do not vanish in float16.
    consume: where given, the gradients of `scale` times the loss by the head's shards go to it one after the other,
    each made when the arrays that it returned for the one before are done. Evaluate these together with the loss.
    """
    loss, gradient_ND = _loss_and_gradient(hidden_ND, head, targets_N, scale, None)
    return _with_gradients(loss, [hidden_ND], [gradient_ND], scale)


def trained_head_loss(hidden_ND: mx.array, head: Head, targets_N: mx.array, scale: float = 1.0) -> mx.array:
    """As `head_loss`; the gradient reaches the head's shards and its bias too."""
    gradients: list[mx.array] = []

    def keep(_: int, gradient: mx.array) -> Arrays:
        gradients.append(gradient)
        return [gradient]

    loss, gradient_ND = _loss_and_gradient(hidden_ND, head, targets_N, scale, keep)
    weights = [*head.shards] if head.bias_V is None else [*head.shards, head.bias_V]
    return _with_gradients(loss, [hidden_ND, *weights], [gradient_ND, *gradients], scale)


def loss_alone(hidden_ND: mx.array, head: Head, targets_N: mx.array) -> mx.array:
    """The summed cross-entropy where no gradient is wanted: nothing is kept of a shard but its sums."""
    parts = _forward(hidden_ND, head, targets_N)
    return _loss(parts, _normalizer(parts))


def _with_gradients(loss: mx.array, inputs: Arrays, gradients: list[mx.array], scale: float) -> mx.array:
    """The loss, made known to MLX as a function of `inputs`; `gradients` are those of `scale` times it.

    Memory is held by whoever names it: the shards must not be seen from here, or old ones would stay when they are
    updated, and each gradient is let go as it is multiplied, or it would stay beside the product.
    """

    def pull_back(primals: tuple[mx.array, Arrays], cotangent: mx.array, _: mx.array) -> tuple[mx.array, Arrays]:
        factor = cotangent / scale
        return mx.zeros_like(cotangent), [(gradients.pop(0) * factor).astype(x.dtype) for x in primals[1]]

    function: Any = mx.custom_function(lambda loss, _: loss)
    function.vjp(pull_back)
    return function(mx.stop_gradient(loss), inputs)


class _Part(NamedTuple):
    """What is kept of one shard. All but the exponentials are (N, 1), and float32."""

    exponentials_NR: mx.array  # exp(logit - reference), in the model's type
    reference: mx.array  # the largest logit, less the logarithm of what the exponentials are enlarged by
    total: mx.array  # sum of the exponentials, before they were rounded
    target: mx.array  # the target's logit; 0 where it is not in this shard
    place: mx.array  # the target's column, clipped to the shard
    inside: mx.array  # whether the target is in this shard


class _Normalizer(NamedTuple):
    """Of the softmax over all shards: p = exp(logit - reference) / total. Both (N, 1), float32."""

    reference: mx.array  # the largest of the parts'
    total: mx.array


def _loss_and_gradient(
    hidden_ND: mx.array, head: Head, targets_N: mx.array, scale: float, consume: Consume | None
) -> tuple[mx.array, mx.array]:
    """The loss, and the gradient of `scale` times it by the hidden states, float32; the head's goes to `consume`."""
    parts = _forward(hidden_ND, head, targets_N)
    normalizer = _normalizer(parts)
    gradient_ND, bias_gradients, done = mx.zeros(hidden_ND.shape), [], [normalizer.total]
    for i, shard_RD in enumerate(head.shards):
        (kept_NR,) = mx.depends([parts[i].exponentials_NR], done)
        slopes_NR = _slopes(parts[i]._replace(exponentials_NR=kept_NR), normalizer, head.output, scale)
        products_NR = slopes_NR.astype(hidden_ND.dtype)
        gradient_ND = gradient_ND + products_NR @ shard_RD
        done = [gradient_ND]
        if consume is not None:
            bias_gradients.append(mx.sum(slopes_NR, axis=0))
            done = [*done, *consume(i, products_NR.T @ hidden_ND)]
    if consume is not None and head.bias_V is not None:
        gradient_V = mx.concatenate(bias_gradients).astype(head.bias_V.dtype)
        done = [*done, *consume(len(head.shards), gradient_V)]
    (gradient_ND,) = mx.depends([gradient_ND], done)
    return _loss(parts, normalizer), gradient_ND


def _forward(hidden_ND: mx.array, head: Head, targets_N: mx.array) -> list[_Part]:
    parts: list[_Part] = []
    start = 0
    for shard_RD in head.shards:
        rows = shard_RD.shape[0]
        if parts:
            (hidden_ND,) = mx.depends([hidden_ND], [parts[-1].exponentials_NR, parts[-1].total, parts[-1].target])
        products_NR = (hidden_ND @ shard_RD.T).astype(mx.float32)
        if head.bias_V is not None:
            products_NR = products_NR + head.bias_V[start : start + rows]
        parts.append(_part(head.output.logits(products_NR), targets_N[:, None] - start, hidden_ND.dtype))
        start += rows
    return parts


def _part(logits_NR: mx.array, place: mx.array, dtype: mx.Dtype) -> _Part:
    rows = logits_NR.shape[1]
    inside = (place >= 0) & (place < rows)
    place = mx.clip(place, 0, rows - 1)
    target = mx.where(inside, mx.take_along_axis(logits_NR, place, axis=1), 0.0)
    largest, enlarged = mx.max(logits_NR, axis=1, keepdims=True), ENLARGED.get(dtype, 1.0)
    reference = largest - math.log(enlarged)
    exponentials_NR = exp(logits_NR - largest) * enlarged
    total = mx.sum(exponentials_NR, axis=1, keepdims=True)
    return _Part(exponentials_NR.astype(dtype), reference, total, target, place, inside)


def _normalizer(parts: Sequence[_Part]) -> _Normalizer:
    references = mx.concatenate([part.reference for part in parts], axis=1)
    totals = mx.concatenate([part.total for part in parts], axis=1)
    reference = mx.max(references, axis=1, keepdims=True)
    return _Normalizer(reference, mx.sum(mx.exp(references - reference) * totals, axis=1, keepdims=True))


def _target(parts: Sequence[_Part]) -> mx.array:
    return mx.sum(mx.concatenate([part.target for part in parts], axis=1), axis=1, keepdims=True)


def _loss(parts: Sequence[_Part], normalizer: _Normalizer) -> mx.array:
    """Differences of logits first: with logits of 1e4, float32 has a thousandth left for a log-sum-exp."""
    return mx.sum((normalizer.reference - _target(parts)) + mx.log(normalizer.total))


def _slopes(part: _Part, normalizer: _Normalizer, output: Output, scale: float) -> mx.array:
    """The gradient of `scale` times the loss by the head's products, (N, R), float32.

    By the logits it is p, and p - 1 at the target. That one is made from the target's logit in float32: where p is
    nearly 1, p - 1 of a rounded p would be noise, and an exponential that became 0 does not know its logit.
    """
    exponentials_NR = part.exponentials_NR.astype(mx.float32)
    # What was not kept comes back; without a soft cap no one asks for it and it is never computed.
    logits_NR = mx.log(mx.maximum(exponentials_NR, SMALLEST)) + part.reference
    factor = mx.exp(part.reference - normalizer.reference) / normalizer.total * scale
    slopes_NR = output.pull_back(exponentials_NR * factor, logits_NR)
    of_target = (mx.exp(part.target - normalizer.reference) / normalizer.total - 1) * scale
    unchanged = mx.take_along_axis(slopes_NR, part.place, axis=1)
    at_place = mx.where(part.inside, output.pull_back(of_target, part.target), unchanged)
    return mx.put_along_axis(slopes_NR, part.place, at_place, axis=1)
