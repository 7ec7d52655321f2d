"""Whether MLX computes here, how fast, and whether its gradient of a cross-entropy is right."""

from typing import Any

import mlx.core as mx

from mlxtune.backends import probe
from mlxtune.backends.mlx import device


def measure() -> probe.Probe:
    """Takes about half a second, on a processor without a fast BLAS one or two."""
    return probe.Probe(
        device.name(),
        device.is_processor(),
        device.memory_limit_bytes(),
        probe.gflops(_product()),
        probe.gradient_error(_gradient()),
    )


def _product() -> probe.Multiply:
    left = mx.ones((probe.SIZE, probe.SIZE), mx.float32)
    mx.eval(left)
    return lambda: mx.eval(left @ left)


def _gradient() -> Any:
    hidden_ND, targets_N1 = mx.array(probe.HIDDEN_ND), mx.array(probe.TARGETS_N)[:, None]

    def loss(head_VD: mx.array) -> mx.array:
        logits_NV = hidden_ND @ head_VD.T
        return (mx.logsumexp(logits_NV, -1) - mx.take_along_axis(logits_NV, targets_N1, -1)[:, 0]).sum()

    return mx.grad(loss)(mx.array(probe.HEAD_VD)).tolist()
