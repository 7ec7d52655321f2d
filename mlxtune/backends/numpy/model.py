"""A decoder with its weights: hidden states forward, and gradients back to the first layer that trains.

N tokens that are read, of all rows; S of them from which a supervised token is predicted; D hidden size
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlxtune.adapters.adapter import Adapter, parameters
from mlxtune.backends.numpy import layer as layers
from mlxtune.backends.numpy import rope
from mlxtune.backends.numpy.arrays import Array, Flat, Workspace
from mlxtune.backends.numpy.cache import Cache
from mlxtune.backends.numpy.config import Decoder
from mlxtune.backends.numpy.dropout import Dropout
from mlxtune.backends.numpy.kernels import cross_entropy, lora
from mlxtune.backends.numpy.kernels.cross_entropy import Worth
from mlxtune.backends.numpy.kernels.linear import Beside, Linear
from mlxtune.backends.numpy.kernels.lora import Seat
from mlxtune.backends.numpy.kernels.norm import rms_norm, rms_norm_backward
from mlxtune.backends.numpy.layer import Band, Kept, Layer, Norm, Pass
from mlxtune.backends.numpy.rope import Tables
from mlxtune.data.packed import Packed
from mlxtune.models.shapes import EMBEDDING, FINAL_NORM, HEAD, layer_prefix

Tokens = NDArray[np.int32]

ONE_PLACE = "again."  # names the memory that all layers share for their insides, where these are computed again


class Model:
    """Views of the weights and, where there are gradients, of theirs; and the memory that passes work in.

    recomputes: of each layer only the input is kept for the backward pass, which computes its inside again.
    """

    recomputes = False

    def __init__(
        self, decoder: Decoder, weights: Flat, gradients: Flat | None, adapters: Sequence[Adapter], ws: Workspace
    ) -> None:
        self.decoder, self.ws = decoder, ws
        views = _Views(decoder, weights, gradients, adapters)
        self.layers = [views.layer(number) for number in range(decoder.n_layers)]
        self.final_norm = views.norm(FINAL_NORM)
        self.embedding, self.embedding_gradient = weights[EMBEDDING], views.gradient(EMBEDDING)
        head = HEAD if weights.get(HEAD) is not None else EMBEDDING
        self.head, self.head_gradient, self.tied = weights[head], views.gradient(head), head == EMBEDDING
        self._tables: dict[int, Tables] = {}  # by regime, see `Rope`

    def embed(self, tokens_N: Tokens, ws: Workspace) -> Array:
        """Hidden states before the first layer, (N, D)."""
        out = ws("embedded", tokens_N.size, self.decoder.hidden_size)
        return np.take(self.embedding, tokens_N, axis=0, out=out, mode="clip")

    def run(self, hidden: Array, p: Pass, first: int, last: int, caches: Sequence[Cache] | None = None) -> Array:
        """Layers first to last - 1, with nothing kept."""
        for number in range(first, last):
            cache = caches[number] if caches is not None else None
            hidden, _ = layers.forward(self.layers[number], hidden, p, f"passing{number % 2}.", keep=False, cache=cache)
        return hidden

    def log_probabilities(self, rows: Packed, hidden: Array, first: int) -> Array:
        """Of the supervised tokens, (S,), from the hidden states before layer `first`."""
        hidden = self.run(hidden, self.passing(rows.lengths), first, len(self.layers))
        hidden_SD = hidden[rows.chosen_S]
        normed_SD = self.ws("final", *hidden_SD.shape)
        rms_norm(hidden_SD, self.final_norm.weight, self.decoder.epsilon, normed_SD)
        return cross_entropy.log_probabilities(normed_SD, self.head, rows.targets_S, self.ws)

    def log_probabilities_and_gradients(
        self, rows: Packed, hidden: Array, first: int, worth: Worth, dropout: Dropout | None
    ) -> Array:
        """(S,); writes the gradients of what they are worth. hidden: before layer `first`, which trains."""
        p = self.passing(rows.lengths, dropout)
        hidden, kept = self._forward(hidden, p, first)
        logps_S, gradient = self._head(hidden, rows, worth)
        embedding_trains = self.embedding_gradient is not None
        for number in reversed(range(first, len(self.layers))):
            of_layer = kept.pop()
            if not isinstance(of_layer, Kept):
                of_layer = layers.keep_again(self.layers[number], of_layer, p, ONE_PLACE)
            layers.backward(self.layers[number], gradient, of_layer, p, through=embedding_trains or number > first)
        if self.embedding_gradient is not None:
            self._add_to_embedding(self.embedding_gradient, rows.tokens_N, gradient)
        return logps_S

    def _forward(self, hidden: Array, p: Pass, first: int) -> tuple[Array, list[Kept | Array]]:
        """The last layer's output; what each layer keeps or, where its inside is computed again, its input alone.

        The last layer's inside would be computed again at once: it is kept.
        """
        kept: list[Kept | Array] = []
        for number in range(first, len(self.layers)):
            entered, again = hidden, self.recomputes and number < len(self.layers) - 1
            place = ONE_PLACE if self.recomputes and not again else f"{number}."
            hidden, of_layer = layers.forward(self.layers[number], entered, p, place, keep=not again)
            kept.append(entered if again else of_layer)
        return hidden, kept

    def _add_to_embedding(self, embedding_gradient: Array, tokens_N: Tokens, gradient: Array) -> None:
        """Row by row: a third of the time of np.add.at for 1,024 tokens. A tied head has written its part before."""
        if not self.tied:
            embedding_gradient[...] = 0.0
        for token, row in zip(tokens_N.tolist(), gradient, strict=True):
            of_token = embedding_gradient[token]  # a view: added to by its index, it would be written once more
            of_token += row

    def _head(self, hidden: Array, rows: Packed, worth: Worth) -> tuple[Array, Array]:
        """Log-probabilities, (S,), and the gradient of the last layer's output, at all tokens."""
        out = self.ws("chosen", len(rows.chosen_S), hidden.shape[1])
        hidden_SD = np.take(hidden, rows.chosen_S, axis=0, out=out, mode="clip")
        normed_SD = self.ws("final", *hidden_SD.shape)
        scale_S = rms_norm(hidden_SD, self.final_norm.weight, self.decoder.epsilon, normed_SD)
        logps_S, gradient_SD = cross_entropy.log_probabilities_and_gradients(
            normed_SD, self.head, rows.targets_S, worth, self.head_gradient, self.ws
        )
        rms_norm_backward(
            gradient_SD, hidden_SD, scale_S, self.final_norm.weight, self.final_norm.gradient, spare_ND=normed_SD
        )
        gradient = self.ws("gradient", *hidden.shape)
        gradient[...] = 0.0
        gradient[rows.chosen_S] = gradient_SD
        return logps_S, gradient

    def next_logits(self, tokens: Sequence[int], caches: Sequence[Cache]) -> Array:
        """Logits of the token that follows those in the caches and then `tokens`, (V,); the caches grow by `tokens`."""
        p = self.passing([len(tokens)], begin=caches[0].n_tokens)
        hidden = self.run(self.embed(np.asarray(tokens, np.int32), self.ws), p, 0, len(self.layers), caches)
        normed_1D = np.empty((1, hidden.shape[1]), hidden.dtype)
        rms_norm(hidden[-1:], self.final_norm.weight, self.decoder.epsilon, normed_1D)
        logits_V: Array = np.matmul(normed_1D, self.head.T)[0]
        return logits_V

    def passing(self, lengths: Sequence[int], dropout: Dropout | None = None, begin: int = 0) -> Pass:
        """What the layers share for rows of which so many tokens are read, the first of each at position `begin`."""
        d, bands, place = self.decoder, [], 0
        for n_tokens, rows in groupby(lengths):
            n_rows = len([*rows])
            tables, places = self._tables_of(begin, begin + n_tokens), slice(place, place + n_rows * n_tokens)
            bands.append(Band(places, n_rows, n_tokens, tables))
            place = places.stop
        return Pass(bands, (d.n_heads, d.n_kv_heads, d.head_dim), d.epsilon, dropout, self.ws)

    def _tables_of(self, begin: int, end: int) -> Tables:
        """Of queries, which are scaled here once for all scores, and keys, in rows of `end` tokens."""
        d, regime = self.decoder, self.decoder.rope.regime(end)
        known = len(self._tables[regime].cos) if regime in self._tables else 0
        if known < end:
            if d.rope.kind == "dynamic":
                self._tables = {}  # as each length has a regime of its own, they would pile up
            factors = [d.head_dim**-0.5] * d.n_heads + [1.0] * d.n_kv_heads
            made = rope.tables(d.rope, max(end, 2 * known), factors, end)
            self._tables[regime] = Tables(made.cos.astype(self.ws.dtype), made.sin.astype(self.ws.dtype))
        tables = self._tables[regime]
        return Tables(tables.cos[begin:end], tables.sin[begin:end])


class _Views(NamedTuple):
    """Makes the modules of a model out of its flat buffers."""

    decoder: Decoder
    weights: Flat
    gradients: Flat | None
    adapters: Sequence[Adapter]

    def gradient(self, *names: str, shape: tuple[int, ...] | None = None) -> Array | None:
        if self.gradients is None:
            return None
        return self.gradients.joined(names, self.weights[names[0]].shape if shape is None else shape)

    def norm(self, name: str) -> Norm:
        return Norm(self.weights[name], self.gradient(name))

    def layer(self, number: int) -> Layer:
        prefix, d = layer_prefix(number), self.decoder
        attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
        return Layer(
            norm1=self.norm(f"{prefix}input_layernorm.weight"),
            qkv=self.linear(*(f"{attention}{name}_proj" for name in "qkv")),
            q_norm=self.norm(f"{attention}q_norm.weight") if d.qk_norm else None,
            k_norm=self.norm(f"{attention}k_norm.weight") if d.qk_norm else None,
            output=self.linear(f"{attention}o_proj"),
            norm2=self.norm(f"{prefix}post_attention_layernorm.weight"),
            gate_up=self.linear(f"{mlp}gate_proj", f"{mlp}up_proj"),
            down=self.linear(f"{mlp}down_proj"),
            window=d.windows[number],
        )

    def linear(self, *modules: str) -> Linear:
        """Modules that lie side by side, as one."""
        names, biases = [f"{module}.weight" for module in modules], [f"{module}.bias" for module in modules]
        widths = [len(self.weights[name]) for name in names]
        shape = (sum(widths), self.weights[names[0]].shape[1])
        weight = self.weights.joined(names, shape)
        assert weight is not None
        bias = self.weights.joined(biases, shape[:1])
        return Linear(
            weight,
            bias,
            self.gradient(*names, shape=shape),
            None if bias is None else self.gradient(*biases, shape=shape[:1]),
            tuple(self._beside(modules, widths)),
        )

    def _beside(self, modules: Sequence[str], widths: Sequence[int]) -> list[Beside]:
        ends = np.cumsum(widths).tolist()
        columns = {module: slice(end - width, end) for module, width, end in zip(modules, widths, ends, strict=True)}
        return [
            self._adapter(adapter, Seat(columns[adapter.module], self.weights[f"{adapter.module}.weight"], number))
            for number, adapter in enumerate(self.adapters)
            if adapter.module in columns
        ]

    def _adapter(self, adapter: Adapter, seat: Seat) -> Beside:
        names = parameters([adapter])
        gradients: list[Any] = [self.gradient(name) for name in names]
        return lora.beside(adapter, seat, [self.weights[name] for name in names], gradients)
