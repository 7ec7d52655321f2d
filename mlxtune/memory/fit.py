"""Settings that fit: the changes of a recipe that cost its result least, found by asking the plan.

First what costs time alone: smaller micro-batches, with so many more of them that a step sees the same rows; gradient
checkpointing; and the frozen layers' output: MLX keeps it on the disk, so that those layers need not be in memory, and
NumPy, which keeps it in memory, does without. Then moments in 16 bits, then fewer layers, and last shorter rows: longer
ones are then left out. Among changes that cost alike, the one that uses most of the memory is the fastest.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

from mlxtune.errors import BadSetting
from mlxtune.format import size

Changes = Mapping[str, Any]  # recipe key -> value
Peak = Callable[[Changes], int | None]  # None: the change contradicts the recipe
Tree = Mapping[str, Mapping[str, Any]]

FILLED = 0.75  # of the limit: a faster setting that fills more is not looked for
SAFE = 0.95  # of the limit that may be planned for: the plan is right within some percent
SHORTEST = 128  # tokens: rows are cut no shorter
FLAGS = {
    "train.batch_size": "--batch-size {}",
    "train.grad_accum": "--grad-accum {}",
    "backend.grad_checkpoint": "--grad-checkpoint",
    "backend.prefix_cache": "--prefix-cache {}",
    "optimizer.moments": "--moments {}",
    "strategy.last_n": "--last-n {}",
    "strategy.head": "--no-head",
    "train.clip_norm": "--clip-norm none",
    "data.max_seq_length": "--max-seq-length {}",
}


def as_flags(changes: Changes) -> str:
    """As a user gives them.

    >>> as_flags({"train.batch_size": 1, "backend.grad_checkpoint": True})
    '--batch-size 1 --grad-checkpoint'
    """
    return " ".join(FLAGS[key].format(value) for key, value in changes.items())


class NothingFits(BadSetting):
    """No settings that may be changed fit."""


def search(peak: Peak, recipe: Tree, n_layers: int, limit_bytes: int, lengths: Sequence[int] = ()) -> Changes:
    """The changes; none where the recipe fits as it is. lengths: that rows may be cut to, longest first.

    Raises NothingFits.
    """
    smallest: tuple[int, Changes] | None = None
    for costly in _costly(recipe, n_layers, lengths):
        found = []
        for free in _free(recipe):
            changes = {**free, **costly}
            needed = peak(changes)
            if needed is None:
                continue
            smallest = min(smallest or (needed, changes), (needed, changes), key=lambda each: each[0])
            if needed <= SAFE * limit_bytes:
                found.append((_speed(changes, needed, limit_bytes), changes))
        if found:
            return max(found, key=lambda each: each[0])[1]
    if smallest is None:  # of lengths that leave no rows
        raise NothingFits("--fit", expected=f"settings that fit {size(limit_bytes)}", found="none")
    raise NothingFits(
        "--fit",
        expected=f"settings that fit {size(limit_bytes)}",
        found=f"{size(smallest[0])} at least",
        remedy=f"That is with {as_flags(smallest[1]) or 'the settings as they are'}. Choose a smaller model.",
    )


def _speed(changes: Changes, needed: int, limit_bytes: int) -> tuple[bool, bool, bool, int]:
    """Larger is likely to be faster."""
    keeps, inside = changes.get("backend.prefix_cache") != "off", not changes.get("backend.grad_checkpoint")
    return keeps, needed >= FILLED * limit_bytes, inside, needed


def single_changes(recipe: Tree, n_layers: int) -> Iterator[dict[str, Any]]:
    """One change at a time, for showing what each would save."""
    train, backend, strategy = recipe["train"], recipe["backend"], recipe["strategy"]
    if train["batch_size"] > 1:
        rows = train["batch_size"] * train["grad_accum"]
        fewer_rows = next(n for n in range(train["batch_size"] // 2, 0, -1) if rows % n == 0)
        yield {"train.batch_size": fewer_rows, "train.grad_accum": rows // fewer_rows}
    if not backend["grad_checkpoint"]:
        yield {"backend.grad_checkpoint": True}
    yield from _kept_otherwise(recipe)
    if recipe["optimizer"]["moments"] == "fp32":
        yield {"optimizer.moments": "bf16"}
    if train["clip_norm"] is not None and backend["name"] != "numpy":
        yield {"train.clip_norm": None}
    if strategy.get("head", False) is not False:
        yield {"strategy.head": False}
    if fewer := _fewer_layers(strategy, n_layers):
        yield {"strategy.last_n": fewer[0]}
    if (half := recipe["data"]["max_seq_length"] // 2) >= SHORTEST:
        yield {"data.max_seq_length": half}


def _costly(recipe: Tree, n_layers: int, shorter: Sequence[int]) -> Iterator[dict[str, Any]]:
    """What costs the result something, cheapest first."""
    moments: list[dict[str, Any]] = [{}]
    moments += [{"optimizer.moments": "bf16"}] if recipe["optimizer"]["moments"] == "fp32" else []
    layers = [{}, *({"strategy.last_n": n} for n in _fewer_layers(recipe["strategy"], n_layers))]
    lengths = [{}, *({"data.max_seq_length": n} for n in shorter)]
    for length, fewer in product(lengths, layers):
        for kind in moments:
            yield {**kind, **fewer, **length}


def _free(recipe: Tree) -> Iterator[dict[str, Any]]:
    """What costs time alone, the recipe as it is first."""
    train = recipe["train"]
    rows = train["batch_size"] * train["grad_accum"]
    sizes = [n for n in range(train["batch_size"], 0, -1) if rows % n == 0]
    checkpoints: list[dict[str, Any]] = [{}]
    checkpoints += [] if recipe["backend"]["grad_checkpoint"] else [{"backend.grad_checkpoint": True}]
    keeps = [{}, *_kept_otherwise(recipe)]
    for keep, n, checkpoint in product(keeps, sizes, checkpoints):
        batch = {} if n == train["batch_size"] else {"train.batch_size": n, "train.grad_accum": rows // n}
        yield {**keep, **batch, **checkpoint}


def _kept_otherwise(recipe: Tree) -> list[dict[str, Any]]:
    """The change of what is kept of the frozen layers that may save memory: their weights on MLX, their output on
    NumPy, which holds both."""
    backend, strategy = recipe["backend"], recipe["strategy"]
    if backend["prefix_cache"] != "auto" or strategy.get("last_n", "all") == "all":
        return []
    return [{"backend.prefix_cache": "off" if backend["name"] == "numpy" else "on"}]


def _fewer_layers(strategy: Mapping[str, Any], n_layers: int) -> list[int]:
    """Halves of the layers that train.

    >>> _fewer_layers({"name": "last-n", "last_n": 4}, 32), _fewer_layers({"name": "lora", "last_n": "all"}, 6)
    ([2, 1], [3, 1])
    """
    if "last_n" not in strategy:
        return []
    now = n_layers if strategy["last_n"] == "all" else strategy["last_n"]
    return [now >> power for power in range(1, now.bit_length())]


def shorter(length: int) -> list[int]:
    """Halves of a length.

    >>> shorter(1024)
    [512, 256, 128]
    """
    return [length >> power for power in range(1, 12) if length >> power >= SHORTEST]
