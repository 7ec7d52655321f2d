"""mlx-lm's side: `mlx_lm.tuner.trainer.train`, called as `mlx_lm.lora` calls it, on the rows of the case.

Its own iterator makes the batches. Its AdamW gets bias correction, which is off by default, so that losses can be
compared. It reports every step, where `mlx_lm.lora` reports every tenth: a line of text a step.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.optimizers import AdamW
from mlx_lm.models import llama  # noqa: F401 - load_model would import it, on the clock
from mlx_lm.tuner.callbacks import TrainingCallback
from mlx_lm.tuner.datasets import CacheDataset
from mlx_lm.tuner.trainer import TrainingArgs, iterate_batches, train
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from mlxtune.bench.sides.measure import Computed, Recorder
from mlxtune.bench.sides.rows import Row, make_rows
from mlxtune.bench.sides.spec import ADAPTERS, LORA_SCALE, RATE, SEED, Result, Spec

NEVER = 10**9


class Rows:
    """A dataset as its ChatDataset is one: a raw row is a dictionary, `process` gives tokens and offset."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> dict[str, int]:
        return {"messages": place}

    def process(self, raw: dict[str, int]) -> tuple[list[int], int]:
        row = self.rows[raw["messages"]]
        return row.tokens, row.offset


class Listener(TrainingCallback):
    """Hands each step's loss to the recorder, with the batch that was yielded last."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder, self.batch = recorder, Computed((), 0, 0, 0)

    def batches(self, **settings: Any) -> Iterator[tuple[mx.array, mx.array]]:
        """Their batches, counted on the way."""
        for tokens_BT, offsets_and_lengths_B in iterate_batches(**settings):
            self.batch = computed(tokens_BT.shape, np.array(offsets_and_lengths_B))
            yield tokens_BT, offsets_and_lengths_B

    def on_train_loss_report(self, train_info: dict[str, Any]) -> None:
        self.recorder.step(train_info["train_loss"], self.batch)


def run(spec: Spec) -> Result:
    """Train, from after the imports on."""
    case = spec.case
    made = CacheDataset(Rows(make_rows(case)))
    settings = TrainingArgs(
        batch_size=case.batch_size,
        iters=case.epochs * case.steps_per_epoch,
        steps_per_report=1,
        steps_per_save=NEVER,
        adapter_file=str(Path(spec.folder) / "adapters.safetensors"),
    )
    recorder = Recorder(case)
    listener = Listener(recorder)
    np.random.seed(SEED)  # noqa: NPY002 - the order of its batches is that of the global generator
    mx.random.seed(SEED)
    model, _ = load_model(Path(spec.folder))
    choose_what_trains(model, spec)
    optimizer = AdamW(learning_rate=RATE, bias_correction=True)
    recorder.ready()
    train(model, optimizer, made, None, settings, iterate_batches=listener.batches, training_callback=listener)
    head = case.head and spec.equal_work
    return recorder.result(precision=spec.precision, used=[], frozen_layers_run=True, head=head)


def choose_what_trains(model: nn.Module, spec: Spec) -> None:
    """As `mlx_lm.lora` does it; for equal work the final norm and the head besides. Adapters start where ours do."""
    case = spec.case
    model.freeze()
    if case.lora_rank:
        lora = {"rank": case.lora_rank, "scale": LORA_SCALE, "dropout": 0.0}
        linear_to_lora_layers(model, case.last_n, lora)
        model.load_weights(str(Path(spec.folder) / ADAPTERS), strict=False)
        return
    for layer in model.layers[-case.last_n :]:
        layer.unfreeze()
    if spec.equal_work:
        model.model.norm.unfreeze()
    if spec.equal_work and case.head:
        model.lm_head.unfreeze()


def computed(shape: tuple[int, ...], offsets_and_lengths_B: np.ndarray) -> Computed:
    """What a step on a batch computes: every place but the last of each row, and the head on all of them."""
    n_rows, read = shape[0], shape[1] - 1
    offsets_B, lengths_B = offsets_and_lengths_B.T
    supervised = lengths_B - np.maximum(offsets_B, 1) + 1  # the padding after each row among them: see `rows`
    return Computed((read,) * n_rows, n_rows * read, int(lengths_B.sum()), int(supervised.sum()))
