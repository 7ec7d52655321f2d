"""Where a model's head is, what enters it and what is done to its products, found by running the model.

For the time of a call the head is of a class whose product is another function: one that gives chosen test values
shows what the model does to them, one that stops the model shows what entered.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlxtune.backends.mlx.head.output import Output
from mlxtune.backends.mlx.model import anatomy, linear

TOKENS_BT = np.array([[0, 1, 2]])
SMALL, LARGE = 2.0**-10, 1e4  # products that a soft cap of the usual 30 leaves as they are, and drives to the cap
TOLERANCE = 1e-5  # relative
Product = Callable[[mx.array], mx.array]


class FoundHead(NamedTuple):
    """A head of which all is known that the loss needs: logits = output(hidden @ weight.T + bias)."""

    module: nn.Module  # the linear layer, or the embedding that it is tied to
    method: str  # the module's function that makes the product
    output: Output

    @property
    def weight(self) -> mx.array:
        """The weight as it is now, (V, D)."""
        return self.module.weight

    @property
    def bias(self) -> mx.array | None:
        """The bias as it is now, (V,), where there is one."""
        return self.module.get("bias")

    def logits(self, hidden_ND: mx.array) -> mx.array:
        """Of what enters it, (N, V), all at once."""
        products_NV = hidden_ND @ self.weight.T
        return self.output.logits(products_NV if self.bias is None else products_NV + self.bias)


def probe(model: nn.Module) -> FoundHead | None:
    """The model's head; None where the model does with it what we do not know, and must make its logits itself.

    No weight is read: what is evaluated depends on the test values alone.
    """
    found = _head(model)
    if found is None:
        return None
    module, method = found
    answers = _answers(model, module, method)
    output = _output_of(*answers) if answers else None
    return None if output is None else FoundHead(module, method, output)


def is_asked(model: nn.Module, module: nn.Module) -> bool:
    """Whether the model asks a linear module, once, for the logits of every token. No weight is read."""
    return _answers(model, module, "__call__") is not None


@contextmanager
def stopped_at(head: FoundHead) -> Iterator[list[mx.array]]:
    """Within, the model runs up to its head; what enters it is put into the list, (B, T, D), after the final norm.

    The block may be inside a function that MLX differentiates. It ends where the head is called. Who reads the list
    takes the array out of it: the class that the head has within lives until Python looks for cycles, and the list too.
    """
    entered: list[mx.array] = []

    def stop(hidden_BTD: mx.array) -> mx.array:
        entered.append(hidden_BTD)
        raise _Stop

    with _instead(head.module, head.method, stop), suppress(_Stop):
        yield entered


class _Stop(Exception):
    """The head is called."""


@contextmanager
def _instead(module: nn.Module, method: str, product: Product) -> Iterator[None]:
    """Within, `module` makes its product by another function; it is the same object and has all its attributes."""
    own = type(module)
    module.__class__ = type(own.__name__, (own,), {method: lambda _, hidden: product(hidden)})
    try:
        yield
    finally:
        module.__class__ = own


def _head(model: nn.Module) -> tuple[nn.Module, str] | None:
    """The head's module and the function that is its product, where it is a plain linear layer or embedding.

    An adapter adds to the product of the module inside it, nothing at its start: its own arrays give it away.
    """
    parts, modules = anatomy.describe(model), dict(model.named_modules())
    name = (parts.head or parts.embedding).removesuffix(".weight")
    holder = modules[name.rpartition(".")[0]]
    in_adapter = any(isinstance(value, mx.array) for value in holder.values())
    method = linear.product(modules[name])
    return None if method is None or in_adapter else (modules[name], method)


def _answers(model: nn.Module, module: nn.Module, method: str) -> tuple[mx.array, mx.array] | None:
    """Test values as the head's products, and the logits that the model makes of them.

    None where the head is not called exactly once, on every token.
    """
    entered: list[mx.array] = []
    products_BTV = _test_values((*TOKENS_BT.shape, module.weight.shape[0]))

    def product(hidden_BTD: mx.array) -> mx.array:
        entered.append(hidden_BTD)
        return products_BTV

    with _instead(module, method, product):
        logits_BTV = model(mx.array(TOKENS_BT))
    as_expected = [hidden_BTD.shape[:-1] for hidden_BTD in entered] == [TOKENS_BT.shape]
    return (products_BTV, logits_BTV) if as_expected else None


def _test_values(shape: tuple[int, ...]) -> mx.array:
    """Of all sizes and both signs; the first two are SMALL and LARGE. float32, whatever the model's type."""
    random = np.random.default_rng(0)
    values = np.exp(random.uniform(np.log(SMALL), np.log(LARGE), shape)) * random.choice([-1, 1], shape)
    values[0, 0, :2] = SMALL, LARGE
    return mx.array(values.astype(np.float32))


def _output_of(products_BTV: mx.array, logits_BTV: mx.array) -> Output | None:
    """The Output that explains every logit, if one does."""
    products, logits = np.array(products_BTV), np.array(logits_BTV.astype(mx.float32))
    if logits.shape != products.shape:
        return None
    factor, cap = float(logits[0, 0, 0]) / SMALL, float(logits[0, 0, 1])
    candidates = (Output(factor), Output(factor, cap))
    return next((output for output in candidates if _explains(output, products_BTV, logits)), None)


def _explains(output: Output, products_BTV: mx.array, logits: np.ndarray) -> bool:
    return np.allclose(np.array(output.logits(products_BTV)), logits, rtol=TOLERANCE, atol=0)
