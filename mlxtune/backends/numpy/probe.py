"""Whether NumPy computes here, how fast, and whether the head's kernel has the right gradient."""

import numpy as np

from mlxtune.backends import probe
from mlxtune.backends.numpy import device
from mlxtune.backends.numpy.arrays import Workspace
from mlxtune.backends.numpy.kernels.cross_entropy import Worth, log_probabilities_and_gradients


def measure() -> probe.Probe:
    """Takes about half a second."""
    return probe.Probe(
        device.name(), True, device.memory_bytes(), probe.gflops(_product()), probe.gradient_error(_gradient())
    )


def _product() -> probe.Multiply:
    left = np.ones((probe.SIZE, probe.SIZE), np.float32)
    out = np.empty_like(left)
    return lambda: np.matmul(left, left, out=out)


def _gradient() -> probe.Matrix:
    hidden_ND, head_VD = np.array(probe.HIDDEN_ND, np.float32), np.array(probe.HEAD_VD, np.float32)
    found_VD = np.empty_like(head_VD)
    worth = Worth(lambda logps_N, _: -np.ones_like(logps_N), is_pointwise=True)
    log_probabilities_and_gradients(hidden_ND, head_VD, np.array(probe.TARGETS_N), worth, found_VD, Workspace())
    return [list(map(float, row)) for row in found_VD]
