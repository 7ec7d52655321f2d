"""What a model does to its head's products before it calls them logits: a factor, then perhaps a soft cap.

Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, Gemma 2 caps: cap * tanh(x / cap), Gemma Team,
arXiv:2408.00118, section 2.
"""

from typing import NamedTuple

import mlx.core as mx


class Output(NamedTuple):
    """An elementwise function: products of the head -> logits.

    >>> Output(factor=0.5, cap=30.0).logits(mx.array([0.0, 1e9])).tolist()
    [0.0, 30.0]
    """

    factor: float = 1.0
    cap: float | None = None

    def logits(self, products: mx.array) -> mx.array:
        """The function itself."""
        scaled = products if self.factor == 1.0 else products * self.factor
        return scaled if self.cap is None else self.cap * mx.tanh(scaled / self.cap)

    def pull_back(self, slopes: mx.array, logits: mx.array) -> mx.array:
        """Gradients by the logits -> by the products; tanh' = 1 - tanh^2."""
        scaled = slopes if self.factor == 1.0 else slopes * self.factor
        return scaled if self.cap is None else scaled * (1 - mx.square(logits / self.cap))


IDENTITY = Output()
