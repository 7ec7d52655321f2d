"""Whole training steps against PyTorch: transformers' Llama, torch.optim.AdamW, PEFT's LoRA, all in float32."""

import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from mlxtune.optim.adamw import AdamW
from mlxtune.optim.schedule import Cosine, learning_rate
from mlxtune.strategies.full import Full
from mlxtune.strategies.last_n import LastN
from mlxtune.strategies.lora import Lora
from tests.support.batches import unpadded
from tests.support.mlx import in_one_piece, make_batch, make_learner, write_model
from tests.support.slow import all_but

# PEFT asks transformers a question by a name that is about to go.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

STEPS = 20
CLIP_NORM = 1.4  # some steps are clipped and some are not
OPTIMIZER = AdamW(weight_decay=0.1)
SCHEDULE = Cosine(learning_rate=1e-2, warmup_steps=5, min_learning_rate=1e-4)
CASES = {  # whether the head is tied, and what trains
    "untied last-n": (False, LastN(last_n=2)),
    "untied full": (False, Full()),
    "untied lora": (False, Lora(rank=4, scale=2.0)),
    "tied last-n": (True, LastN(last_n=2)),
    "tied last-n with a head of its own": (True, LastN(last_n=2, head=True)),
    "tied full": (True, Full()),
    "tied lora": (True, Lora(rank=4, scale=2.0)),
}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A model folder with a head of its own, and one with a tied head."""
    return {tied: write_model(tmp_path_factory.mktemp("model"), tie_word_embeddings=tied) for tied in (False, True)}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request, models):
    tied, strategy = request.param
    return models[tied], strategy


def window(step, grad_accum):
    """The micro-batches of a step: ragged, padded, with masked prompts; every fourth step has the same."""
    turn = step % 4
    return [make_batch(100 * turn + i, lengths=(24 - 3 * i, 17, 9 + turn, 20)) for i in range(grad_accum)]


class TorchTwin:
    """The same model, the same selection and the same start, in PyTorch."""

    def __init__(self, folder, learner):
        torch.set_num_threads(1)  # of such small matrices
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        if learner.parts.selection.untie_head:
            model.lm_head.weight = torch.nn.Parameter(model.model.embed_tokens.weight.detach().clone())
        self.model = with_peft(model, learner) if learner.parts.selection.adapters else model
        parameters = {our_name(name): parameter for name, parameter in self.model.named_parameters()}
        self.trained = {name: parameters[name] for name in in_one_piece(learner.trained.weights)}
        for name, parameter in parameters.items():
            parameter.requires_grad = name in self.trained
        matrices = [p for p in self.trained.values() if p.ndim > 1]
        others = [p for p in self.trained.values() if p.ndim == 1]
        groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=OPTIMIZER.weight_decay)

    def loss_sum(self, batch):
        tokens_BT = torch.tensor(batch.tokens_BT.astype(np.int64))
        attended_BT = torch.arange(tokens_BT.shape[1]) < torch.tensor(batch.lengths_B)[:, None]
        logits_BTV = self.model(input_ids=tokens_BT, attention_mask=attended_BT).logits[:, :-1]
        supervised_BT = torch.tensor(batch.supervised_BT[:, 1:])
        logits_NV, targets_N = logits_BTV[supervised_BT], tokens_BT[:, 1:][supervised_BT]
        return torch.nn.functional.cross_entropy(logits_NV, targets_N, reduction="sum")

    def backward(self, batches):
        """The mean loss over the supervised tokens of all batches; its gradients are left in the parameters."""
        self.optimizer.zero_grad()
        n_tokens = sum(int(batch.supervised_BT.sum()) for batch in batches)
        loss = 0.0
        for batch in batches:
            part = self.loss_sum(batch) / n_tokens
            part.backward()
            loss += part.item()
        return loss

    def step(self, batches, rate):
        loss = self.backward(batches)
        norm = torch.nn.utils.clip_grad_norm_(self.trained.values(), CLIP_NORM).item()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        return loss, norm

    def gradients(self, batches):
        self.backward(batches)
        return {name: as_ours(name, parameter.grad) for name, parameter in self.trained.items()}


def with_peft(model, learner):
    """PEFT's LoRA on the learner's modules, with A and B copied from it."""
    import peft

    first = learner.parts.selection.adapters[0].settings
    modules = [adapter.module for adapter in learner.parts.selection.adapters]
    alpha = first.scale * first.rank
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=first.rank, lora_alpha=alpha, target_modules=modules))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if our_name(name) in learner.trained.weights:  # adapters
                parameter.copy_(torch.tensor(np.array(learner.trained.weights[our_name(name)]).T))
    return wrapped


def our_name(name):
    name = name.removeprefix("base_model.model.").replace(".base_layer", ".linear")
    return re.sub(r"\.lora_([AB])\.default\.weight$", lambda match: f".lora_{match[1].lower()}", name)


def as_ours(name, tensor):
    return tensor.T.numpy() if ".lora_" in name else tensor.numpy()


def our_gradients(learner, batches):
    gradients = in_one_piece(learner.gradients(batches, 1 / sum(batch.n_supervised for batch in batches))[1])
    return {name: np.array(gradient) for name, gradient in gradients.items()}


def errors(ours, theirs) -> Iterator[float]:
    """For each tensor the largest difference, in its largest entry."""
    assert ours.keys() == theirs.keys()
    for name in ours:
        yield float(np.abs(ours[name] - theirs[name]).max() / max(np.abs(theirs[name]).max(), 1e-30))


def fill_lora_b(learner):
    """B is zero at the start, and with it A's gradient: give it values."""
    random = np.random.default_rng(0)
    for name, array in learner.trained.weights.items():
        if name.endswith("lora_b"):
            values = 0.1 * random.standard_normal(array.shape, np.float32)
            learner.trained.weights[name] = type(array)(values)


def our_curve(learner, grad_accum, change=lambda batches: batches):
    """Loss and gradient norm of each of the twenty steps."""
    curve = []
    for step in range(1, STEPS + 1):
        result = learner.step(change(window(step, grad_accum)), learning_rate(SCHEDULE, step, STEPS))
        curve.append((result.loss.loss_sum / result.loss.counted, result.grad_norm))
    return np.array(curve)


def torch_curve(twin, grad_accum):
    return np.array(
        [twin.step(window(step, grad_accum), learning_rate(SCHEDULE, step, STEPS)) for step in range(1, STEPS + 1)]
    )


@pytest.mark.parametrize("grad_accum", all_but(["1"], {"1": 1, "3": 3}))
@pytest.mark.few(2)
def test_losses_and_norms_of_twenty_steps_agree_with_torch(case, grad_accum):
    learner = make_learner(*case, optimizer=OPTIMIZER, clip_norm=CLIP_NORM)
    theirs = torch_curve(TorchTwin(case[0], learner), grad_accum)
    np.testing.assert_allclose(our_curve(learner, grad_accum), theirs, rtol=LOSS_TOLERANCE)


def with_a_stray_pad_token(batches):
    """One pad token after the second row carries loss, as in trainers that mask by `steps <= lengths`."""
    first = batches[0]
    supervised_BT, lengths_B = first.supervised_BT, first.lengths_B.copy()
    supervised_BT[1, lengths_B[1]] = True
    lengths_B[1] += 1
    return [unpadded(first.tokens_BT, supervised_BT, lengths_B), *batches[1:]]


FAULTS = {
    "no decay": {"optimizer": AdamW(weight_decay=0.0)},
    "decay of the norms too": {"optimizer": AdamW(weight_decay=0.1, decay_norms_and_biases=True)},
    "another beta": {"optimizer": AdamW(weight_decay=0.1, beta2=0.99)},
    "no clipping": {"clip_norm": None},
    "a trained pad token": {},
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.few(2)
def test_the_loss_comparison_notices(models, fault):
    learner = make_learner(models[False], LastN(last_n=2), **{"optimizer": OPTIMIZER, **FAULTS[fault]})
    theirs = torch_curve(TorchTwin(models[False], learner), 1)
    change = with_a_stray_pad_token if fault == "a trained pad token" else lambda batches: batches
    ours = our_curve(learner, 1, change)
    assert np.abs(ours[:, 0] / theirs[:, 0] - 1).max() > 10 * LOSS_TOLERANCE


@pytest.mark.parametrize("grad_accum", [1, 3])
@pytest.mark.few(2)
def test_every_gradient_of_the_first_step_agrees_with_torch(case, grad_accum):
    learner = make_learner(*case)
    fill_lora_b(learner)
    twin = TorchTwin(case[0], learner)
    batches = window(1, grad_accum)
    assert max(errors(our_gradients(learner, batches), twin.gradients(batches))) < GRADIENT_TOLERANCE


@pytest.mark.few(2)
def test_the_gradient_comparison_catches_a_fault_of_a_tenth_of_a_percent_in_any_tensor(case):
    learner = make_learner(*case)
    fill_lora_b(learner)
    ours = our_gradients(learner, window(1, 1))
    theirs = TorchTwin(case[0], learner).gradients(window(1, 1))
    for name in ours:
        assert max(errors({**ours, name: ours[name] * 1.001}, theirs)) > 50 * GRADIENT_TOLERANCE
