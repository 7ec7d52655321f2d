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
    gradient_ND: Array, unit_ND: Array, scale_N: Array, weight_D: Array, weight_gradient_D: Array | None
) -> None:
    """Turns the gradient of y into that of x, in place; writes the weight's gradient where there is one.

    unit_ND: x times scale, which is overwritten. With g = gradient * weight and u = unit:
    dx = scale * (g - u * mean(g * u)), dweight = sum(gradient * u).
    """
    if weight_gradient_D is not None:
        product_ND = gradient_ND * unit_ND
        np.add.reduce(product_ND.reshape(-1, weight_D.size), 0, out=weight_gradient_D)
    gradient_ND *= weight_D
    mean_N = np.vecdot(gradient_ND, unit_ND)
    mean_N *= 1 / weight_D.size
    unit_ND *= mean_N[..., None]
    gradient_ND -= unit_ND
    gradient_ND *= scale_N[..., None]
