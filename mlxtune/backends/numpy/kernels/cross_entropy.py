"""The head and the loss in one: logits, log-probabilities of targets, and the gradient, in one buffer of logits.

N supervised tokens, D features, V vocabulary. A chunk's logits are turned into their own gradient in place.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy import blocks, threads
from mlxtune.backends.numpy.arrays import Array, Workspace

BLOCK_ELEMENTS = 1 << 18  # logits that stay in the cache while they are worked on
MERGE_ELEMENTS = 1 << 22  # of the head's gradient at once, where a second chunk is added to it


class Worth(NamedTuple):
    """slopes: what the log-probabilities of these tokens of the batch are worth, the derivative of the loss by each.

    is_pointwise: it can be asked of some of the tokens, else of all at once.
    """

    slopes: Callable[[Array, slice], Array]
    is_pointwise: bool


class Block(NamedTuple):
    """A few rows; their logits become what they are asked for, in place."""

    logits_NV: Array
    targets_N: Array


def log_probabilities(hidden_ND: Array, head_VD: Array, targets_N: Array, ws: Workspace) -> Array:
    """Of each target, nats, (N,)."""
    logps_N = np.empty(len(hidden_ND), hidden_ND.dtype)
    for rows in _chunks(len(hidden_ND), len(head_VD)):
        logits_NV = _logits(hidden_ND[rows], head_VD, ws)
        logps_N[rows] = _joined(threads.each(_block, _blocks(logits_NV, targets_N[rows])))[0]
    return logps_N


def log_probabilities_and_gradients(
    hidden_ND: Array, head_VD: Array, targets_N: Array, worth: Worth, head_gradient_VD: Array | None, ws: Workspace
) -> tuple[Array, Array]:
    """The log-probabilities, and the gradient of what they are worth: of the hidden states, and written for the head.

    dlogits = slope * (onehot - softmax) = factor * (exponentials - sum * onehot), factor = -slope / sum

    The factor is a token's, and is put on the (N, D) arrays instead of the (N, V) one: hidden_ND is overwritten.
    """
    logps_N, gradient_ND = np.empty(len(hidden_ND), hidden_ND.dtype), ws("d_hidden", *hidden_ND.shape)
    chunks, slopes_N = _chunks(len(hidden_ND), len(head_VD)), None
    if not worth.is_pointwise and chunks[1:]:  # the logits of all chunks are not there at once
        slopes_N = worth.slopes(log_probabilities(hidden_ND, head_VD, targets_N, ws), slice(None))
    for rows in chunks:
        logits_NV = _logits(hidden_ND[rows], head_VD, ws)
        logps_N[rows], sums_N = _joined(threads.each(_turned, _blocks(logits_NV, targets_N[rows])))
        slopes = worth.slopes(logps_N[rows], rows) if slopes_N is None else slopes_N[rows]
        factors_N1 = np.divide(-slopes, sums_N, out=sums_N)[:, None]
        np.matmul(logits_NV, head_VD, out=gradient_ND[rows])
        gradient_ND[rows] *= factors_N1
        if head_gradient_VD is not None:
            hidden_ND[rows] *= factors_N1
            _write_or_add(logits_NV, hidden_ND[rows], head_gradient_VD, add=rows.start > 0)
    return logps_N, gradient_ND


def _logits(hidden_ND: Array, head_VD: Array, ws: Workspace) -> Array:
    return np.matmul(hidden_ND, head_VD.T, out=ws("logits", len(hidden_ND), len(head_VD)))


def _block(block: Block) -> tuple[Array, Array]:
    """exp(logit - largest) in place; the log-probabilities and the sums of the exponentials, (N,) each."""
    logits_NV, targets_N = block
    logits_NV -= logits_NV.max(-1, keepdims=True)
    of_targets_N = logits_NV[np.arange(len(logits_NV)), targets_N]
    np.exp(logits_NV, out=logits_NV)
    sums_N = logits_NV.sum(-1)
    return of_targets_N - np.log(sums_N), sums_N


def _turned(block: Block) -> tuple[Array, Array]:
    """The same, and the exponentials less their sum at the target."""
    logps_N, sums_N = _block(block)
    block.logits_NV[np.arange(len(sums_N)), block.targets_N] -= sums_N
    return logps_N, sums_N


def _joined(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    logps, sums = zip(*parts, strict=True)
    return np.concatenate(logps), np.concatenate(sums)


def _chunks(n_tokens: int, n_vocabulary: int) -> list[slice]:
    step = blocks.logit_tokens(n_vocabulary)
    return [slice(start, min(start + step, n_tokens)) for start in range(0, n_tokens, step)]


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
