"""RMSNorm over the last axis, Zhang and Sennrich, arXiv:1910.07467: y = x / sqrt(mean(x^2) + epsilon) * weight.

N vectors (any leading axes), D features
"""

import numpy as np

from mlxtune.backends.numpy.arrays import Array


def rms_norm(x_ND: Array, weight_D: Array, epsilon: float, out_ND: Array) -> Array:
    """Writes y; gives 1 / rms of each vector, (N,), which the backward pass needs."""
    scale_N: Array = np.vecdot(x_ND, x_ND)
    scale_N *= 1 / x_ND.shape[-1]
    scale_N += epsilon
    np.sqrt(scale_N, out=scale_N)
    np.reciprocal(scale_N, out=scale_N)
    np.multiply(x_ND, scale_N[..., None], out=out_ND)
    out_ND *= weight_D
    return scale_N


def rms_norm_backward(
    gradient_ND: Array, x_ND: Array, scale_N: Array, weight_D: Array, weight_gradient_D: Array | None, spare_ND: Array
) -> None:
    """Turns the gradient of y into that of x, in place; writes the weight's gradient where there is one.

    spare_ND: contiguous, overwritten. With g = gradient * weight and the mean over a vector's features:
    dx = scale * g - x * scale^3 * mean(g * x), dweight = sum(scale * gradient * x) over the vectors.
    """
    if weight_gradient_D is not None:
        np.multiply(gradient_ND, x_ND, out=spare_ND)
        np.matmul(scale_N.reshape(-1), spare_ND.reshape(-1, weight_D.size), out=weight_gradient_D)
    gradient_ND *= weight_D
    factor_N = np.vecdot(gradient_ND, x_ND)
    factor_N *= scale_N**3
    factor_N *= 1 / weight_D.size
    gradient_ND *= scale_N[..., None]
    np.multiply(x_ND, factor_N[..., None], out=spare_ND)
    gradient_ND -= spare_ND
