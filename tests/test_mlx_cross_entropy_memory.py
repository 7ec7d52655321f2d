"""What memory the head and the loss in shards take, as MLX counts it."""

import mlx.core as mx

from mlxtune.backends.mlx.head.cross_entropy import Head, cut, head_loss, loss_alone, shard_rows, trained_head_loss


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
        return trained_head_loss(inputs[0], Head(inputs[1]), targets_N)

    return mx.value_and_grad(loss)([hidden_ND, shards])


def of_consumed(shards, hidden_ND, targets_N):
    """Steps of gradient descent, each shard's in place of the shard. Takes the list's shards away."""
    taken, after = list(shards), []
    shards.clear()

    def consume(i, gradient):
        after.append(taken[i] - 0.1 * gradient)
        return after[-1:]

    loss = mx.value_and_grad(lambda hidden_ND: head_loss(hidden_ND, Head(taken), targets_N, consume=consume))
    result = loss(hidden_ND)
    taken.clear()
    return result, after


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


def test_of_16_bit_logits_exponentials_of_16_bits_are_kept():
    hidden_ND, head_VD, targets_N = large(n=256, d=16)
    shards = cut(head_VD.astype(mx.bfloat16), shard_rows(64_000))
    hidden_ND = hidden_ND.astype(mx.bfloat16)
    assert peak(lambda: of_trained(shards, hidden_ND, targets_N)) < 1.3 * 256 * 64_000 * 4


def test_consumed_gradients_are_never_there_together():
    hidden_ND, head_VD, targets_N = large(n=8, d=128)
    of_head = head_VD.nbytes
    shards = cut(head_VD, shard_rows(64_000))
    del head_VD
    returned = peak(lambda: of_trained(shards, hidden_ND, targets_N))
    consumed = peak(lambda: of_consumed(shards, hidden_ND, targets_N))
    assert of_head < returned < 1.5 * of_head
    assert consumed < of_head / 2


def test_all_is_consumed_before_the_gradient_of_the_hidden_states_is_given():
    hidden_ND, head_VD, targets_N = large(n=8, d=8, vocabulary=20_000)
    (_, gradient_ND), after = of_consumed(cut(head_VD, 4000), hidden_ND, targets_N)
    mx.eval(gradient_ND)
    mx.synchronize()
    before = mx.get_active_memory()
    assert peak(lambda: after) <= 0  # nothing is left to do
    assert mx.get_active_memory() == before


def test_no_gradient_of_a_frozen_head_is_held():
    hidden_ND, head_VD, targets_N = large(n=8, d=128)
    shards = cut(head_VD, shard_rows(64_000))
    frozen = mx.value_and_grad(lambda hidden_ND: head_loss(hidden_ND, Head(shards), targets_N))
    assert peak(lambda: frozen(hidden_ND)) < head_VD.nbytes / 4


def test_without_a_gradient_no_exponentials_are_kept():
    hidden_ND, head_VD, targets_N = large(n=256, d=8)
    shards = cut(head_VD, shard_rows(64_000))
    assert peak(lambda: loss_alone(hidden_ND, Head(shards), targets_N)) < 0.6 * 256 * 64_000 * 4
