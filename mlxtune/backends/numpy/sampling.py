"""The next token out of its logits: the likeliest, or drawn from those that share top_p of the probability.

Nucleus sampling: Holtzman and others, arXiv:1904.09751.
"""

import numpy as np

from mlxtune.backends.base import Sampling
from mlxtune.backends.numpy.arrays import Array


def choose(logits_V: Array, sampling: Sampling, generator: np.random.Generator) -> int:
    """One token.

    >>> choose(np.float32([0.0, 2.0, 1.0]), Sampling(1, 0.0, 1.0, 0), np.random.default_rng(0))
    1
    >>> narrow = Sampling(1, temperature=1.0, top_p=0.5, seed=0)
    >>> {choose(np.float32([0.0, 2.0, 1.0]), narrow, np.random.default_rng(seed)) for seed in range(20)}
    {1}
    """
    if sampling.temperature == 0:
        return int(logits_V.argmax())
    scaled = logits_V.astype(np.float64) / sampling.temperature
    probabilities = np.exp(scaled - scaled.max())
    probabilities /= probabilities.sum()
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order])
    if 0 < sampling.top_p < 1:
        n_kept = int(np.searchsorted(cumulative, sampling.top_p)) + 1  # the one that reaches top_p is among them
        order, cumulative = order[:n_kept], cumulative[:n_kept]
    place = np.searchsorted(cumulative, generator.random() * cumulative[-1], side="right")
    return int(order[min(int(place), order.size - 1)])
