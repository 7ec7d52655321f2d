"""mlxtune's side: the MLX learner through the Learner protocol, as a run uses it, on the batches of the case."""

from pathlib import Path

from mlxtune.backends.base import Job, Work
from mlxtune.backends.decisions import Passes
from mlxtune.backends.mlx.blueprint import MlxBlueprint
from mlxtune.backends.mlx.learner import MlxLearner
from mlxtune.backends.mlx.passes.forward import WHOLE, Form
from mlxtune.backends.mlx.passes.self_check import Checked, SelfCheck
from mlxtune.bench.sides import rows
from mlxtune.bench.sides.measure import Computed, Recorder
from mlxtune.bench.sides.spec import LORA_SCALE, RATE, SEED, Case, Result, Spec
from mlxtune.data.batches import collate
from mlxtune.data.token_rows import listed
from mlxtune.data.types import Batch
from mlxtune.optim.adamw import AdamW
from mlxtune.strategies.choose import Strategy
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora

# The techniques that are not fields of a Form.
KEPT = "kept"  # the frozen layers' output is kept


def run(spec: Spec) -> Result:
    """Train, from after the imports on."""
    case = spec.case
    made = listed(rows.token_row(row) for row in rows.make_rows(case))
    largest = rows.largest(made, case)
    work = Work(made, largest, None, int(largest.lengths_B.sum()), Passes(case.epochs * case.rows, case.rows), "bench")
    if spec.techniques is not None:
        force(form_of(spec.techniques))
    recorder = Recorder(case)
    learner = MlxBlueprint(make_job(spec)).learner(work)
    recorder.ready()
    form = learner.network.forward.form
    for epoch in rows.epochs(case):
        for indices in epoch:
            batch = collate(made, indices)
            loss = learner.step([batch], RATE).loss
            recorder.step(loss.mean, computed(batch, form))
    used = techniques(learner)
    return recorder.result(precision=spec.precision, used=used, frozen_layers_run=KEPT not in used, head=case.head)


def make_job(spec: Spec) -> Job:
    """Settings that mean what mlx-lm's mean: no clipping, and its weight decay is on the norms too."""
    optimizer = AdamW(decay_norms_and_biases=True)
    job = Job(Path(spec.folder), spec.precision, strategy(spec.case), optimizer, None, SEED)
    if spec.techniques is None:
        return job
    return job._replace(prefix_cache="on" if KEPT in spec.techniques else "off")


def strategy(case: Case) -> Strategy:
    if case.lora_rank:
        return Lora(rank=case.lora_rank, scale=LORA_SCALE, last_n=case.last_n)
    return LastN(last_n=case.last_n, head=case.head)


def techniques(learner: MlxLearner) -> list[str]:
    """Those that it uses."""
    form = learner.network.forward.form
    used = [name for name in Form._fields if getattr(form, name)]
    return used + ([KEPT] if learner.network.prefix.file is not None else [])


def computed(batch: Batch, form: Form) -> Computed:
    """What a step in this form computes."""
    read = [int(length) - 1 for length in batch.lengths_B]
    lengths = read if form.packed else [batch.width - 1] * len(read)
    n_supervised = batch.n_supervised
    return Computed(tuple(lengths), n_supervised if form.gathered else sum(lengths), sum(read), n_supervised)


def form_of(techniques: tuple[str, ...]) -> Form:
    """The form with these techniques and no others."""
    return WHOLE._replace(**{name: True for name in techniques if name in Form._fields})


def force(form: Form) -> None:
    """Let every self-check of this process do its work and then find this form."""
    find = SelfCheck.best

    def best(check: SelfCheck) -> Checked:
        return find(check)._replace(form=form, head=check.head if form.sharded else None)

    setattr(SelfCheck, "best", best)  # noqa: B010 - a NamedTuple's method, which mypy would not let go
