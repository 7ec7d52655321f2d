"""Bytes of a run on NumPy: what it holds, to the byte, and a bound of the arrays that it works in.

What is computed one after the other works in the same arrays: each grows to its largest use and is not given back, so
that the last moment is the largest. The sums below name what takes the most; tests hold them to what real runs take.
Intermediates that live within one expression are not counted.

D hidden size, F features of the MLP, Q features of a token's queries, K of its keys, and of its values
"""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from mlxtune.backends.numpy.blocks import logit_tokens, query_blocks
from mlxtune.backends.numpy.layout import FLOAT_BYTES
from mlxtune.memory.parts import Parts
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models.dimensions import Dimensions

Lengths = Sequence[int]  # of the rows of a batch


class Extent(NamedTuple):
    """What the arrays of batches grow with, the largest of each."""

    tokens: int  # that are read, of all rows
    band: int  # of rows of one length side by side, which rotation and attention take together
    scores: int  # of such rows, for one head and one block of queries


def moments(setup: Setup, rows: Rows, evaluated: Rows | None, kept_tokens: int = 0) -> dict[str, Parts]:
    """What is held at each moment of a run that can be its largest.

    evaluated: the largest batch of the validation; None where there is none. kept_tokens: see `resident`. Attention is
    taken to see all keys: with a window it takes less.
    """
    held = resident(setup, kept_tokens)
    found = {"step": held.plus(_working(setup, rows, []))}
    if evaluated is not None:
        found["evaluation"] = held.plus(_working(setup, rows, [evaluated]))
    if setup.sampled_tokens:
        prompt, caches = rows_of([setup.sampled_tokens + 1], 1, 1), FLOAT_BYTES * setup.cached_elements
        found["sample"] = held.plus(_working(setup, rows, [prompt])).plus(Parts(activations=caches))
    return found


def resident(setup: Setup, kept_tokens: int = 0) -> Parts:
    """What is there between two steps, but for working arrays.

    The buffers of gradients are there from the start, and frozen layers stay even where their output is kept.
    kept_tokens: read in the distinct rows whose frozen layers' output is kept, of training and validation.
    """
    trained, frozen = _trained(setup), _frozen(setup)
    masters = 0 if setup.selection.adapters else setup.optimizer.master_bytes
    return Parts(
        frozen_weights=FLOAT_BYTES * frozen,
        trainable_weights=FLOAT_BYTES * trained,
        gradients=FLOAT_BYTES * trained * (2 if setup.accumulates else 1),
        optimizer=(setup.optimizer.slot_bytes + masters) * trained,
        data=FLOAT_BYTES * kept_tokens * setup.dimensions.hidden_size,
    )


def _trained(setup: Setup) -> int:
    """Elements."""
    base, selection = setup.anatomy.parameters, setup.selection
    untied_head = base[setup.anatomy.embedding].size if selection.untie_head else 0
    adapters = sum(adapter.size for adapter in selection.adapters)
    return sum(base[name].size for name in selection.train) + adapters + untied_head


def _frozen(setup: Setup) -> int:
    trains = frozenset(setup.selection.train)
    return sum(parameter.size for name, parameter in setup.anatomy.parameters.items() if name not in trains)


def _working(setup: Setup, rows: Rows, evaluated: list[Rows]) -> Parts:
    """Of a run that trains on such rows, and evaluates those."""
    batches = [rows, *evaluated]
    layers = (
        _passing(setup, [batch.lengths for batch in batches])
        + _training(setup, rows.lengths)
        + _adapters(setup, sum(rows.lengths), max(sum(batch.lengths) for batch in batches))
    )
    head = _head(setup.dimensions, rows.n_supervised, max(batch.n_supervised for batch in batches))
    return Parts(activations=FLOAT_BYTES * layers, head_loss=FLOAT_BYTES * head)


def _passing(setup: Setup, batches: list[Lengths]) -> int:
    """What enters the layers that train, and what no layer keeps. batches: the first is trained on."""
    d, first, last = setup.dimensions, setup.selection.first_layer, len(setup.anatomy.layers) - 1
    computes_again, at_once = setup.decisions.checkpoints and first < last, first > 0 and setup.row_threads is None
    mine, *others = _shares(batches, setup.row_threads) if first > 0 and setup.row_threads else [[]]
    unkept = [*(batches if computes_again or at_once else batches[1:]), *mine]
    entered = sum(d.hidden_size * _extent(each).tokens for each in (batches, mine, *others))
    return entered + _pass(d, batches, unkept) + sum(_pass(d, share, share) for share in others)


def _shares(batches: list[Lengths], n_threads: int) -> list[list[Lengths]]:
    """Of each thread its longest row of each batch: rows pass the frozen layers alone where the output is kept.

    The first thread works in the model's arrays, each other in its own.
    """
    return [[(max(rows),) for batch in batches if (rows := batch[n::n_threads])] for n in range(n_threads)]


def _pass(d: Dimensions, batches: list[Lengths], unkept: list[Lengths]) -> int:
    """What each layer writes anew; and the inside and the output of layers that keep neither."""
    D, F, Q, K = _widths(d)
    every, some = _extent(batches), _extent(unkept)
    qkv = Q + K if d.qk_norm else Q + 2 * K  # queries and keys, normalised; or all three, out of their product
    anew = every.tokens * (D + F + Q + Q + K + qkv)  # normalised, activated, attended by heads, rotated
    outputs = 2 * D * some.tokens  # of one layer and of the next
    return anew + (Q + K) * every.band + outputs + _inside(d, some.tokens, some.scores)


def _inside(d: Dimensions, n_tokens: int, n_scores: int) -> int:
    """What the backward pass wants of a layer, besides its input."""
    D, F, Q, K = _widths(d)
    attention = Q + 2 * K + d.n_heads + Q  # queries, keys, values by heads; sums of the softmax; attended
    product = Q + 2 * K if d.qk_norm else 0  # of queries, keys, values, before they are normalised
    return n_tokens * (attention + product + D + 3 * F) + d.n_heads * n_scores  # between; gate, up, sigmoid


def _training(setup: Setup, lengths: Lengths) -> int:
    """What the layers that train keep, and the gradients inside one."""
    d, n_layers = setup.dimensions, len(setup.anatomy.layers) - setup.selection.first_layer
    D, F, Q, K = _widths(d)
    n, band, scores = _extent([lengths])
    inside = _inside(d, n, sum(sum(_scores(n_tokens)) for n_tokens in lengths))
    kept = n_layers * D * n + inside * (1 if setup.decisions.checkpoints else n_layers)
    mlp = 3 * F + 2 * D  # activated, gate, up, normalised; the layer's output
    attention = 4 * Q + 4 * K  # attended, also by heads; queries, keys, values by heads, and before
    return kept + n * (mlp + attention) + K * band + d.n_heads * scores


def _adapters(setup: Setup, n_trained: int, n_tokens: int) -> int:
    """Their low-rank products and what these add, forward and backward; a mask of dropout."""
    adapters = setup.selection.adapters
    rank = max((adapter.settings.rank for adapter in adapters), default=0)
    n_in = max((adapter.shape[0] for adapter in adapters), default=0)
    n_out = max((adapter.shape[1] for adapter in adapters), default=0)
    mask = n_in if any(adapter.settings.dropout for adapter in adapters) else 0
    return n_tokens * (rank + n_out) + n_trained * (rank + n_in + mask)


def _head(d: Dimensions, n_trained: int, n_supervised: int) -> int:
    """Hidden states of the tokens that carry loss, before and after the norm, their gradients; logits of a part."""
    logits = min(n_supervised, logit_tokens(d.vocab_size)) * d.vocab_size
    return d.hidden_size * (2 * n_trained + n_supervised) + logits


def _widths(d: Dimensions) -> tuple[int, int, int, int]:
    """D, F, Q, K"""
    return d.hidden_size, d.intermediate_size, d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim


def _extent(batches: Iterable[Lengths]) -> Extent:
    found = [Extent(0, 0, 0)]
    for lengths in batches:
        bands = [[*rows] for _, rows in groupby(lengths)]
        scores = (len(band) * max(_scores(band[0])) for band in bands)
        found.append(Extent(sum(lengths), max(map(sum, bands)), max(scores)))
    return Extent(*map(max, zip(*found, strict=True)))


def _scores(n_tokens: int) -> list[int]:
    """Of one row and head: those of each block of queries, which see the keys up to the last of them."""
    return [(end - begin) * end for begin, end in query_blocks(n_tokens)]
