"""No setting without effect: each one, changed alone, changes what the run does or leaves, or the test fails."""

import json
from importlib.resources import files
from itertools import count
from pathlib import Path

import pytest

from mlxtune.errors import MlxtuneError
from mlxtune.events import Eval, Sample, Start, Step
from mlxtune.recipe.recipe import build, every_key
from mlxtune.run import session as run
from mlxtune.storage import checkpoint
from tests.support.backend import BACKEND
from tests.support.slow import all_but

ROWS = [{"prompt": f"Who has the {thing}?", "completion": f"The {who} has it."} for thing in "abcd" for who in "xyz"]
CHAT = {
    "messages": [
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "A storyteller."},
        {"role": "user", "content": "Tell me a story."},
        {"role": "assistant", "content": "Once there was a cat, and that is all."},
    ]
}
BASE = {
    "strategy.last_n": 1,
    "train.max_steps": 4,
    "train.batch_size": 2,
    "train.eval_every": 2,
    "data.valid_share": 0.25,
    "checkpoint.save_every": 2,
    "schedule.learning_rate": 1e-3,
    "backend.name": BACKEND,
    "backend.precision": "fp32",
}
LORA = {"strategy.name": "lora", "train.max_steps": 2}
ADAM, SGD = {"optimizer.name": "adam"}, {"optimizer.name": "sgd"}
COSINE = {"schedule.name": "cosine", "train.max_steps": 4}
BF16 = {"backend.precision": "bf16", "schedule.learning_rate": 1e-5}

# Each setting: the value to change it to, and what else both runs have.
VALID = str(files("mlxtune").joinpath("assets", "data", "valid.jsonl"))
DPO = {"pairs": True, "objective.name": "dpo"}
PAIRS = [{"prompt": f"Who is {n}?", "chosen": f"A cat of {n}.", "rejected": f"No {n}."} for n in range(12)]
CHANGES = {
    "data.columns": ("system==Speak as a cat.", {}),
    "data.system": ("Speak as a cat.", {}),
    "data.max_seq_length": (30, {}),
    "data.loss_on": ("last", {}),
    "data.end_of_turn": ("##", {}),
    "data.skip_bad_rows": (True, {"bad rows": True}),
    "data.max_rows": (6, {}),
    "data.min_tokens": (30, {}),
    "data.valid": (VALID, {"data.valid_share": None}),
    "train.shuffle": (False, {}),
    "data.overlong": ("split", {"data.max_seq_length": 20}),
    "data.dedup": ("exact", {"twice": True}),
    "data.valid_share": (0.5, {}),
    "strategy.name": ("full", {"strategy.last_n": None}),
    "strategy.last_n": (2, {}),
    "strategy.head": (False, {}),
    "strategy.rank": (2, LORA),
    "strategy.scale": (3.0, LORA),
    "strategy.alpha": (16.0, LORA),
    "strategy.dropout": (0.5, LORA),
    "strategy.target": (("q_proj",), LORA),
    "optimizer.name": ("adam", {"optimizer.weight_decay": 0.9}),
    "optimizer.momentum": (0.9, SGD),
    "optimizer.nesterov": (True, {**SGD, "optimizer.momentum": 0.9}),
    "optimizer.beta1": (0.5, {}),
    "optimizer.beta2": (0.5, {}),
    "optimizer.epsilon": (1e-2, {}),
    "optimizer.weight_decay": (0.9, {}),
    "optimizer.decay_norms_and_biases": (True, {"optimizer.weight_decay": 0.9}),
    "optimizer.low_precision": ("master", BF16),
    "optimizer.moments": ("bf16", {}),
    "objective.name": ("dpo", {"pairs": True}),
    "objective.beta": (2.0, DPO),
    "objective.loss_type": ("hinge", DPO),
    "schedule.name": ("cosine", {}),
    "schedule.learning_rate": (2e-3, {}),
    "schedule.warmup_steps": (3, {}),
    "schedule.min_learning_rate": (9e-4, COSINE),
    "train.max_steps": (3, {}),
    "train.epochs": (2, {"train.max_steps": None}),
    "train.batch_size": (3, {}),
    "train.grad_accum": (2, {}),
    "train.seed": (1, {}),
    "train.clip_norm": (1e-3, {}),
    "train.eval_every": (1, {}),
    "train.patience": (1, {"schedule.learning_rate": 0.5, "train.eval_every": 1, "train.max_steps": 8}),
    "checkpoint.save_every": (1, {}),
    "checkpoint.keep": (1, {}),
    "sample.every": (2, {}),
    "sample.prompts": (("The cat",), {"sample.every": 2}),
    "sample.max_tokens": (3, {"sample.every": 2}),
    "sample.temperature": (2.0, {"sample.every": 2}),
    "backend.precision": ("bf16", {}),
}
# Shown elsewhere, as they say where things are and change no number: tests of models, data, backends, memory,
# run folders.
ELSEWHERE = {
    "model.name",
    "model.revision",
    "data.path",
    "data.now",
    "backend.name",
    "backend.system_blas",
    "backend.prefix_cache",
    "backend.grad_checkpoint",
    "backend.memory_limit_bytes",
    "run.out",
}


class Keep(list):
    __call__ = list.append

    def close(self):
        pass


@pytest.fixture
def observed(tmp_path):
    """A function from settings to all that a user can see of the run that they make."""
    numbers = count()

    def observe(settings):
        rows = [*ROWS, CHAT, *([{"text": 5}] if settings.pop("bad rows", False) else [])]
        rows = PAIRS if settings.pop("pairs", False) else rows
        rows = rows * 2 if settings.pop("twice", False) else rows
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        out = tmp_path / f"run-{next(numbers)}"
        given = {key: value for key, value in settings.items() if value is not None}
        keep = Keep()
        try:
            run.start(build({}, {**given, "data.path": str(path), "run.out": str(out)}), [keep])
        except MlxtuneError as refusal:
            return str(refusal)
        folders = checkpoint.folders(Path(out))
        weights = [(folders[-1] / name).read_bytes() for name in (checkpoint.WEIGHTS, checkpoint.OPTIMIZER)]
        seen: list[object] = [(e.step, e.loss) for e in keep if isinstance(e, Step | Eval)]
        seen += [(e.step, e.prompt, e.text) for e in keep if isinstance(e, Sample)]
        start = next(e for e in keep if isinstance(e, Start))
        return weights, seen, [folder.name for folder in folders], start.train_rows

    return observe


def test_every_setting_is_tried():
    assert set(CHANGES) | ELSEWHERE == set(every_key())


# Settings of several optimizers, which each of them has to obey.
OF_OTHERS = {
    "adam beta1": ("optimizer.beta1", 0.5, ADAM),
    "adam beta2": ("optimizer.beta2", 0.5, ADAM),
    "adam epsilon": ("optimizer.epsilon", 1e-2, ADAM),
    "adam weight_decay": ("optimizer.weight_decay", 0.9, ADAM),
    "adam moments": ("optimizer.moments", "bf16", ADAM),
    "sgd weight_decay": ("optimizer.weight_decay", 0.9, SGD),
    "sgd decay_norms": ("optimizer.decay_norms_and_biases", True, {**SGD, "optimizer.weight_decay": 0.9}),
    "sgd low_precision": ("optimizer.low_precision", "master", {**BF16, **SGD}),
    "sgd moments": ("optimizer.moments", "bf16", {**SGD, "optimizer.momentum": 0.9}),
}
EVERY_CHANGE = {key: (key, *change) for key, change in CHANGES.items()} | OF_OTHERS
QUICK = ("data.loss_on", "strategy.last_n", "optimizer.weight_decay", "objective.beta", "train.seed", "train.clip_norm")


@pytest.mark.parametrize(("key", "value", "base"), all_but(QUICK, EVERY_CHANGE))
@pytest.mark.few(1)
def test_changed_alone_it_changes_what_is_seen(observed, key, value, base):
    common = {**BASE, **base}
    without = observed(dict(common))
    assert isinstance(without, str) == (key == "data.skip_bad_rows"), without  # bad rows are refused without it
    assert observed({**common, key: value}) != without


@pytest.mark.slow
def test_the_comparison_finds_a_setting_without_effect(observed):
    assert observed(dict(BASE)) == observed(dict(BASE))
