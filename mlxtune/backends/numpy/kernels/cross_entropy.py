"""The head and the loss in one: logits, their cross-entropy, and the gradient, in one buffer of logits.

N supervised tokens, D features, V vocabulary. A chunk's logits are turned into their own gradient in place.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array, Workspace

CHUNK_ELEMENTS = 1 << 25  # logits at once: 128 MiB, 1,048 tokens of a vocabulary of 32,000
BLOCK_ELEMENTS = 1 << 18  # logits that stay in the cache while they are worked on
MERGE_ELEMENTS = 1 << 22  # of the head's gradient at once, where a second chunk is added to it


class Block(NamedTuple):
    """A few rows; their logits become what they are asked for, in place."""

    logits_NV: Array
    targets_N: Array


def loss_sum(hidden_ND: Array, head_VD: Array, targets_N: Array, ws: Workspace) -> float:
    """The summed cross-entropy, nats."""
    total = 0.0
    for rows in _chunks(len(hidden_ND), len(head_VD)):
        logits_NV = _logits(hidden_ND[rows], head_VD, ws)
        total += sum(threads.each(_block_loss, _blocks(logits_NV, targets_N[rows])))
    return total


def loss_sum_and_gradients(
    hidden_ND: Array, head_VD: Array, targets_N: Array, scale: float, head_gradient_VD: Array | None, ws: Workspace
) -> tuple[float, Array]:
    """The summed loss, and the gradient of `scale` times it: of the hidden states, and written for the head.

    dlogits = scale * (softmax - onehot) = factor * (exponentials - sum * onehot), factor = scale / sum

    The factor is a token's, and is put on the (N, D) arrays instead of the (N, V) one: hidden_ND is overwritten.
    """
    total, gradient_ND = 0.0, ws("d_hidden", *hidden_ND.shape)

    def turn(block: Block) -> tuple[float, Array]:
        sums_N, loss = _exponentials(*block)
        block.logits_NV[np.arange(len(sums_N)), block.targets_N] -= sums_N
        return loss, np.divide(scale, sums_N, out=sums_N)

    for rows in _chunks(len(hidden_ND), len(head_VD)):
        logits_NV = _logits(hidden_ND[rows], head_VD, ws)
        losses, factors = zip(*threads.each(turn, _blocks(logits_NV, targets_N[rows])), strict=True)
        total, factors_N1 = total + sum(losses), np.concatenate(factors)[:, None]
        np.matmul(logits_NV, head_VD, out=gradient_ND[rows])
        gradient_ND[rows] *= factors_N1
        if head_gradient_VD is not None:
            hidden_ND[rows] *= factors_N1
            _write_or_add(logits_NV, hidden_ND[rows], head_gradient_VD, add=rows.start > 0)
    return total, gradient_ND


def _logits(hidden_ND: Array, head_VD: Array, ws: Workspace) -> Array:
    return np.matmul(hidden_ND, head_VD.T, out=ws("logits", len(hidden_ND), len(head_VD)))


def _exponentials(logits_NV: Array, targets_N: Array) -> tuple[Array, float]:
    """exp(logit - largest) in place; their sums, (N,), and the summed loss."""
    logits_NV -= logits_NV.max(-1, keepdims=True)
    of_targets = float(logits_NV[np.arange(len(logits_NV)), targets_N].sum())
    np.exp(logits_NV, out=logits_NV)
    sums_N = logits_NV.sum(-1)
    return sums_N, float(np.log(sums_N).sum()) - of_targets


def _chunks(n_tokens: int, n_vocabulary: int) -> list[slice]:
    step = max(1, CHUNK_ELEMENTS // n_vocabulary)
    return [slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step)]


def _block_loss(block: Block) -> float:
    return _exponentials(*block)[1]


def _blocks(logits_NV: Array, targets_N: Array) -> list[Block]:
    step = max(1, BLOCK_ELEMENTS // logits_NV.shape[1])
    return [
        Block(logits_NV[start : start + step], targets_N[start : start + step])
        for start in range(0, len(targets_N), step)
    ]


def _write_or_add(d_logits_NV: Array, hidden_ND: Array, out_VD: Array, add: bool) -> None:
    if not add:
        np.matmul(d_logits_NV.T, hidden_ND, out=out_VD)
        return
    step = max(1, MERGE_ELEMENTS // out_VD.shape[1])
    for start in range(0, len(out_VD), step):
        out_VD[start : start + step] += d_logits_NV[:, start : start + step].T @ hidden_ND
