"""Preference optimization on both backends: against PyTorch, over batches, and as whole runs."""

import json
import math

import numpy as np
import pytest

from mlxtune.backends.base import Work
from mlxtune.backends.choose import has_mlx
from mlxtune.backends.decisions import Passes
from mlxtune.backends.numpy.learner import NumpyLearner
from mlxtune.backends.references import References, row_sums
from mlxtune.data.batches import collate
from mlxtune.data.load import load
from mlxtune.data.settings import DataSettings
from mlxtune.data.token_rows import listed
from mlxtune.data.types import TokenRow
from mlxtune.errors import BadData, BadSetting
from mlxtune.objectives.dpo import Dpo
from mlxtune.recipe.recipe import build
from mlxtune.run import session
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.backend import BACKEND
from tests.support.cli import model
from tests.support.data import write
from tests.support.numpy import job, torch_model, worst, write_model
from tests.support.run import Ask, Keep, last_bytes
from tests.support.tokenizers import CHATML, tokenizer

BACKENDS = ["numpy", pytest.param("mlx", marks=pytest.mark.skipif(not has_mlx(), reason="MLX is not installed"))]
EVERY_BACKEND = pytest.mark.parametrize("backend", BACKENDS)
BETA = 0.3


def token_rows(n_pairs, seed=0):
    """Pairs that share a prompt of eight tokens; their answers are of several lengths."""
    random, rows = np.random.default_rng(seed), []
    for _ in range(n_pairs):
        prompt = random.integers(0, 61, 8)
        for n_tokens in random.integers(3, 20, 2):
            tokens = np.concatenate([prompt, random.integers(0, 61, n_tokens)]).astype(np.int32)
            rows.append(TokenRow(tokens, np.arange(len(tokens)) >= 8, ""))
    return rows


def made(backend, folder, rows, strategy=None, **changes):
    """A learner that has its references."""
    settings = {"objective": Dpo(beta=BETA), **changes}
    if backend == "mlx":
        from mlxtune.backends.mlx.blueprint import MlxBlueprint as Blueprint
    else:
        from mlxtune.backends.numpy.blueprint import NumpyBlueprint as Blueprint
    whole = collate(rows, range(len(rows)))
    work = Work(listed(rows), whole, whole, int(whole.lengths_B.sum()), Passes(1, len(rows)), "a model")
    return Blueprint(job(folder, strategy, **settings)).learner(work)


def batches(rows, n_pairs):
    """Micro-batches of so many pairs."""
    return [collate(rows, range(first, first + 2 * n_pairs)) for first in range(0, len(rows), 2 * n_pairs)]


class TorchDpo:
    """The published loss, in PyTorch: the mean over pairs of -logsigmoid(beta (policy margin - reference margin))."""

    def __init__(self, folder):
        import torch

        self.torch, self.policy, self.reference = torch, torch_model(folder), torch_model(folder)

    def sums(self, policy, batch):
        torch = self.torch
        tokens_BT, loss_BT = torch.tensor(batch.tokens_BT.astype(np.int64)), torch.tensor(batch.supervised_BT[:, 1:])
        logps_BTV = policy(input_ids=tokens_BT).logits[:, :-1].log_softmax(-1)
        return (logps_BTV.gather(-1, tokens_BT[:, 1:, None])[..., 0] * loss_BT).sum(1)

    def loss(self, batch):
        policy_B = self.sums(self.policy, batch)
        with self.torch.no_grad():
            reference_B = self.sums(self.reference, batch)
        change_B = policy_B - reference_B
        return -self.torch.nn.functional.logsigmoid(BETA * (change_B[::2] - change_B[1::2])).mean()

    def step(self, batch, rate):
        """Plain gradient descent, for which no optimizer has to agree."""
        self.policy.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        gradients = {name: parameter.grad.numpy().copy() for name, parameter in self.policy.named_parameters()}
        with self.torch.no_grad():
            for parameter in self.policy.parameters():
                parameter -= rate * parameter.grad
        return loss.item(), gradients


def gradients_of(learner, batch):
    """By name, of the mean over pairs."""
    found, gradients = learner.gradients([batch], 2 / len(batch.rows))
    if isinstance(learner, NumpyLearner):
        from mlxtune.backends.numpy.arrays import Flat

        flat = Flat(learner.layout, gradients, learner.layout.trained_begin)
        return found, {name: flat[name].copy() for name in learner.layout.trained}
    from tests.support.mlx import in_one_piece

    return found, {name: np.array(gradient) for name, gradient in in_one_piece(gradients).items()}


@EVERY_BACKEND
@pytest.mark.slow
def test_loss_and_every_gradient_are_those_of_the_published_formula_in_torch(backend, tmp_path):
    pytest.importorskip("torch", reason="the oracle of this test is not installed")
    folder, rows = write_model(tmp_path / "model", model_type="llama"), token_rows(4)
    learner, twin, batch = made(backend, folder, rows, Full()), TorchDpo(folder), collate(rows, range(8))
    for step in range(3):
        found, gradients = gradients_of(learner, batch)
        expected, theirs = twin.step(batch, rate=0.01)
        assert float(found.loss_sum) / 4 == pytest.approx(expected, rel=1e-5), step
        assert gradients.keys() == theirs.keys()
        assert max(worst(gradients[name], theirs[name]) for name in theirs) < 2e-5, step
        put(learner, {name: parameter.detach().numpy() for name, parameter in twin.policy.named_parameters()})
    assert abs(expected - math.log(2)) > 0.05  # the model has gone somewhere


def put(learner, weights):
    """Give the learner these weights."""
    if isinstance(learner, NumpyLearner):
        for name, array in weights.items():
            learner.flat[name][...] = array
        return
    import mlx.core as mx

    from mlxtune.backends.mlx.head.cross_entropy import cut
    from mlxtune.backends.shards import shard_rows

    taken = {}
    for name, array in weights.items():
        shards = [part for part in learner.trained.weights if part.startswith(name) and part != name]
        parts = cut(mx.array(array), shard_rows(len(array))) if shards else [mx.array(array)]
        taken |= zip(shards or [name], parts, strict=True)
    learner._set(learner.trained._replace(weights=taken))


@EVERY_BACKEND
@pytest.mark.parametrize("strategy", [LastN(last_n=1), Lora(rank=2)], ids=["last-n", "lora"])
@pytest.mark.few(2)
def test_eight_pairs_one_at_a_time_are_trained_as_eight_at_once(backend, strategy, tmp_path):
    folder, rows = write_model(tmp_path / "model", model_type="llama"), token_rows(8)
    at_once, one_by_one = (made(backend, folder, rows, strategy) for _ in range(2))
    for step in range(3):
        whole, parts = at_once.step(batches(rows, 8), 1e-3), one_by_one.step(batches(rows, 1), 1e-3)
        assert whole.loss.counted == parts.loss.counted == 8
        assert whole.loss.mean == pytest.approx(parts.loss.mean, rel=1e-5)
        assert whole.grad_norm == pytest.approx(parts.grad_norm, rel=1e-4)
        if step:  # before it margins are zero but for rounding, and so is which answer is ahead
            assert whole.loss.means == pytest.approx(parts.loss.means, rel=1e-4, abs=1e-5)


@pytest.mark.skipif(not has_mlx(), reason="MLX is not installed")
@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge"])
@pytest.mark.slow
def test_both_backends_train_the_same_numbers(loss_type, tmp_path):
    folder, rows = write_model(tmp_path / "model", model_type="llama"), token_rows(8)
    curves = []
    for backend in ("numpy", "mlx"):
        learner = made(backend, folder, rows, LastN(last_n=2), objective=Dpo(beta=BETA, loss_type=loss_type))
        curves.append([learner.step([batch], 1e-3).loss.mean for _ in range(5) for batch in batches(rows, 4)])
    np.testing.assert_allclose(*curves, rtol=1e-4)
    assert curves[0][-1] < 0.8 * curves[0][0]


@EVERY_BACKEND
def test_evaluating_changes_nothing_and_counts_pairs(backend, tmp_path):
    folder, rows = write_model(tmp_path / "model", model_type="llama"), token_rows(4)
    learner, batch = made(backend, folder, rows), collate(token_rows(4), range(8))
    before = learner.evaluate(batch)
    assert before.counted == 4
    assert before.mean == pytest.approx(math.log(2), abs=1e-4)
    learner.step(batches(rows, 4), 1e-3)
    assert learner.evaluate(batch).mean < before.mean


# The model of the start


def test_a_row_has_the_reference_of_its_tokens_and_its_mask():
    rows = token_rows(3)
    other = rows[0]._replace(supervised=np.arange(len(rows[0].tokens)) >= 9)
    references = References(listed([*rows, other, rows[0]]))
    references.find_or_make(None, 40, lambda batch: row_sums(batch, np.full(batch.n_supervised, -1.0)), lambda _: None)
    lengths = [int(row.supervised.sum()) for row in (*rows, other)]
    assert references.of(collate([*rows, other], range(7))).tolist() == [-float(n) for n in lengths]


def test_references_are_computed_once_and_found_again(tmp_path):
    rows, asked = listed(token_rows(5)), []

    def compute(batch):
        asked.append(batch)
        return np.random.default_rng(len(asked)).random(len(batch.rows))

    first, second, third = (References(rows) for _ in range(3))
    first.find_or_make(tmp_path / "cache" / "a.bin", 50, compute, lambda _: None)
    times = len(asked)
    second.find_or_make(tmp_path / "cache" / "a.bin", 50, compute, lambda _: None)
    assert len(asked) == times > 1
    assert np.array_equal(first.sums, second.sums)
    damaged = bytearray((tmp_path / "cache" / "a.bin").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "cache" / "a.bin").write_bytes(damaged)
    third.find_or_make(tmp_path / "cache" / "a.bin", 50, compute, lambda _: None)
    assert len(asked) == 2 * times


# Rows


ASKED = [{"role": "user", "content": "Who?"}]
GOOD, BAD = {"role": "assistant", "content": "A cat."}, {"role": "assistant", "content": "No one at all."}
FORMS = {
    "conversations": {
        "conversations": [{"from": "human", "value": "Who?"}],
        "chosen": {"from": "gpt", "value": "A cat."},
        "rejected": {"from": "gpt", "value": "No one at all."},
    },
    "texts": {"prompt": "Who?", "chosen": "A cat.", "rejected": "No one at all."},
    "messages": {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
    "messages with the prompt again": {"prompt": ASKED, "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
    "text as prompt, messages as answers": {"prompt": "Who?", "chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
    "no prompt of its own": {"chosen": [*ASKED, GOOD], "rejected": [*ASKED, BAD]},
}


def pairs_of(path, **settings):
    return load(DataSettings(path=str(path), **settings), tokenizer(CHATML), seed=0, pairs=True)


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_every_form_of_preference_gives_the_chosen_and_then_the_rejected_answer(row, tmp_path):
    words = tokenizer(CHATML)
    dataset = pairs_of(write(tmp_path / "a.jsonl", [row]))
    read = [words.decode(each.tokens[each.supervised]) for each in dataset.train]
    assert [text.removesuffix("<|im_end|>") for text in read] == ["A cat.", "No one at all."]
    assert dataset.rows_per_example == 2
    assert not any("preferences" in note for note in dataset.notes)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ({"prompt": "Who?", "completion": "A cat."}, "one of the form prompt\\+completion"),
        ({"text": "Once"}, "one of the form text"),
        ({"prompt": "Who?", "chosen": "A cat.", "rejected": " "}, "empty or blank text at `rejected`"),
        ({"chosen": [GOOD], "rejected": [BAD]}, "none"),
        ({"chosen": ASKED, "rejected": [*ASKED, BAD]}, "nothing after them"),
    ],
)
def test_a_row_without_two_answers_is_refused(row, found, tmp_path):
    with pytest.raises(BadData, match=found):
        pairs_of(write(tmp_path / "a.jsonl", [FORMS["texts"], row]))


def test_a_pair_goes_as_a_whole_where_one_answer_is_too_long_or_both_are_the_same(tmp_path):
    rows = [
        FORMS["texts"],
        {"prompt": "Who?", "chosen": "A cat.", "rejected": "x" * 300},
        {"prompt": "Who?", "chosen": "A cat.", "rejected": "A cat."},
    ]
    dataset = pairs_of(write(tmp_path / "a.jsonl", rows), max_seq_length=128)
    assert len(dataset.train) == 2
    assert sorted(each.reason.partition(",")[2] or each.reason for each in dataset.refused) == [
        " longer than 128",
        "both answers have the same tokens",
    ]


def test_validation_holds_out_whole_pairs(tmp_path):
    rows = [{"prompt": f"{n}?", "chosen": f"{n}!", "rejected": f"{n}."} for n in range(20)]
    dataset = pairs_of(write(tmp_path / "a.jsonl", rows), valid_share=0.25)
    assert (len(dataset.train), len(dataset.valid)) == (30, 10)
    for split in (dataset.train, dataset.valid):
        assert [row.source for row in split[::2]] == [row.source for row in split[1::2]]


# Runs


@pytest.fixture
def settings(tmp_path):
    rows = [{"prompt": f"Tell of {n}.", "chosen": f"A cat has {n}.", "rejected": f"Zzz {n} qq"} for n in range(12)]
    return {
        "model.name": str(model(tmp_path)),
        "data.path": str(write(tmp_path / "rows.jsonl", rows)),
        "data.valid_share": 0.25,
        "objective.name": "dpo",
        "strategy.last_n": 1,
        "schedule.learning_rate": 1e-4,
        "train.max_steps": 6,
        "train.batch_size": 3,
        "train.eval_every": 3,
        "checkpoint.save_every": 2,
        "backend.name": BACKEND,
        "backend.precision": "fp32",
        "run.out": str(tmp_path / "run"),
    }


@pytest.mark.slow
def test_a_run_starts_at_the_logarithm_of_two_and_its_margin_grows(settings, tmp_path):
    session.start(build({}, settings))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert steps[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert steps[-1]["reward_margin"] > 0.1 > steps[0]["reward_margin"]
    assert steps[-1]["reward_accuracy"] == 1.0
    assert {"chosen_logp", "rejected_logp"} <= steps[0].keys()
    evals = [line for line in lines if line["event"] == "eval"]
    assert evals[-1]["loss"] < evals[0]["loss"]
    assert all(line["perplexity"] is None and line["rows"] == 3 for line in evals)


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_bytes_of_one_that_was_not(settings, tmp_path):
    session.start(build({}, settings))
    stopped = {**settings, "run.out": str(tmp_path / "stopped")}
    session.start(build({}, stopped), [Ask(3)])
    kept = Keep()
    session.start(build({}, stopped), [kept])
    assert last_bytes(tmp_path / "stopped") == last_bytes(tmp_path / "run")
    again = [event for event in kept if event.kind == "step"]
    assert [event.step for event in again] == [4, 5, 6]
    assert again[0].metrics["reward_margin"] > 0


@pytest.mark.parametrize("loss_on", ["all", "assistant", "last"])
def test_which_tokens_carry_loss_is_not_to_be_set(settings, loss_on):
    with pytest.raises(BadSetting, match="cancels out"):
        build({}, {**settings, "data.loss_on": loss_on})


def test_beta_without_dpo_is_refused(settings):
    with pytest.raises(BadSetting, match=r"objective\.beta is a setting of dpo"):
        build({}, {**settings, "objective.name": "sft", "objective.beta": 0.2})
