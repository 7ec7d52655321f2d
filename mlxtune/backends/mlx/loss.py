"""The loss: a sum over supervised tokens, in float32.

B rows, T tokens, V vocabulary
"""

import mlx.core as mx
import mlx.nn as nn


def loss_sum(model: nn.Module, tokens_BT: mx.array, supervised_BT: mx.array) -> mx.array:
    """Sum of the cross-entropy of the supervised tokens, each predicted from those before it; nats, float32."""
    logits_BTV = model(tokens_BT[:, :-1])
    loss_BT = cross_entropy(logits_BTV, tokens_BT[:, 1:])
    return mx.sum(mx.sum(mx.where(supervised_BT[:, 1:], loss_BT, 0.0), axis=-1))


def cross_entropy(logits_BTV: mx.array, targets_BT: mx.array) -> mx.array:
    """Negative log-likelihood of each target, float32.

    The kernels of Metal and CUDA work in float32 on 16-bit logits. On the CPU `mx.fast.cross_entropy` reduces in the
    logits' own type, which in bfloat16 is off by up to 0.1 nats a token: there they are cast before.
    """
    if mx.default_device().type == mx.DeviceType.cpu:
        logits_BTV = logits_BTV.astype(mx.float32)
    return mx.fast.cross_entropy(logits_BTV, targets_BT)
