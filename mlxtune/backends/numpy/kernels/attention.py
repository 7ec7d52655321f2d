"""Causal attention by blocks of queries, with grouped queries and an optional window.

Rows of one length are a *band*, whose arrays are computed together; a batch has a list of them.

P pairs of a row of a band and a key-value head, G queries a key head, T query tokens, M = T * G of them, S key tokens
(the last T of them are the queries'), h features a head. Queries of a key head are merged into rows of one matrix, so
that a group is one product. A block of queries is multiplied with no key that lies after it: half of the work of the
whole square.

Scores have the keys first, as the largest of each column is found several times faster than that of each row. The
softmax is not normalised where it is made: `weights` are exp(score - largest), and the sums divide the output.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from itertools import islice
from math import prod
from typing import NamedTuple

import numpy as np

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array, Workspace
from mlxtune.backends.numpy.blocks import QUERIES, query_blocks


class Heads(NamedTuple):
    """Queries are rotated and scaled, keys are rotated."""

    queries_PMh: Array
    keys_PSh: Array
    values_PSh: Array


class Block(NamedTuple):
    queries: slice  # of M
    keys: slice  # of S
    shape: tuple[int, int]  # of a pair's scores: how many keys, how many queries


class Blocks(NamedTuple):
    """Those of one band. n_scores, largest: of a pair's scores, in all blocks and in the largest."""

    each: tuple[Block, ...]
    n_scores: int
    largest: int


class Attention(NamedTuple):
    """What the backward pass needs besides the heads and the output."""

    blocks: Blocks
    weights_PSM: Sequence[Array]  # of each block
    sums_PM: Array


def attend(
    bands: Sequence[Heads], n_group: int, window: int | None, ws: Workspace, place: str | None
) -> tuple[Sequence[Array], list[Attention]]:
    """Each band's output, (P, M, h), and what backward needs.

    place: names where that is kept; without it all blocks have the memory of one.
    """
    blocks = [_blocks(b.queries_PMh.shape[1] // n_group, b.keys_PSh.shape[1], n_group, window) for b in bands]
    shapes = [band.queries_PMh.shape for band in bands]
    outs = ws.parts("attended_heads", tuple(shapes))
    sums = ws.parts(f"{place or ''}sums", tuple(shape[:2] for shape in shapes))
    rooms: Iterable[Sequence[Array]]
    if place is None:
        rooms = (_one_room("weights", len(out), of_band, ws) for out, of_band in zip(outs, blocks, strict=True))
    else:
        rooms = _rooms(f"{place}weights", bands, blocks, ws)
    kept = [Attention(*of_band) for of_band in zip(blocks, rooms, sums, strict=True)]
    for band, attention, out in zip(bands, kept, outs, strict=True):
        _attend(band, attention, n_group, window, out)
    return outs, kept


def _attend(heads: Heads, attention: Attention, n_group: int, window: int | None, out: Array) -> None:
    blocks, kept, sums = attention
    ones = np.ones(heads.keys_PSh.shape[1], out.dtype)  # a product with them sums faster than a reduction

    def attend_of(pairs: slice) -> None:
        queries, keys, values = (array[pairs] for array in heads)
        for (rows, columns, _), all_weights in zip(blocks.each, kept, strict=True):
            weights = all_weights[pairs]
            np.matmul(keys[:, columns], queries[:, rows].swapaxes(1, 2), out=weights)
            _hide(weights, n_group, window)
            weights -= np.maximum.reduce(weights, 1, keepdims=True)
            np.exp(weights, out=weights)
            np.matmul(ones[: weights.shape[1]], weights, out=sums[pairs, rows])
            np.matmul(weights.swapaxes(1, 2), values[:, columns], out=out[pairs, rows])
        np.divide(out[pairs], sums[pairs, :, None], out=out[pairs])

    threads.share(attend_of, len(out), len(out) * blocks.n_scores)


@lru_cache(1 << 12)
def _blocks(n_tokens: int, n_keys: int, n_group: int, window: int | None) -> Blocks:
    earlier = n_keys - n_tokens
    blocks = []
    for begin, end in query_blocks(n_tokens):
        low = 0 if window is None else max(0, earlier + begin - window + 1)
        shape = (earlier + end - low, (end - begin) * n_group)
        blocks.append(Block(slice(begin * n_group, end * n_group), slice(low, earlier + end), shape))
    sizes = [prod(block.shape) for block in blocks]
    return Blocks(tuple(blocks), sum(sizes), max(sizes))


def _rooms(name: str, bands: Sequence[Heads], blocks: Sequence[Blocks], ws: Workspace) -> Iterator[Sequence[Array]]:
    """Memory of its own for each block of each band."""
    pairs = [len(band.keys_PSh) for band in bands]
    shapes = ((n_pairs, *block.shape) for n_pairs, of_band in zip(pairs, blocks, strict=True) for block in of_band.each)
    parts = iter(ws.parts(name, tuple(shapes)))
    return ([*islice(parts, len(of_band.each))] for of_band in blocks)


def _one_room(name: str, n_pairs: int, blocks: Blocks, ws: Workspace) -> Sequence[Array]:
    """The same memory for all blocks; each pair has its own part of it, as threads may be at different blocks."""
    room = ws(name, n_pairs, blocks.largest)
    return [room[:, : prod(block.shape)].reshape(n_pairs, *block.shape) for block in blocks.each]


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
    """(QUERIES, QUERIES * G), added to the scores: -inf where the key comes after the query."""
    after = np.tril(np.full((QUERIES, QUERIES), -np.inf, np.float32), -1)
    return np.repeat(after, n_group, axis=1)


def attend_backward(
    gradients: Sequence[Array],
    products: Sequence[Array],
    bands: Sequence[Heads],
    kept: Sequence[Attention],
    ws: Workspace,
) -> list[tuple[Array, ...]]:
    """Gradients of the queries of each band, of the keys and of the values.

    gradients: of the outputs, overwritten. products: their dots with the outputs, (P, M), overwritten.
    With P = weights / sums: dV = P' g, dscores = P * (g V' - products), dQ = dscores K, dK = dscores' Q.
    """
    by_name = zip(("d_queries", "d_keys", "d_values"), zip(*bands, strict=True), strict=True)
    made = [ws.parts(name, tuple(array.shape for array in arrays)) for name, arrays in by_name]
    for band, attention, gradient, product, *into in zip(bands, kept, gradients, products, *made, strict=True):
        _attend_backward(band, attention, gradient, product, Heads(*into), ws)
    return made


def _attend_backward(
    heads: Heads, attention: Attention, gradient_PMh: Array, products_PM: Array, gradients: Heads, ws: Workspace
) -> None:
    blocks, (n_pairs, _, size) = attention.blocks, heads.keys_PSh.shape
    rooms, parts = _one_room("d_scores", n_pairs, blocks, ws), _parts(n_pairs, blocks.each, size, ws)

    def backward_of(pairs: slice) -> None:
        queries, keys, values = (array[pairs] for array in heads)
        d_queries, d_keys, d_values = (array[pairs] for array in gradients)
        gradient, products, sums = gradient_PMh[pairs], products_PM[pairs], attention.sums_PM[pairs]
        gradient /= sums[..., None]
        products /= sums
        if parts[-1] is not None:
            d_keys[...] = d_values[...] = 0.0
        for number in reversed(range(len(blocks.each))):
            (rows, columns, _), all_parts = blocks.each[number], parts[number]
            weights, scores = attention.weights_PSM[number][pairs], rooms[number][pairs]
            part = None if all_parts is None else all_parts[pairs]
            _write_or_add(weights, gradient[:, rows], d_values[:, columns], part)
            np.matmul(values[:, columns], gradient[:, rows].swapaxes(1, 2), out=scores)
            scores -= products[:, None, rows]
            scores *= weights
            np.matmul(scores.swapaxes(1, 2), keys[:, columns], out=d_queries[:, rows])
            _write_or_add(scores, queries[:, rows], d_keys[:, columns], part)

    threads.share(backward_of, n_pairs, n_pairs * blocks.n_scores)


def _parts(n_pairs: int, blocks: Sequence[Block], size: int, ws: Workspace) -> list[Array | None]:
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
