"""Bytes of a step on MLX, moment by moment: counted from the graph that the step builds, checked against real runs.

e bytes of an element, S places that are read, N tokens that carry loss, L tokens of one row
D hidden size, F features of the MLP, H heads, h head size, O = H h, K = key-value heads times h, V vocabulary, R rows
of a shard of the head

What a layer keeps for its backward pass, in elements:

    2 D S   the input of each norm; float32 on a processor
    4 D S   normalised, and multiplied by the weight, where weights train that read them; the first on a processor alone
    O S     queries, scaled
    2 K S   keys and values
    H L^2   of each row, the softmax; and L^2 bytes of its mask
    O S     what was attended, where the output's weight trains
    4 F S   gate, its sigmoid, their product, and up; on a GPU 2 F S, where they are one kernel
    F S     the gated product, where the weight after it trains
    2 h S   sines and cosines, float32, on a processor
"""

from collections.abc import Callable
from math import prod

from mlxtune.backends.row_file import LAYERS_AT_ONCE
from mlxtune.backends.shards import shard_rows
from mlxtune.memory.parts import Parts
from mlxtune.memory.setup import Rows, Setup, rows_of

FLOAT32 = 4
# Arrays of a shard's logits (N, R), float32, that are alive at once: its exponential is a polynomial on a processor.
SHARD_ARRAYS = {False: 5, True: 3}
# A buffer that MLX uses again is up to two pages larger than what is asked for: on average each that is kept is one.
KEPT_ARRAYS, PAGE_BYTES = 20, 1 << 14
# Arrays of one parameter, float32, that an update holds beside weight, gradient, slots and the optimizer's own arrays:
# for stochastic rounding of the weight, and for each slot of 16 bits.
ROUNDING_ARRAYS, SLOT_ARRAYS = 2, 1.25


def moments(setup: Setup, rows: Rows, evaluated: Rows | None) -> dict[str, Parts]:
    """What is held at each moment of a run that can be its largest. evaluated: the largest batch of the validation."""
    held = resident(setup)
    found = {name: held.plus(parts) for name, parts in _step(setup, rows).items()}
    found["evaluation"] = held.plus(_forward_only(setup, evaluated or rows))
    if setup.decisions.keeps_prefix:
        found["pass of the frozen layers"] = _prefix_pass(setup, rows)
    if setup.sampled_tokens:
        found["sample"] = held.plus(_sample(setup))
    return found


def resident(setup: Setup) -> Parts:
    """What is there between two steps."""
    base, selection, optimizer = setup.anatomy.parameters, setup.selection, setup.optimizer
    trains = set(selection.train)
    gone = _prefix_names(setup) if setup.decisions.keeps_prefix else ()
    frozen = sum(p.bytes for name, p in base.items() if name not in trains and not name.startswith(gone))
    return Parts(
        frozen_weights=frozen,
        trainable_weights=sum(weight for _, weight in trained(setup)),
        optimizer=sum(
            n * (optimizer.slot_bytes + (optimizer.master_bytes if weight < FLOAT32 * n else 0))
            for n, weight in trained(setup)
        ),
    )


def trained(setup: Setup) -> list[tuple[int, int]]:
    """Elements and bytes of every array that trains; a head of its own is in shards."""
    base, selection = setup.anatomy.parameters, setup.selection
    sizes = [(base[name].size, base[name].bytes) for name in selection.train if name != setup.anatomy.head]
    sizes += [(array.size, array.bytes) for adapter in selection.adapters for array in adapter.arrays]
    if head_trains(setup):
        whole = base[setup.anatomy.head or setup.anatomy.embedding]
        rows = shard_rows(whole.shape[0])
        for begin in range(0, whole.shape[0], rows):
            n = min(rows, whole.shape[0] - begin) * prod(whole.shape[1:])
            sizes.append((n, n * whole.bytes // whole.size))
    return sizes


def head_trains(setup: Setup) -> bool:
    """Whether a head of its own trains."""
    return setup.selection.untie_head or setup.anatomy.head in setup.selection.train


def _prefix_names(setup: Setup) -> tuple[str, ...]:
    """Prefixes of the names of what is not in memory once the frozen layers' output is kept."""
    before = setup.anatomy.layers[: setup.selection.first_layer]
    tied = setup.anatomy.head is None and not setup.selection.untie_head
    return before if tied else (*before, setup.anatomy.embedding)


def _step(setup: Setup, rows: Rows) -> dict[str, Parts]:
    first, last = setup.selection.first_layer, len(setup.anatomy.layers) - 1
    kept = [kept_bytes(setup, rows, layer) for layer in range(first, last + 1)]
    entered = setup.element_bytes * rows.places(packed=setup.decisions.packs_rows) * setup.dimensions.hidden_size
    # Of operations that are done and wait to let go of what they read: about one array of the MLP.
    unreleased = (
        setup.element_bytes * rows.places(packed=setup.decisions.packs_rows) * setup.dimensions.intermediate_size
    )
    between, inside = (len(kept) * entered, max(kept)) if setup.decisions.checkpoints else (sum(kept), 0)
    between, one = between + unreleased, max(kept[0], inside) + unreleased
    layers = [_layer_gradients(setup, layer) for layer in range(first, last + 1)]
    of_head, of_all = _head_gradients(setup), sum(weight for _, weight in trained(setup))
    before = sum(FLOAT32 * n for n, _ in trained(setup)) if setup.accumulates else 0  # of earlier micro-batches
    at_first = of_all - layers[0] - _embedding_gradients(setup)
    head = (_head_forward(setup, rows), _head_backward(setup, rows))
    return {
        "forward pass of the head": Parts(activations=between, head_loss=head[0], gradients=before),
        "backward pass of the head": Parts(activations=between, head_loss=head[1], gradients=before + of_head),
        **_in_layer("last", setup, rows, between + inside, before + of_head, layers[-1]),
        **_in_layer("first", setup, rows, one, before + at_first, layers[0]),
        "update": Parts(gradients=_updates(setup)),
    }


def _in_layer(which: str, setup: Setup, rows: Rows, kept: int, gradients: int, own: int) -> dict[str, Parts]:
    """The backward pass of a layer's MLP, and then of its attention. own: the gradients that it makes."""
    mlp, attention = _mlp_bytes(setup, rows), _attention_bytes(setup, rows)
    return {
        f"backward pass of the {which} layer's MLP": Parts(activations=kept + mlp, gradients=gradients + own // 3),
        f"backward pass of the {which} layer's attention": Parts(
            activations=kept - _freed_bytes(setup, rows) + attention, gradients=gradients + own
        ),
    }


def kept_bytes(setup: Setup, rows: Rows, layer: int) -> int:
    """What one layer keeps for its backward pass: see the top of this file."""
    d, e = setup.dimensions, setup.element_bytes
    places, squares = rows.places(packed=setup.decisions.packs_rows), rows.squares(packed=setup.decisions.packs_rows)
    heads, keys = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
    trains = _trains(setup, layer)
    norms = 4 if d.sandwich_norms else 2
    kept = norms * places * d.hidden_size * (e if setup.gpu else FLOAT32)
    if trains("layernorm") and not setup.gpu:
        kept += norms * places * d.hidden_size * e
    kept += e * places * (heads + 2 * keys)
    if d.qk_norm:
        kept += places * (heads + keys) * (e if setup.gpu else FLOAT32 + (e if trains("q_norm") else 0))
    kept += squares * (e * d.n_heads + 1)
    kept += places * d.intermediate_size * e * (2 if setup.gpu else 4)
    kept += 0 if setup.gpu else 2 * FLOAT32 * places * d.head_dim
    inputs = {"q_proj k_proj v_proj": d.hidden_size, "o_proj": heads, "gate_proj up_proj": d.hidden_size}
    inputs["down_proj"] = d.intermediate_size
    for modules, width in inputs.items():
        if any(trains(module) for module in modules.split()):
            kept += e * places * width
    kept += PAGE_BYTES * (KEPT_ARRAYS + 2 * len(rows.lengths))
    return kept + sum(
        e * adapter.kept(places)
        for adapter in setup.selection.adapters
        if adapter.module.startswith(setup.anatomy.layers[layer])
    )


def _trains(setup: Setup, layer: int) -> Callable[[str], bool]:
    """Whether anything that trains in the layer has a word in its name."""
    prefix = setup.anatomy.layers[layer]
    trained = (*setup.selection.train, *(adapter.module for adapter in setup.selection.adapters))
    names = [name for name in trained if name.startswith(prefix)]
    return lambda word: any(word in name for name in names)


def _mlp_bytes(setup: Setup, rows: Rows) -> int:
    """What the backward pass of an MLP works with, beyond what was kept. An adapter's way back is another array."""
    d, places = setup.dimensions, rows.places(packed=setup.decisions.packs_rows)
    arrays = 3 if setup.selection.adapters else 2
    return setup.element_bytes * places * (arrays * d.intermediate_size + d.hidden_size)


def _attention_bytes(setup: Setup, rows: Rows) -> int:
    """The same for the attention: the gradient of the scores on its way through the softmax, and of the heads."""
    d, e, places = setup.dimensions, setup.element_bytes, rows.places(packed=setup.decisions.packs_rows)
    heads, keys = d.n_heads * d.head_dim, d.n_kv_heads * d.head_dim
    # Two arrays of all scores; of one row a third, while up to ten operations that are done wait to let go of theirs.
    scores = 1.9 * rows.squares(packed=setup.decisions.packs_rows) + 0.9 * rows.largest_square(
        packed=setup.decisions.packs_rows
    )
    return int(e * d.n_heads * scores) + e * places * (2 * heads + 2 * keys + d.hidden_size)


def _freed_bytes(setup: Setup, rows: Rows) -> int:
    """What a layer's MLP had kept, and its norm."""
    d, places = setup.dimensions, rows.places(packed=setup.decisions.packs_rows)
    return setup.element_bytes * places * ((3 if setup.gpu else 5) * d.intermediate_size + 2 * d.hidden_size)


def _layer_gradients(setup: Setup, layer: int) -> int:
    prefix, base = setup.anatomy.layers[layer], setup.anatomy.parameters
    own = sum(base[name].bytes for name in setup.selection.train if name.startswith(prefix))
    return own + sum(FLOAT32 * a.size for a in setup.selection.adapters if a.module.startswith(prefix))


def _head_gradients(setup: Setup) -> int:
    anatomy = setup.anatomy
    if head_trains(setup):
        return anatomy.parameters[anatomy.head or anatomy.embedding].bytes
    tied_and_trained = anatomy.head is None and anatomy.embedding in setup.selection.train
    return 2 * anatomy.parameters[anatomy.embedding].bytes if tied_and_trained else 0  # the shards', and in a row


def _embedding_gradients(setup: Setup) -> int:
    name = setup.anatomy.embedding
    return setup.anatomy.parameters[name].bytes if name in setup.selection.train else 0


def _head_forward(setup: Setup, rows: Rows) -> int:
    """The exponentials of all shards, and the work on one of them."""
    d, n = setup.dimensions, rows.n_supervised
    return n * (setup.element_bytes * d.vocab_size + 3 * FLOAT32 * d.hidden_size) + _shard_work(setup, n)


def _head_backward(setup: Setup, rows: Rows) -> int:
    return 3 * FLOAT32 * rows.n_supervised * setup.dimensions.hidden_size + _shard_work(setup, rows.n_supervised)


def _shard_work(setup: Setup, n: int) -> int:
    return SHARD_ARRAYS[setup.gpu] * FLOAT32 * n * shard_rows(setup.dimensions.vocab_size)


def _updates(setup: Setup) -> int:
    """The largest moment of the updates one after the other, last parameter first, each of which frees its gradient."""
    found = gradients = 0
    for n, weight in trained(setup):
        gradients += max(weight, FLOAT32 * n) if setup.accumulates else weight
        found = max(found, gradients + n * _update_element_bytes(setup))
    squares = FLOAT32 * max((n for n, _ in trained(setup)), default=0)  # of the last gradient, for the norm
    return max(found, gradients + squares)


def _update_element_bytes(setup: Setup) -> int:
    optimizer = setup.optimizer
    rounds = setup.element_bytes < FLOAT32 and not optimizer.master_bytes and not setup.selection.adapters
    widened = len(optimizer.slots) if optimizer.moments == "bf16" else 0
    return int(FLOAT32 * (optimizer.update_arrays + rounds * ROUNDING_ARRAYS + widened * SLOT_ARRAYS))


def _forward_only(setup: Setup, rows: Rows) -> Parts:
    """The validation: nothing is kept, one layer and one shard are worked on; its exponentials are the result."""
    d, e = setup.dimensions, setup.element_bytes
    places, squares = rows.places(packed=setup.decisions.packs_rows), rows.squares(packed=setup.decisions.packs_rows)
    attention = e * d.n_heads * squares + e * places * (2 * d.hidden_size + 3 * d.n_heads * d.head_dim)
    return Parts(
        activations=max(attention, e * places * (3 * d.intermediate_size + 2 * d.hidden_size)),
        head_loss=_shard_work(setup, rows.n_supervised) + e * rows.n_supervised * shard_rows(d.vocab_size),
    )


def _sample(setup: Setup) -> Parts:
    """A prompt read at once and answered: the frozen layers are read for it, and a head in shards is put together."""
    gone = _prefix_names(setup) if setup.decisions.keeps_prefix else ()
    read = sum(p.bytes for name, p in setup.anatomy.parameters.items() if gone and name.startswith(gone))
    prompt = rows_of([setup.sampled_tokens + 1], 1, 1)
    return _forward_only(setup, prompt).plus(
        Parts(
            frozen_weights=read,
            trainable_weights=setup.anatomy.parameters[setup.anatomy.embedding].bytes if head_trains(setup) else 0,
            activations=setup.element_bytes * setup.cached_elements,
        )
    )


def _prefix_pass(setup: Setup, rows: Rows) -> Parts:
    """Some frozen layers and the embedding; the optimizer has no state yet."""
    base = setup.anatomy.parameters
    layers = setup.anatomy.layers[: setup.selection.first_layer]
    weights = [sum(p.bytes for name, p in base.items() if name.startswith(layer)) for layer in layers]
    at_once = sum(sorted(weights)[-LAYERS_AT_ONCE:]) + base[setup.anatomy.embedding].bytes
    start = resident(setup)
    return Parts(
        frozen_weights=start.frozen_weights + at_once,
        trainable_weights=start.trainable_weights,
        activations=_forward_only(setup, rows).activations,
    )
