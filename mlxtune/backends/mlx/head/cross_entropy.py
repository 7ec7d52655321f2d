"""Log-probabilities of tokens from what enters the head, a shard of the vocabulary at a time; the gradient is by hand.

The plain way holds logits, probabilities and their gradients for the whole vocabulary at once, in float32. Here each
shard's logits become exponentials, which are all that is kept of them; when the sum over all shards is known and the
backward pass brings what each token's log-probability is worth, each is turned into the gradient of its logits, used,
and dropped. So each logit has one product and one exponential. MLX orders a lazy graph from its outputs: without
`mx.depends` from shard to shard it would hold them all at once.

N supervised tokens, D hidden size, V vocabulary, R rows of one shard of the head
"""

import math
from collections.abc import Sequence
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


def log_probabilities(hidden_ND: mx.array, head: Head, targets_N: mx.array, *, head_trains: bool) -> mx.array:
    """Of each target, nats, float32, (N,). The gradient reaches `hidden_ND` and, if it trains, the head with its bias.

    A logit's gradient is multiplied by its token's cotangent before it is rounded to 16 bits, so that a large cotangent
    keeps it from vanishing in float16. The backward pass sees weights as its inputs alone: memory is held by whoever
    names it, and old shards would stay when they are updated.
    """
    parts = _forward(hidden_ND, head, targets_N)
    normalizer, output = _normalizer(parts), head.output
    n_shards, bias = len(head.shards), [] if head.bias_V is None else [head.bias_V]

    def pull_back(primals: tuple[mx.array, list[mx.array]], cotangent_N: mx.array, _: mx.array) -> tuple[Any, Any]:
        hidden_ND, *weights = primals[1]
        slopes = _Slopes(parts, normalizer, output, -cotangent_N[:, None])
        of_hidden_ND, of_weights = _gradients(slopes, hidden_ND, weights[:n_shards], head_trains, weights[n_shards:])
        return mx.zeros_like(cotangent_N), [of_hidden_ND, *(of_weights or map(mx.zeros_like, weights))]

    function: Any = mx.custom_function(lambda logps_N, _: logps_N)
    function.vjp(pull_back)
    return function(mx.stop_gradient(_log_probabilities(parts, normalizer)), [hidden_ND, *head.shards, *bias])


def log_probabilities_alone(hidden_ND: mx.array, head: Head, targets_N: mx.array) -> mx.array:
    """The same where no gradient is wanted: nothing is kept of a shard but its sums."""
    parts = _forward(hidden_ND, head, targets_N)
    return _log_probabilities(parts, _normalizer(parts))


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


def _log_probabilities(parts: Sequence[_Part], normalizer: _Normalizer) -> mx.array:
    """Differences of logits first: with logits of 1e4, float32 has a thousandth left for a log-sum-exp."""
    return -((normalizer.reference - _target(parts)) + mx.log(normalizer.total))[:, 0]


class _Slopes(NamedTuple):
    """The gradient of the negative log-probabilities, each times its worth (N, 1), by the head's products."""

    parts: list[_Part]  # each is let go as it is used
    normalizer: _Normalizer
    output: Output
    worth: mx.array

    def of_shard(self, number: int, done: Sequence[mx.array]) -> mx.array:
        """(N, R), float32; not before `done` is computed.

        By the logits it is p, and p - 1 at the target. That one is made from the target's logit in float32: where p is
        nearly 1, p - 1 of a rounded p would be noise, and an exponential that became 0 does not know its logit.
        """
        part, normalizer = self.parts[number], self.normalizer
        self.parts[number] = part._replace(exponentials_NR=part.reference)
        (exponentials_NR,) = mx.depends([part.exponentials_NR], [*done])
        exponentials_NR = exponentials_NR.astype(mx.float32)
        # What was not kept comes back; without a soft cap no one asks for it and it is never computed.
        logits_NR = mx.log(mx.maximum(exponentials_NR, SMALLEST)) + part.reference
        factor = mx.exp(part.reference - normalizer.reference) / normalizer.total * self.worth
        slopes_NR = self.output.pull_back(exponentials_NR * factor, logits_NR)
        of_target = (mx.exp(part.target - normalizer.reference) / normalizer.total - 1) * self.worth
        unchanged = mx.take_along_axis(slopes_NR, part.place, axis=1)
        at_place = mx.where(part.inside, self.output.pull_back(of_target, part.target), unchanged)
        return mx.put_along_axis(slopes_NR, part.place, at_place, axis=1)


def _gradients(
    slopes: _Slopes, hidden_ND: mx.array, shards: Arrays, head_trains: bool, bias: Arrays
) -> tuple[mx.array, list[mx.array]]:
    """By the hidden states, and by the shards and the bias where the head trains, one shard after the other."""
    of_hidden_ND, of_shards, of_bias = mx.zeros(hidden_ND.shape), [], []
    done = [slopes.worth]
    for number, shard_RD in enumerate(shards):
        slopes_NR = slopes.of_shard(number, done)
        rounded_NR = slopes_NR.astype(hidden_ND.dtype)
        of_hidden_ND = of_hidden_ND + rounded_NR @ shard_RD
        done = [of_hidden_ND]
        if head_trains:
            of_bias.append(mx.sum(slopes_NR, axis=0))
            of_shards.append(rounded_NR.T @ hidden_ND)
            done.append(of_shards[-1])
    (of_hidden_ND,) = mx.depends([of_hidden_ND], done)
    of_bias = [mx.concatenate(of_bias).astype(each.dtype) for each in bias if head_trains]
    return of_hidden_ND.astype(hidden_ND.dtype), [*of_shards, *of_bias]
