"""The head and the loss in shards: against PyTorch in float64 and MLX's own, in 16 bits, and the memory it takes."""

from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
import torch

from mlxtune.backends.mlx.head import cross_entropy
from mlxtune.backends.mlx.head.cross_entropy import Head, cut, log_probabilities, log_probabilities_alone, shard_rows
from mlxtune.backends.mlx.head.output import IDENTITY, Output

N, D, V = 37, 24, 301
SHARDS = {"one shard": 301, "three": 101, "five, uneven": 64}  # rows of each
OUTPUTS = {"plain": IDENTITY, "factor": Output(0.3), "soft cap": Output(cap=6.0), "both": Output(0.5, 4.0)}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-6, 2e-6  # relative; of a gradient's largest entry
EVERY_SHARDING = pytest.mark.parametrize("rows", SHARDS.values(), ids=SHARDS)
EVERY_OUTPUT = pytest.mark.parametrize("output", OUTPUTS.values(), ids=OUTPUTS)


class Problem(NamedTuple):
    hidden_ND: np.ndarray
    head_VD: np.ndarray
    bias_V: np.ndarray | None
    targets_N: np.ndarray  # the first and the last of the vocabulary among them


class Result(NamedTuple):
    loss: float
    gradients: list[np.ndarray]  # by the hidden states, the head, the bias


def make_problem(*, bias=False, confident=0.0):
    """confident: how much of each target's row the hidden state is."""
    random = np.random.default_rng(0)
    hidden_ND, head_VD = random.standard_normal((N, D), np.float32), random.standard_normal((V, D), np.float32)
    targets_N = random.integers(0, V, N)
    targets_N[:2] = 0, V - 1
    hidden_ND += confident * head_VD[targets_N]
    return Problem(hidden_ND, head_VD, random.standard_normal(V, np.float32) if bias else None, targets_N)


def by_torch(problem, output, worth_N=None):
    """Everything in float64. worth_N: of each log-probability; the loss is then minus what they are worth together."""
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in problem[:3] if x is not None]
    products_NV = leaves[0] @ leaves[1].T + (leaves[2] if len(leaves) == 3 else 0)
    logits_NV = products_NV * output.factor
    if output.cap:
        logits_NV = output.cap * torch.tanh(logits_NV / output.cap)
    losses_N = torch.nn.functional.cross_entropy(logits_NV, torch.tensor(problem.targets_N), reduction="none")
    loss = losses_N.sum() if worth_N is None else (losses_N * torch.tensor(worth_N, dtype=torch.float64)).sum()
    sign = 1 if worth_N is None else -1
    return Result(loss.item(), [sign * gradient.numpy() for gradient in torch.autograd.grad(loss, leaves)])


def loss_of(hidden_ND, head, targets_N, *, head_trains=True):
    return -mx.sum(log_probabilities(hidden_ND, head, targets_N, head_trains=head_trains))


def in_shards(problem, output, rows, dtype=mx.float32, factor=1.0):
    """The gradient is of `factor` times the loss, divided by it again."""
    hidden_ND, head_VD, bias_V = (None if x is None else mx.array(x).astype(dtype) for x in problem[:3])
    targets_N = mx.array(problem.targets_N)

    def loss(inputs):
        hidden_ND, shards, *bias = inputs
        return factor * loss_of(hidden_ND, Head(shards, bias[0] if bias else None, output), targets_N)

    inputs = [hidden_ND, cut(head_VD, rows), *([] if bias_V is None else [bias_V])]
    value, (gradient_ND, by_shard, *by_bias) = mx.value_and_grad(loss)(inputs)
    assert all(gradient.dtype == dtype for gradient in (gradient_ND, *by_shard, *by_bias))
    gradients = [gradient_ND, mx.concatenate(by_shard), *by_bias]
    return Result(value.item() / factor, [numbers(gradient) / factor for gradient in gradients])


def whole(problem, output, dtype=mx.float32, factor=1.0):
    """The plain way: all logits at once, MLX's cross-entropy in float32, MLX's gradient."""
    inputs = [mx.array(x).astype(dtype) for x in problem[:3] if x is not None]

    def loss(inputs):
        products_NV = (inputs[0] @ inputs[1].T).astype(mx.float32) + (inputs[2] if len(inputs) == 3 else 0)
        return factor * mx.sum(mx.fast.cross_entropy(output.logits(products_NV), mx.array(problem.targets_N)))

    value, gradients = mx.value_and_grad(loss)(inputs)
    return Result(value.item() / factor, [numbers(gradient) / factor for gradient in gradients])


def numbers(array):
    return np.array(array.astype(mx.float32)).astype(np.float64)


def errors(ours, theirs):
    """Of the loss, and of each gradient."""
    pairs = zip(ours.gradients, theirs.gradients, strict=True)
    return abs(ours.loss / theirs.loss - 1), [np.abs(a - b).max() / np.abs(b).max() for a, b in pairs]


def agree(ours, theirs):
    loss_error, gradient_errors = errors(ours, theirs)
    return loss_error < LOSS_TOLERANCE and max(gradient_errors) < GRADIENT_TOLERANCE


# Against others


@EVERY_SHARDING
@EVERY_OUTPUT
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.few(2)
def test_loss_and_every_gradient_are_those_of_torch(rows, output, bias):
    problem = make_problem(bias=bias)
    assert agree(in_shards(problem, output, rows), by_torch(problem, output))


@EVERY_OUTPUT
def test_loss_and_every_gradient_are_those_of_mlx_on_whole_logits(output):
    problem = make_problem(bias=True)
    assert agree(in_shards(problem, output, rows=64), whole(problem, output))


@EVERY_SHARDING
def test_without_a_gradient_the_loss_is_the_same(rows):
    problem = make_problem(bias=True)
    hidden_ND, head_VD, bias_V, targets_N = (mx.array(x) for x in problem)
    loss = -mx.sum(log_probabilities_alone(hidden_ND, Head(cut(head_VD, rows), bias_V, OUTPUTS["both"]), targets_N))
    assert abs(loss.item() / by_torch(problem, OUTPUTS["both"]).loss - 1) < LOSS_TOLERANCE


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_logits_of_ten_thousand_give_the_loss_and_gradients_of_torch(size):
    """Such logits have steps of a thousandth in float32: all products and biases here are multiples of an eighth."""
    problem = make_problem(bias=True)
    near = Problem(
        np.sign(problem.hidden_ND) / 2, np.sign(problem.head_VD) / 4, size + np.sign(problem.bias_V), problem.targets_N
    )
    assert agree(in_shards(near, IDENTITY, rows=64), by_torch(near, IDENTITY))
    apart = near._replace(bias_V=size * np.sign(problem.bias_V))
    assert agree(in_shards(apart, IDENTITY, rows=64), by_torch(apart, IDENTITY))


@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.float32, 5e-6), (mx.float16, 5e-3)], ids=["fp32", "fp16"])
def test_a_target_whose_exponential_became_zero_still_has_its_gradient_under_a_soft_cap(dtype, tolerance):
    """Logits from -200 to 200, and targets far from the largest."""
    problem, output = rounded(make_problem(), dtype), Output(9.0, 200.0)
    loss_error, gradient_errors = errors(in_shards(problem, output, 64, dtype), by_torch(problem, output))
    assert loss_error < LOSS_TOLERANCE + tolerance / 10
    assert max(gradient_errors) < tolerance


FAULTS = {
    "of_shard": lambda slopes_NR: 1.001 * slopes_NR,
    "_normalizer": lambda normalizer: normalizer._replace(total=1.001 * normalizer.total),
    "_target": lambda target: 1.001 * target,
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_comparison_catches_a_fault_of_a_tenth_of_a_percent_in(name, monkeypatch):
    home = cross_entropy._Slopes if name == "of_shard" else cross_entropy
    problem, right = make_problem(), getattr(home, name)
    monkeypatch.setattr(home, name, lambda *arguments: FAULTS[name](right(*arguments)))
    assert not agree(in_shards(problem, IDENTITY, rows=64), by_torch(problem, IDENTITY))


@EVERY_OUTPUT
def test_the_comparison_catches_a_fault_of_a_tenth_of_a_percent_in_any_gradient(output):
    problem = make_problem(bias=True)
    ours, theirs = in_shards(problem, output, rows=64), by_torch(problem, output)
    for i, gradient in enumerate(ours.gradients):
        gradients = [*ours.gradients[:i], 1.001 * gradient, *ours.gradients[i + 1 :]]
        assert not agree(ours._replace(gradients=gradients), theirs)


# 16 bits and scales


def rounded(problem, dtype):
    """The problem that a model of this type has."""
    arrays = (None if x is None else numbers(mx.array(x).astype(dtype)).astype(np.float32) for x in problem[:3])
    return Problem(*arrays, problem.targets_N)


@EVERY_OUTPUT
@pytest.mark.parametrize("confident", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(mx.bfloat16, 2e-2), (mx.float16, 3e-3)], ids=["bf16", "fp16"])
def test_in_16_bits_errors_are_small_and_those_of_the_plain_way(output, confident, dtype, tolerance):
    problem = make_problem(bias=True, confident=confident)
    exact = by_torch(rounded(problem, dtype), output)
    loss_error, gradient_errors = errors(in_shards(problem, output, 64, dtype), exact)
    plain_loss_error, plain_errors = errors(whole(problem, output, dtype), exact)
    assert loss_error < min(tolerance / 10, plain_loss_error + LOSS_TOLERANCE)
    assert max(gradient_errors) < min(tolerance, 2 * max(plain_errors))


@EVERY_SHARDING
@EVERY_OUTPUT
def test_each_tokens_gradient_is_multiplied_by_what_its_log_probability_is_worth(rows, output):
    problem = make_problem(bias=True)
    worth_N = np.random.default_rng(3).standard_normal(N).astype(np.float32)
    hidden_ND, head_VD, bias_V, targets_N = (mx.array(x) for x in problem)

    def judged(inputs):
        logps_N = log_probabilities(inputs[0], Head(inputs[1], inputs[2], output), targets_N, head_trains=True)
        return mx.sum(mx.array(worth_N) * logps_N)

    value, (gradient_ND, by_shard, by_bias) = mx.value_and_grad(judged)([hidden_ND, cut(head_VD, rows), bias_V])
    gradients = [numbers(gradient_ND), numbers(mx.concatenate(by_shard)), numbers(by_bias)]
    assert agree(Result(-value.item(), gradients), by_torch(problem, output, worth_N))


def test_in_float16_a_loss_scale_keeps_small_gradients():
    """All is sure but for 1e-7 of each other token: below what float16 has, unless it is scaled before."""
    problem = make_problem(bias=True)
    bias_V = np.where(np.arange(V) == 0, np.float32(16.0), np.float32(0.0))
    sure = rounded(Problem(0.1 * problem.hidden_ND, problem.head_VD, bias_V, np.zeros(N, np.int64)), mx.float16)
    others_VD = by_torch(sure, IDENTITY).gradients[1][1:]

    def error(factor):
        ours_VD = in_shards(sure, IDENTITY, 64, mx.float16, factor).gradients[1][1:]
        return np.abs(ours_VD - others_VD).max() / np.abs(others_VD).max()

    assert error(2.0**16) < 3e-3
    assert error(1.0) > 0.03


# A frozen head


def test_a_frozen_head_gives_the_same_gradient_of_the_hidden_states_and_none_of_its_own():
    problem = make_problem()
    hidden_ND, head_VD, targets_N = mx.array(problem.hidden_ND), mx.array(problem.head_VD), mx.array(problem.targets_N)

    def loss(hidden_ND, shards):
        return loss_of(hidden_ND, Head(shards), targets_N, head_trains=False)

    value, (gradient_ND, by_shard) = mx.value_and_grad(loss, argnums=(0, 1))(hidden_ND, cut(head_VD, 64))
    exact = by_torch(problem, IDENTITY)
    assert agree(Result(value.item(), [numbers(gradient_ND)]), exact._replace(gradients=exact.gradients[:1]))
    assert not any(mx.any(gradient).item() for gradient in by_shard)


# Shards


@pytest.mark.parametrize("vocabulary", [1, 96, 4096, 4097, 32_000, 50_257, 128_256, 151_936, 262_144])
def test_shards_are_some_thousand_rows_or_more_and_32_at_most(vocabulary):
    rows = shard_rows(vocabulary)
    count = -(-vocabulary // rows)
    assert count <= 32
    assert rows <= 1024 or count == 32
    assert rows >= min(vocabulary, 512)


def test_cut_shards_are_the_head_and_outlive_it_one_by_one():
    head_VD = mx.random.normal((4000, 64))
    copy, before = np.array(head_VD), mx.get_active_memory()
    shards = cut(head_VD, 1500)
    assert np.array_equal(np.concatenate([np.array(shard) for shard in shards]), copy)
    assert [shard.shape[0] for shard in shards] == [1500, 1500, 1000]
    del head_VD
    assert abs(mx.get_active_memory() - before) < 50_000
    del shards[0]
    assert before - mx.get_active_memory() > 1500 * 64 * 4 - 50_000
