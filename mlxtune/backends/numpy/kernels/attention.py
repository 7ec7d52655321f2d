"""Causal attention by blocks of queries, with grouped queries and an optional window.

B rows, T query tokens, S key tokens (the last T of them are the queries'), K key-value heads, G queries a key head,
h features a head. Queries of a key head are merged into rows of one matrix, (T, G) -> T * G, so that a group is one
product. A block of queries is multiplied with no key that lies after it: half of the work of the whole square.

The softmax is not normalised where it is made: `weights` are exp(score - largest), and the sums divide the output.
"""

from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy.arrays import Array, Workspace

BLOCK = 64  # queries; the triangle of one block that is computed for nothing is then small
AFTER = np.triu(np.full((BLOCK, BLOCK), -np.inf, np.float32), 1)  # added to the scores of keys after the query


class Heads(NamedTuple):
    """Queries are rotated and scaled, keys are rotated."""

    queries_BKMh: Array  # M is T * G
    keys_BKSh: Array
    values_BKSh: Array


class Block(NamedTuple):
    queries: slice  # of M
    keys: slice  # of S
    weights: Array  # (B, K, queries, keys)


class Attention(NamedTuple):
    """What the backward pass needs besides the heads and the output."""

    blocks: list[Block]
    sums_BKM1: Array


def attend(heads: Heads, n_group: int, window: int | None, ws: Workspace, place: str | None) -> tuple[Array, Attention]:
    """The output, (B, K, M, h), and what backward needs if `place` names where to keep it: else one block's memory."""
    queries, keys, values = heads
    shape_BKM = queries.shape[:-1]
    out, sums = ws("attended_heads", *queries.shape), ws(f"{place or ''}sums", *shape_BKM, 1)
    ones = np.ones((keys.shape[2], 1), keys.dtype)  # a product with them sums four times as fast as a reduction
    blocks = []
    n_tokens = queries.shape[2] // n_group
    earlier = keys.shape[2] - n_tokens
    for begin in range(0, n_tokens, BLOCK):
        end = min(begin + BLOCK, n_tokens)
        low = 0 if window is None else max(0, earlier + begin - window + 1)
        rows, columns = slice(begin * n_group, end * n_group), slice(low, earlier + end)
        name = "weights" if place is None else f"{place}weights{begin}"
        weights = ws(name, *shape_BKM[:2], rows.stop - rows.start, columns.stop - low)
        np.matmul(queries[:, :, rows], keys[:, :, columns].swapaxes(-1, -2), out=weights)
        _hide(weights.reshape(*shape_BKM[:2], end - begin, n_group, -1), earlier + begin - low, window)
        weights -= weights.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        np.matmul(weights, ones[: weights.shape[-1]], out=sums[:, :, rows])
        np.matmul(weights, values[:, :, columns], out=out[:, :, rows])
        blocks.append(Block(rows, columns, weights))
    out /= sums
    return out, Attention(blocks, sums)


def _hide(scores_BKTGS: Array, first: int, window: int | None) -> None:
    """Scores of keys after the query, or too far before it, become -inf. first: the column of the first query."""
    n_tokens = scores_BKTGS.shape[2]
    if n_tokens > 1:
        scores_BKTGS[..., first:] += AFTER[:n_tokens, None, :n_tokens]
    if window is not None and first + n_tokens > window:
        distance = first + np.arange(n_tokens)[:, None] - np.arange(scores_BKTGS.shape[-1])
        np.copyto(scores_BKTGS, -np.inf, where=(distance >= window)[:, None, :])


def attend_backward(
    gradient_BKMh: Array, products_BKM1: Array, heads: Heads, attention: Attention, ws: Workspace
) -> Heads:
    """Gradients of queries, keys and values. gradient: of the output, overwritten. products: its dot with the output.

    With P = weights / sums: dV = P' g, dscores = P * (g V' - products), dQ = dscores K, dK = dscores' Q.
    """
    queries, keys, values = heads
    gradient_BKMh /= attention.sums_BKM1
    products_BKM1 /= attention.sums_BKM1
    gradients = Heads(ws("d_queries", *queries.shape), ws("d_keys", *keys.shape), ws("d_values", *values.shape))
    covered = False
    for rows, columns, weights in reversed(attention.blocks):  # the last block sees all keys, but for a window
        gradient = gradient_BKMh[:, :, rows]
        if not covered and columns.start > 0:
            gradients.keys_BKSh[...] = gradients.values_BKSh[...] = 0.0
            covered = True
        _write_or_add(weights, gradient, gradients.values_BKSh[:, :, columns], covered, ws)
        scores = np.matmul(gradient, values[:, :, columns].swapaxes(-1, -2), out=ws("d_scores", *weights.shape))
        scores -= products_BKM1[:, :, rows]
        scores *= weights
        np.matmul(scores, keys[:, :, columns], out=gradients.queries_BKMh[:, :, rows])
        _write_or_add(scores, queries[:, :, rows], gradients.keys_BKSh[:, :, columns], covered, ws)
        covered = True
    return gradients


def _write_or_add(left: Array, right: Array, out: Array, add: bool, ws: Workspace) -> None:
    """out = left' @ right, or added to it."""
    if add:
        out += np.matmul(left.swapaxes(-1, -2), right, out=ws("d_part", *out.shape))
    else:
        np.matmul(left.swapaxes(-1, -2), right, out=out)
