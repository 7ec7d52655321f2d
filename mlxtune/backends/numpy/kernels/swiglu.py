"""SwiGLU, Shazeer, arXiv:2002.05202: y = silu(gate) * up, with silu(g) = g * sigmoid(g).

N tokens, F features. gate and up are the halves of one array. The work goes by blocks of rows that stay in the cache.
"""

import numpy as np

from mlxtune.backends.numpy import threads
from mlxtune.backends.numpy.arrays import Array

BLOCK_ELEMENTS = 1 << 15


def swiglu(gate_up_N2F: Array, sigmoid_NF: Array, out_NF: Array) -> None:
    """Writes y, and sigmoid(gate), which the backward pass needs: (1 + tanh(g / 2)) / 2, which cannot overflow."""
    n_features = out_NF.shape[1]

    def block(rows: slice) -> None:
        gate, up, sigmoid = gate_up_N2F[rows, :n_features], gate_up_N2F[rows, n_features:], sigmoid_NF[rows]
        out = out_NF[rows]
        np.multiply(gate, 0.5, out=sigmoid)
        np.tanh(sigmoid, out=sigmoid)
        sigmoid *= 0.5
        sigmoid += 0.5
        np.multiply(gate, sigmoid, out=out)
        out *= up

    threads.each(block, _blocks(*out_NF.shape))


def swiglu_backward(
    gradient_NF: Array, gate_up_N2F: Array, sigmoid_NF: Array, gradients_N2F: Array, out_NF: Array
) -> None:
    """Writes the gradients of gate and up, and y once more, which is cheaper to compute than to keep.

    silu'(g) = s + silu(g) * (1 - s)
    """
    n_features = out_NF.shape[1]

    def block(rows: slice) -> None:
        gate, up, sigmoid = gate_up_N2F[rows, :n_features], gate_up_N2F[rows, n_features:], sigmoid_NF[rows]
        d_gate, d_up = gradients_N2F[rows, :n_features], gradients_N2F[rows, n_features:]
        gradient, out = gradient_NF[rows], out_NF[rows]
        np.multiply(gate, sigmoid, out=d_up)
        np.multiply(d_up, up, out=out)
        np.subtract(1.0, sigmoid, out=d_gate)
        d_gate *= d_up
        d_gate += sigmoid
        d_gate *= up
        d_gate *= gradient
        d_up *= gradient

    threads.each(block, _blocks(*out_NF.shape))


def _blocks(n_rows: int, n_features: int) -> list[slice]:
    step = max(1, BLOCK_ELEMENTS // n_features)
    return [slice(start, start + step) for start in range(0, n_rows, step)]
