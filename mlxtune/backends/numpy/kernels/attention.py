"""Causal attention by blocks of queries, with grouped queries and an optional window.

P pairs of a row and a key-value head, G queries a key head, T query tokens, M = T * G of them, S key tokens (the last T
of them are the queries'), h features a head. Queries of a key head are merged into rows of one matrix, so that a group
is one product. A block of queries is multiplied with no key that lies after it: half of the work of the whole square.

Scores have the keys first, as the largest of each column is found several times faster than that of each row. The
softmax is not normalised where it is made: `weights` are exp(score - largest), and the sums divide the output.
"""

from functools import cache
from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array, Workspace

BLOCK = 64  # queries; the triangle of one block that is computed for nothing is then small


class Heads(NamedTuple):
    """Queries are rotated and scaled, keys are rotated."""

    queries_PMh: Array
    keys_PSh: Array
    values_PSh: Array


class Block(NamedTuple):
    queries: slice  # of M
    keys: slice  # of S

    @property
    def shape(self) -> tuple[int, int]:
        """Of a pair's scores: how many keys, how many queries."""
        return self.keys.stop - self.keys.start, self.queries.stop - self.queries.start


class Attention(NamedTuple):
    """What the backward pass needs besides the heads and the output."""

    blocks: list[Block]
    weights_PSM: list[Array]  # of each block
    sums_PM: Array


def attend(heads: Heads, n_group: int, window: int | None, ws: Workspace, place: str | None) -> tuple[Array, Attention]:
    """The output, (P, M, h), and what backward needs if `place` names where to keep it: else one block's memory."""
    (n_pairs, n_queries, size), n_keys = heads.queries_PMh.shape, heads.keys_PSh.shape[1]
    out, sums = ws("attended_heads", n_pairs, n_queries, size), ws(f"{place or ''}sums", n_pairs, n_queries)
    blocks = _blocks(n_queries // n_group, n_keys, n_group, window)
    kept = _one_room("weights", n_pairs, blocks, ws) if place is None else _rooms(place, n_pairs, blocks, ws)
    ones = np.ones(n_keys, ws.dtype)  # a product with them sums faster than a reduction

    def attend_of(pairs: slice) -> None:
        queries, keys, values = (array[pairs] for array in heads)
        for (rows, columns), all_weights in zip(blocks, kept, strict=True):
            weights = all_weights[pairs]
            np.matmul(keys[:, columns], queries[:, rows].swapaxes(1, 2), out=weights)
            _hide(weights, n_group, window)
            weights -= np.maximum.reduce(weights, 1, keepdims=True)
            np.exp(weights, out=weights)
            np.matmul(ones[: weights.shape[1]], weights, out=sums[pairs, rows])
            np.matmul(weights.swapaxes(1, 2), values[:, columns], out=out[pairs, rows])
        np.divide(out[pairs], sums[pairs, :, None], out=out[pairs])

    threads.share(attend_of, n_pairs, _n_scores(heads, blocks))
    return out, Attention(blocks, kept, sums)


def _blocks(n_tokens: int, n_keys: int, n_group: int, window: int | None) -> list[Block]:
    earlier = n_keys - n_tokens
    blocks = []
    for begin in range(0, n_tokens, BLOCK):
        end = min(begin + BLOCK, n_tokens)
        low = 0 if window is None else max(0, earlier + begin - window + 1)
        blocks.append(Block(slice(begin * n_group, end * n_group), slice(low, earlier + end)))
    return blocks


def _n_scores(heads: Heads, blocks: list[Block]) -> int:
    return sum(len(heads.keys_PSh) * n_keys * n_queries for n_keys, n_queries in (block.shape for block in blocks))


def _rooms(place: str, n_pairs: int, blocks: list[Block], ws: Workspace) -> list[Array]:
    return [ws(f"{place}weights{number}", n_pairs, *block.shape) for number, block in enumerate(blocks)]


def _one_room(name: str, n_pairs: int, blocks: list[Block], ws: Workspace) -> list[Array]:
    """The same memory for all blocks; each pair has its own part of it, as threads may be at different blocks."""
    sizes = [n_keys * n_queries for n_keys, n_queries in (block.shape for block in blocks)]
    room = ws(name, n_pairs, max(sizes))
    return [room[:, :size].reshape(n_pairs, *block.shape) for size, block in zip(sizes, blocks, strict=True)]


def _hide(scores_PSM: Array, n_group: int, window: int | None) -> None:
    """Scores of keys after the query, or too far before it, become -inf. The last key is the last query's."""
    _, n_keys, n_queries = scores_PSM.shape
    n_tokens = n_queries // n_group
    first = n_keys - n_tokens  # the key of the first query
    if n_tokens > 1:
        scores_PSM[:, first:] += _after(n_group)[:n_tokens, :n_queries]
    if window is not None and n_keys > window:
        distance = first + np.arange(n_queries) // n_group - np.arange(n_keys)[:, None]
        np.copyto(scores_PSM, -np.inf, where=distance >= window)


@cache
def _after(n_group: int) -> Array:
    """(BLOCK, BLOCK * G), added to the scores: -inf where the key comes after the query."""
    after = np.tril(np.full((BLOCK, BLOCK), -np.inf, np.float32), -1)
    return np.repeat(after, n_group, axis=1)


def attend_backward(
    gradient_PMh: Array, products_PM: Array, heads: Heads, attention: Attention, ws: Workspace
) -> Heads:
    """Gradients of queries, keys and values. gradient: of the output, overwritten. products: its dot with the output.

    With P = weights / sums: dV = P' g, dscores = P * (g V' - products), dQ = dscores K, dK = dscores' Q.
    """
    shapes = {"d_queries": heads.queries_PMh.shape, "d_keys": heads.keys_PSh.shape, "d_values": heads.values_PSh.shape}
    gradients = Heads(*(ws(name, *shape) for name, shape in shapes.items()))
    blocks, (n_pairs, _, size) = attention.blocks, heads.keys_PSh.shape
    rooms, parts = _one_room("d_scores", n_pairs, blocks, ws), _parts(n_pairs, blocks, size, ws)

    def backward_of(pairs: slice) -> None:
        queries, keys, values = (array[pairs] for array in heads)
        d_queries, d_keys, d_values = (array[pairs] for array in gradients)
        gradient, products, sums = gradient_PMh[pairs], products_PM[pairs], attention.sums_PM[pairs]
        gradient /= sums[..., None]
        products /= sums
        if parts[-1] is not None:
            d_keys[...] = d_values[...] = 0.0
        for number in reversed(range(len(blocks))):
            (rows, columns), all_parts = blocks[number], parts[number]
            weights, scores = attention.weights_PSM[number][pairs], rooms[number][pairs]
            part = None if all_parts is None else all_parts[pairs]
            _write_or_add(weights, gradient[:, rows], d_values[:, columns], part)
            np.matmul(values[:, columns], gradient[:, rows].swapaxes(1, 2), out=scores)
            scores -= products[:, None, rows]
            scores *= weights
            np.matmul(scores.swapaxes(1, 2), keys[:, columns], out=d_queries[:, rows])
            _write_or_add(scores, queries[:, rows], d_keys[:, columns], part)

    threads.share(backward_of, n_pairs, _n_scores(heads, blocks))
    return gradients


def _parts(n_pairs: int, blocks: list[Block], size: int, ws: Workspace) -> list[Array | None]:
    """Memory for what each block adds to the gradients of keys and values.

    None for the last where it sees all keys, as it does but for a window: it goes first, and what it gives is written.
    """
    covers = blocks[-1].keys.start == 0
    adding = blocks[:-1] if covers else blocks
    if not adding:
        return [None]
    room = ws("d_part", n_pairs, max(block.shape[0] for block in adding), size)
    return [*(room for _ in adding), *([None] if covers else [])]


def _write_or_add(left_PSM: Array, right_PMh: Array, out_PSh: Array, part_PSh: Array | None) -> None:
    """out = left @ right, or, with memory for the product, added to it."""
    if part_PSh is None:
        np.matmul(left_PSM, right_PMh, out=out_PSh)
    else:
        out_PSh += np.matmul(left_PSM, right_PMh, out=part_PSh[:, : out_PSh.shape[1]])
