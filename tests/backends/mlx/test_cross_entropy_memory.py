"""What memory the head and the loss in shards take, as MLX counts it."""

import mlx.core as mx
import pytest

from mlxtune.backends.mlx.head.cross_entropy import Head, cut, log_probabilities, log_probabilities_alone, shard_rows


def peak(run):
    """Bytes that a call needs beyond what is there before it; what it gives is evaluated and let go."""
    mx.synchronize()
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    mx.eval(run())
    return mx.get_peak_memory() - before


def large(n, d, vocabulary=64_000):
    """Hidden states, head, targets; evaluated."""
    hidden_ND, head_VD = mx.random.normal((n, d)), 0.2 * mx.random.normal((vocabulary, d))
    targets_N = mx.random.randint(0, vocabulary, (n,))
    mx.eval(hidden_ND, head_VD, targets_N)
    return hidden_ND, head_VD, targets_N


def of_trained(shards, hidden_ND, targets_N):
    def loss(inputs):
        return -mx.sum(log_probabilities(inputs[0], Head(inputs[1]), targets_N, head_trains=True))

    return mx.value_and_grad(loss)([hidden_ND, shards])


@pytest.mark.slow
def test_a_trained_head_needs_less_than_half_of_the_plain_losss_memory():
    """And little more than the exponentials of all logits, 66 MB here."""
    hidden_ND, head_VD, targets_N = large(n=256, d=16)

    def plain(inputs):
        return mx.sum(mx.fast.cross_entropy(inputs[0] @ inputs[1].T, targets_N))

    of_whole = peak(lambda: mx.value_and_grad(plain)([hidden_ND, head_VD]))
    shards = cut(head_VD, shard_rows(64_000))
    of_shards = peak(lambda: of_trained(shards, hidden_ND, targets_N))
    assert of_shards < of_whole / 2
    assert of_shards < 1.5 * 256 * 64_000 * 4


@pytest.mark.slow
def test_of_16_bit_logits_exponentials_of_16_bits_are_kept():
    hidden_ND, head_VD, targets_N = large(n=256, d=16)
    shards = cut(head_VD.astype(mx.bfloat16), shard_rows(64_000))
    hidden_ND = hidden_ND.astype(mx.bfloat16)
    assert peak(lambda: of_trained(shards, hidden_ND, targets_N)) < 1.3 * 256 * 64_000 * 4


@pytest.mark.slow
def test_an_objective_over_log_probabilities_takes_hardly_more_than_their_sum():
    hidden_ND, head_VD, targets_N = large(n=256, d=16)
    shards = cut(head_VD, shard_rows(64_000))
    of_sum = peak(lambda: of_trained(shards, hidden_ND, targets_N))

    def margin(inputs):
        logps_N = log_probabilities(inputs[0], Head(inputs[1]), targets_N, head_trains=True)
        return mx.logaddexp(mx.array(0.0), mx.sum(logps_N[128:]) - mx.sum(logps_N[:128]))

    assert peak(lambda: mx.value_and_grad(margin)([hidden_ND, shards])) < 1.05 * of_sum


def test_no_gradient_of_a_frozen_head_is_held():
    hidden_ND, head_VD, targets_N = large(n=8, d=128)
    shards = cut(head_VD, shard_rows(64_000))

    def loss(hidden_ND):
        return -mx.sum(log_probabilities(hidden_ND, Head(shards), targets_N, head_trains=False))

    frozen = mx.value_and_grad(loss)
    assert peak(lambda: frozen(hidden_ND)) < head_VD.nbytes / 4


def test_without_a_gradient_no_exponentials_are_kept():
    hidden_ND, head_VD, targets_N = large(n=256, d=8)
    shards = cut(head_VD, shard_rows(64_000))
    assert peak(lambda: log_probabilities_alone(hidden_ND, Head(shards), targets_N)) < 0.6 * 256 * 64_000 * 4
