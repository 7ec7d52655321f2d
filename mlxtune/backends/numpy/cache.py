"""Keys and values of the tokens so far, of one layer, for generating.

K key-value heads, h head size, S tokens so far
"""

import numpy as np

from mlxtune.backends.numpy.kernels.attention import Heads


class Cache:
    """Room for a number of tokens, made at once."""

    def __init__(self, n_kv_heads: int, n_tokens: int, head_dim: int) -> None:
        self.keys_KSh = np.empty((n_kv_heads, n_tokens, head_dim), np.float32)
        self.values_KSh = np.empty_like(self.keys_KSh)
        self.n_tokens = 0

    def extend(self, heads: Heads) -> Heads:
        """The heads with the keys and values of all tokens so far, those of `heads` the last; of one row."""
        begin, self.n_tokens = self.n_tokens, self.n_tokens + heads.keys_PSh.shape[1]
        self.keys_KSh[:, begin : self.n_tokens] = heads.keys_PSh
        self.values_KSh[:, begin : self.n_tokens] = heads.values_PSh
        return Heads(heads.queries_PMh, self.keys_KSh[:, : self.n_tokens], self.values_KSh[:, : self.n_tokens])
