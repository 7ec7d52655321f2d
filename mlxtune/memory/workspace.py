"""The working arrays of the NumPy backend, name by name: what its Workspace grows to, without an array.

The functions have the names and the order of those in `backends.numpy` (model, prefix, layer, kernels), and yield what
these take from the Workspace: (name, elements). Where one there takes a name, one here must yield it.

N tokens that are read, of all rows, T of one, D hidden size, F features of the MLP, H heads, K key-value heads, h head
size, O = H h, S supervised tokens, V vocabulary
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from mlxtune.adapters.adapter import Adapter
from mlxtune.memory.setup import Rows, Setup
from mlxtune.models.dimensions import Dimensions

if TYPE_CHECKING:
    from mlxtune.backends.numpy.kernels.lora import Work

Asked = Iterator[tuple[str, int]]

ONE_PLACE = "again."  # as backends.numpy.model, of which importing it would import NumPy
OF_THE_HEAD = ("chosen", "final", "logits", "d_hidden")


class Layer(NamedTuple):
    """What the layers of a model may differ in: the adapters of each joined product, and more."""

    qkv: tuple[Adapter, ...]
    output: tuple[Adapter, ...]
    gate_up: tuple[Adapter, ...]
    down: tuple[Adapter, ...]
    window: int | None
    through: bool  # whether the gradient of its input is wanted


class Pass(NamedTuple):
    """One pass over a batch."""

    d: Dimensions
    lengths: Sequence[int]  # T of each row
    drops: bool  # in training

    @property
    def n_places(self) -> int:
        """N"""
        return sum(self.lengths)

    @property
    def bands(self) -> list[tuple[int, int]]:
        """Rows of one length, side by side: how many, and T."""
        return [(len([*rows]), n_tokens) for n_tokens, rows in groupby(self.lengths)]


class Block(NamedTuple):
    """Queries of the attention that are computed at once, and the keys that they see."""

    begin: int
    end: int
    low: int  # the first key; the last is that of the last query
    adds: bool  # in the backward pass, to what other blocks gave the keys

    @property
    def scores(self) -> int:
        """Of one row and head."""
        return (self.end - self.begin) * (self.end - self.low)


def largest(asked: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The size that each array grows to.

    >>> largest([("normed", 8), ("logits", 5), ("normed", 6)])
    {'normed': 8, 'logits': 5}
    """
    found: dict[str, int] = {}
    for name, size in asked:
        found[name] = max(size, found.get(name, 0))
    return found


def loss_and_gradients(setup: Setup, rows: Rows, windows: Sequence[int | None]) -> Asked:
    """A micro-batch of a step. windows: of each layer; none where empty."""
    layers, first = _layers(setup, windows), setup.selection.first_layer
    p = Pass(setup.dimensions, rows.lengths, drops=True)
    yield from _hidden(setup, layers[:first], p)
    last = len(layers) - 1
    for number in range(first, last + 1):
        again = setup.decisions.checkpoints and number < last
        place = ONE_PLACE if setup.decisions.checkpoints and not again else f"{number}."
        yield from _forward(layers[number], p, place, keep=not again)
    yield from _head(rows.n_supervised, p)
    for layer in layers[first:]:
        if setup.decisions.checkpoints:
            yield from _inside(layer, p, ONE_PLACE)  # keep_again; for the last layer it was asked before
        yield from _backward(layer, p)


def loss(setup: Setup, rows: Rows, windows: Sequence[int | None]) -> Asked:
    """A batch of the validation."""
    layers, first = _layers(setup, windows), setup.selection.first_layer
    p = Pass(setup.dimensions, rows.lengths, drops=False)
    yield from _hidden(setup, layers[:first], p)
    yield from _run(layers, p, first, len(layers))
    yield "final", rows.n_supervised * p.d.hidden_size
    yield from _logits(rows.n_supervised, p.d.vocab_size)


def _layers(setup: Setup, windows: Sequence[int | None]) -> list[Layer]:
    return [_layer(setup, number, windows[number] if windows else None) for number in range(len(setup.anatomy.layers))]


def _layer(setup: Setup, number: int, window: int | None) -> Layer:
    selection, prefix = setup.selection, setup.anatomy.layers[number]
    adapters = {a.module.removeprefix(prefix): a for a in selection.adapters if a.module.startswith(prefix)}
    before = setup.anatomy.embedding in selection.train or number > selection.first_layer
    return Layer(
        qkv=tuple(adapters[name] for name in QKV if name in adapters),
        output=tuple(adapters[name] for name in OUTPUT if name in adapters),
        gate_up=tuple(adapters[name] for name in GATE_UP if name in adapters),
        down=tuple(adapters[name] for name in DOWN if name in adapters),
        window=window,
        through=before or f"{prefix}input_layernorm.weight" in selection.train,
    )


QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
OUTPUT, GATE_UP, DOWN = ("self_attn.o_proj",), ("mlp.gate_proj", "mlp.up_proj"), ("mlp.down_proj",)


def _hidden(setup: Setup, frozen: Sequence[Layer], p: Pass) -> Asked:
    """prefix.py: without frozen layers the embedding alone; else at once, or by rows, each thread in its own arrays."""
    if not frozen:
        yield "embedded", p.n_places * p.d.hidden_size
        return
    if setup.row_threads is None:
        yield "embedded", p.n_places * p.d.hidden_size
        yield from _run(frozen, p._replace(drops=False), 0, len(frozen))
        return
    yield "prefix", p.n_places * p.d.hidden_size
    for number in range(min(setup.row_threads, len(p.lengths))):
        longest = Pass(p.d, [max(p.lengths[number :: setup.row_threads])], drops=False)
        of_thread = f"thread{number}." if number > 0 else ""
        yield f"{of_thread}embedded", longest.n_places * p.d.hidden_size
        yield from ((f"{of_thread}{name}", size) for name, size in _run(frozen, longest, 0, len(frozen)))


def _run(layers: Sequence[Layer], p: Pass, first: int, last: int) -> Asked:
    for number in range(first, last):
        yield from _forward(layers[number], p, f"passing{number % 2}.", keep=False)


def _head(n_supervised: int, p: Pass) -> Asked:
    """model.py, and cross_entropy.py's loss_sum_and_gradients."""
    yield "chosen", n_supervised * p.d.hidden_size
    yield "final", n_supervised * p.d.hidden_size
    yield "d_hidden", n_supervised * p.d.hidden_size
    yield from _logits(n_supervised, p.d.vocab_size)
    yield "gradient", p.n_places * p.d.hidden_size


def _logits(n_supervised: int, vocabulary: int) -> Asked:
    """cross_entropy.py: a chunk of them."""
    from mlxtune.backends.numpy.kernels import cross_entropy  # here, as it imports NumPy

    yield "logits", min(n_supervised, max(1, cross_entropy.CHUNK_ELEMENTS // vocabulary)) * vocabulary


def _forward(layer: Layer, p: Pass, place: str, *, keep: bool) -> Asked:
    """layer.py"""
    yield from _inside(layer, p, place if keep else "")
    yield f"{place}next", p.n_places * p.d.hidden_size
    yield from _linear(layer.down, p)


def _inside(layer: Layer, p: Pass, inner: str) -> Asked:
    d, n = p.d, p.n_places
    yield "normed", n * d.hidden_size
    yield f"{inner}qkv" if d.qk_norm else "qkv", n * (d.n_heads + 2 * d.n_kv_heads) * d.head_dim
    yield from _linear(layer.qkv, p)
    yield from _heads(p, inner)
    yield from _attend(layer.window, p, inner)
    yield f"{inner}attended", n * d.n_heads * d.head_dim
    yield f"{inner}middle", n * d.hidden_size
    yield from _linear(layer.output, p)
    yield f"{inner}gate_up", n * 2 * d.intermediate_size
    yield from _linear(layer.gate_up, p)
    yield f"{inner}sigmoid", n * d.intermediate_size
    yield "activated", n * d.intermediate_size


def _heads(p: Pass, place: str) -> Asked:
    d, n = p.d, p.n_places
    queries_and_keys = n * (d.n_heads + d.n_kv_heads) * d.head_dim
    yield "rotated", queries_and_keys
    if d.qk_norm:
        yield "normed_qk", queries_and_keys
    yield from _crossed(p)
    yield f"{place}queries", n * d.n_heads * d.head_dim
    yield f"{place}keys", n * d.n_kv_heads * d.head_dim
    yield f"{place}values", n * d.n_kv_heads * d.head_dim


def _backward(layer: Layer, p: Pass) -> Asked:
    d, n = p.d, p.n_places
    yield "d_activated", n * d.intermediate_size
    yield from _input_gradient(layer.down, p)
    yield "d_gate_up", n * 2 * d.intermediate_size
    yield "activated", n * d.intermediate_size
    yield from _weight_gradients(layer.down, p)
    yield from _through_norm(layer.gate_up, p)
    yield "d_attended", n * d.n_heads * d.head_dim
    yield from _input_gradient(layer.output, p)
    yield from _weight_gradients(layer.output, p)
    yield from _attention_backward(layer.window, p)
    yield from _through_norm(layer.qkv, p) if layer.through else _weight_gradients(layer.qkv, p)


def _through_norm(adapters: Sequence[Adapter], p: Pass) -> Asked:
    """`normed` is asked for where no gradient goes through too: by the MLP, before."""
    yield "normed", p.n_places * p.d.hidden_size
    yield from _weight_gradients(adapters, p)
    yield "d_normed", p.n_places * p.d.hidden_size
    yield from _input_gradient(adapters, p)


def _attention_backward(window: int | None, p: Pass) -> Asked:
    d, n = p.d, p.n_places
    yield "d_out", n * d.n_heads * d.head_dim
    yield from _attend_backward(window, p)
    yield "d_qkv", n * (d.n_heads + 2 * d.n_kv_heads) * d.head_dim
    yield from _crossed(p)


def _crossed(p: Pass) -> Asked:
    """rotary.py, a band at a time."""
    for n_rows, n_tokens in p.bands:
        yield "crossed", n_rows * n_tokens * (p.d.n_heads + p.d.n_kv_heads) * p.d.head_dim


def _linear(adapters: Sequence[Adapter], p: Pass) -> Asked:
    """linear.py, whose own products are written where they are wanted."""
    for adapter in adapters:
        yield from _work(adapter, p).output.items()


def _input_gradient(adapters: Sequence[Adapter], p: Pass) -> Asked:
    for adapter in adapters:
        yield from _work(adapter, p).input_gradient.items()


def _weight_gradients(adapters: Sequence[Adapter], p: Pass) -> Asked:
    for adapter in adapters:
        yield from _work(adapter, p).own_gradients.items()


def _work(adapter: Adapter, p: Pass) -> "Work":
    from mlxtune.backends.numpy.kernels import lora  # here, as it imports NumPy

    return lora.work(adapter, p.n_places, drops=p.drops)


def _attend(window: int | None, p: Pass, place: str) -> Asked:
    """attention.py; without a place to keep them, all blocks of all bands have one array."""
    yield "attended_heads", p.n_places * p.d.n_heads * p.d.head_dim
    yield f"{place}sums", p.n_places * p.d.n_heads
    each = [n_rows * p.d.n_heads * block.scores for n_rows, block in _blocks(p, window)]
    yield f"{place}weights", sum(each) if place else max(each)


def _attend_backward(window: int | None, p: Pass) -> Asked:
    d = p.d
    yield "d_queries", p.n_places * d.n_heads * d.head_dim
    yield "d_keys", p.n_places * d.n_kv_heads * d.head_dim
    yield "d_values", p.n_places * d.n_kv_heads * d.head_dim
    for n_rows, block in _blocks(p, window):
        if block.adds:
            yield "d_part", n_rows * d.n_kv_heads * (block.end - block.low) * d.head_dim
        yield "d_scores", n_rows * d.n_heads * block.scores


def _blocks(p: Pass, window: int | None) -> Iterator[tuple[int, Block]]:
    """Of each band, with how many rows it has."""
    from mlxtune.backends.numpy.kernels import attention  # here, as it imports NumPy

    for n_rows, n_tokens in p.bands:
        for begin in range(0, n_tokens, attention.BLOCK):
            end = min(begin + attention.BLOCK, n_tokens)
            low = 0 if window is None else max(0, begin - window + 1)
            yield n_rows, Block(begin, end, low, adds=end < n_tokens or low > 0)
