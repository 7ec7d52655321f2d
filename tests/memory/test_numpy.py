"""The plan of a run's memory on NumPy, beside what learners that stepped and evaluated say they took."""

import subprocess
import sys
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest

from mlxtune.backends.decisions import Decisions
from mlxtune.backends.numpy import blocks, device, layout, threads
from mlxtune.backends.numpy.learner import NumpyLearner
from mlxtune.data.types import Batch
from mlxtune.memory.numpy import moments, resident
from mlxtune.memory.setup import Rows, Setup, rows_of
from mlxtune.models import config as model_config
from mlxtune.models.dimensions import Dimensions
from mlxtune.optim.adam import Adam
from mlxtune.optim.adamw import AdamW
from mlxtune.optim.optimizer import Optimizer
from mlxtune.optim.sgd import Sgd
from mlxtune.strategies.choose import select
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.batches import unpadded
from tests.support.numpy import BASE, KINDS, learner, write_model

LORA = Lora(rank=4, dropout=0.2)
OF_ATTENTION = Lora(rank=8, dropout=0.1, target=("q_proj", "v_proj"))
ONE_LAYER, NO_INPUT = Lora(rank=2, last_n=1), Lora(rank=2, dropout=0.3, target=("q_proj",), last_n=1)
OF_MLP = Lora(rank=3, target=("gate_proj", "down_proj"), last_n=2)
MOMENTUM = partial(Sgd, momentum=0.9)
SHORT, LONG, RAGGED = (23,), (150,), (150, 31, 70, 97)  # below one block of queries, and above two


class Case(NamedTuple):
    """A run. share: of each row's tokens that carry loss. multiple: to which rows are padded."""

    kind: str
    strategy: Any = Full()
    lengths: tuple[int, ...] = RAGGED
    evaluated: tuple[int, ...] | None = (90, 131)
    share: float = 0.5
    accumulate: int = 1
    multiple: int = 1
    precision: str = "fp32"
    grad_checkpoint: bool = False
    moments: str = "fp32"
    low_precision: Any = None
    optimizer: Any = AdamW  # its kind
    prefix_cache: str = "auto"
    row_threads: int = 1
    logits: int = blocks.LOGITS
    changes: Any = ()  # to the model's config, as pairs


CASES = {
    "full": Case("llama"),
    "full, one short row": Case("llama", lengths=SHORT, evaluated=SHORT),
    "full, never evaluated": Case("llama", evaluated=None),
    "full, evaluated on more than is trained": Case("llama", lengths=SHORT, evaluated=RAGGED, share=1.0),
    "full, one block of queries exactly": Case("llama", lengths=(65, 65), evaluated=(66,)),
    "full, tied, one long row": Case("llama, tied", lengths=LONG),
    "full, few supervised": Case("llama", share=0.03),
    "full, all supervised": Case("llama", share=1.0),
    "full, logits in chunks": Case("llama", share=1.0, logits=61 * 50),
    "full, padded to a multiple": Case("llama", multiple=32),
    "full, accumulation": Case("llama, tied", accumulate=3),
    "full, masters": Case("llama", precision="bf16", low_precision="master"),
    "full, stochastic": Case("llama", precision="bf16", low_precision="stochastic"),
    "full, moments in 16 bits": Case("llama", moments="bf16"),
    "full, sgd": Case("llama", optimizer=Sgd),
    "full, sgd, masters": Case("llama", optimizer=Sgd, precision="bf16", low_precision="master"),
    "full, sgd, momentum in 16 bits": Case("llama", optimizer=MOMENTUM, moments="bf16"),
    "last 1, sgd, momentum": Case("llama, tied", LastN(last_n=1), optimizer=MOMENTUM, accumulate=2),
    "lora, adam": Case("llama", LORA, optimizer=Adam),
    "full, checkpoints": Case("llama", grad_checkpoint=True),
    "full, checkpoints, never evaluated": Case("qwen3", grad_checkpoint=True, evaluated=None),
    "full, checkpoints, one layer": Case("llama", grad_checkpoint=True, changes=(("num_hidden_layers", 1),)),
    "full, no groups": Case("llama, no groups"),
    "full, qwen2": Case("qwen2"),
    "full, qwen3": Case("qwen3"),
    "full, qwen3 tied": Case("qwen3, tied", lengths=LONG, accumulate=2, moments="bf16"),
    "full, wide window": Case("mistral, long window"),
    "full, windows in some layers, checkpoints": Case("qwen2, windows", lengths=LONG, grad_checkpoint=True),
    "last 1": Case("llama", LastN(last_n=1)),
    "last 1, tied": Case("llama, tied", LastN(last_n=1), accumulate=2),
    "last 1, head untied": Case("llama, tied", LastN(last_n=1, head=True), precision="bf16", low_precision="master"),
    "last 1, head frozen": Case("llama", LastN(last_n=1, head=False)),
    "last 1, long rows": Case("qwen3", LastN(last_n=1), lengths=LONG, evaluated=(200,), share=0.1),
    "last 1, nothing kept": Case("llama", LastN(last_n=1), prefix_cache="off"),
    "last 1, a thread a row": Case("llama", LastN(last_n=1), row_threads=3),
    "last 1, fewer threads than rows": Case("qwen3", LastN(last_n=1), lengths=(*RAGGED, *LONG, *SHORT), row_threads=2),
    "last 1, fewer rows than threads": Case("llama", LastN(last_n=1), lengths=LONG, row_threads=2),
    "last 2": Case("llama", LastN(last_n=2), share=0.1),
    "last 2, head untied": Case("qwen2, tied, yarn", LastN(last_n=2, head=True), moments="bf16"),
    "last 2, checkpoints": Case("mistral, long window", LastN(last_n=2), grad_checkpoint=True),
    "lora": Case("llama", LORA),
    "lora, tied": Case("llama, tied", LORA, accumulate=2),
    "lora, checkpoints": Case("qwen3, tied", LORA, grad_checkpoint=True),
    "lora has no masters": Case("llama", LORA, precision="bf16", low_precision="master", moments="bf16"),
    "lora of the attention": Case("qwen2", OF_ATTENTION, lengths=LONG),
    "lora of a layer": Case("llama", ONE_LAYER),
    "lora that needs no gradient of an input": Case("llama", NO_INPUT, lengths=SHORT),
    "lora of the attention's output": Case("llama", Lora(rank=8, dropout=0.1, target=("o_proj",))),
    "lora of the MLP's output": Case("llama", Lora(rank=8, dropout=0.1, target=("down_proj",))),
    "lora of the MLP": Case("qwen3", OF_MLP),
}


def batch_of(lengths: tuple[int, ...], case: Case, seed: int) -> Batch:
    """Rows of random tokens; the last tokens of each carry loss."""
    width = -(-max(lengths) // case.multiple) * case.multiple
    places_T, ends_B1 = np.arange(width), np.array(lengths)[:, None]
    begins_B1 = np.array([max(1, round(length * (1 - case.share))) for length in lengths])[:, None]
    tokens_BT = np.random.default_rng(seed).integers(1, 61, (len(lengths), width)) * (places_T < ends_B1)
    supervised_BT = (places_T >= begins_B1) & (places_T < ends_B1)
    return unpadded(tokens_BT, supervised_BT, lengths)


class Found(NamedTuple):
    """A learner that ran, and what it takes to plan its memory."""

    learner: NumpyLearner
    setup: Setup
    rows: Rows
    evaluated: Rows | None
    kept_tokens: int


def ran(case: Case, folder) -> Found:
    write_model(folder, **{**KINDS[case.kind], **dict(case.changes)})
    settings = {"grad_checkpoint": case.grad_checkpoint, "prefix_cache": case.prefix_cache, "batch_rows": len(RAGGED)}
    made = learner(folder, case.strategy, case.precision, optimizer=optimizer_of(case), **settings)
    trained = [batch_of(case.lengths, case, seed) for seed in range(2 * case.accumulate)]
    made.step(trained[: case.accumulate], 1e-3)
    evaluated = [] if case.evaluated is None else [batch_of(case.evaluated, case, seed=99)]
    for batch in evaluated:
        made.evaluate(batch)
    made.step(trained[case.accumulate :], 1e-3)
    lengths = [length for batch in (*trained, *evaluated) for length in batch.lengths_B.tolist()]
    keeps = made.parts.selection.first_layer > 0 and case.prefix_cache != "off"
    kept = sum(lengths) - len(lengths) if keeps else 0
    rows = (rows_of(b.lengths_B.tolist(), b.n_supervised, case.multiple) for b in (trained[0], *evaluated))
    return Found(made, planned(case, folder), next(rows), next(rows, None), kept)


def optimizer_of(case: Case) -> Optimizer:
    made: Optimizer = case.optimizer(moments=case.moments, low_precision=case.low_precision)
    return made


def planned(case: Case, folder) -> Setup:
    """What is known of a run before it starts."""
    dimensions = Dimensions.of(model_config.read(folder))
    assert dimensions is not None
    anatomy = layout.anatomy(dimensions)
    return Setup(
        backend="numpy",
        gpu=False,
        anatomy=anatomy,
        selection=select(case.strategy, anatomy),
        dimensions=dimensions,
        element_bytes=4,
        optimizer=optimizer_of(case),
        accumulates=case.accumulate > 1,
        decisions=Decisions(keeps_prefix=False, packs_rows=True, checkpoints=case.grad_checkpoint),
        row_threads=None if case.prefix_cache == "off" else case.row_threads,
    )


@pytest.fixture(params=CASES.values(), ids=CASES)
def found(request, tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "LOGITS", request.param.logits)
    for module in (device, threads):
        monkeypatch.setattr(module, "threads", lambda: request.param.row_threads)
    return ran(request.param, tmp_path)


def planned_bytes(found: Found) -> int:
    """The largest moment of the plan."""
    return max(p.total for p in moments(found.setup, found.rows, found.evaluated, found.kept_tokens).values())


def test_what_a_run_holds_is_planned_to_the_byte(found):
    assert resident(found.setup, found.kept_tokens).total == found.learner.memory().active_memory_bytes


def test_the_plan_is_never_under_the_peak_and_little_above(found):
    """By 0.1% in most cases, 2.1% at most: two outputs of layers that keep nothing are planned, where some runs have
    one or none.
    """
    peak_bytes = found.learner.memory().peak_memory_bytes
    assert peak_bytes <= planned_bytes(found) < 1.025 * peak_bytes


@pytest.mark.parametrize("lengths", [RAGGED, (129,)])
@pytest.mark.parametrize("kind", ["mistral, short window", "qwen2, windows"])
def test_a_window_takes_less_than_is_planned(kind, lengths, tmp_path):
    found = ran(Case(kind, lengths=lengths), tmp_path)
    assert planned_bytes(found) > found.learner.memory().peak_memory_bytes


def test_the_parts_are_those_of_their_names(tmp_path):
    made, setup, rows, evaluated, kept = ran(Case("llama", LastN(last_n=1), accumulate=2), tmp_path)
    held, hidden = resident(setup, kept), BASE["hidden_size"]
    trained = made.state.weights.nbytes
    assert held.trainable_weights == trained
    assert held.frozen_weights == made.flat.buffer.nbytes - trained
    assert held.optimizer == sum(slot.nbytes for slot in made.state.slots)
    assert made.gradient_sum is not None
    assert held.gradients == made.gradient.buffer.nbytes + made.gradient_sum.nbytes
    assert held.data == made.prefix.bytes > 0
    step = moments(setup, rows, evaluated, kept)["step"]
    assert step.head_loss == 4 * rows.n_supervised * (BASE["vocab_size"] + 3 * hidden)


def test_the_plan_can_be_imported_without_numpy():
    code = "import sys, mlxtune.memory.numpy; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
