"""The feed-forward's activation where config.json names another than mlx-lm's code for the family computes."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import SwitchGLU

Activation = Callable[[mx.array], mx.array]

ACTIVATIONS: Mapping[str, Activation] = {
    "silu": nn.silu,
    "swish": nn.silu,
    "gelu": nn.gelu,
    "gelu_new": nn.gelu_approx,
    "gelu_fast": nn.gelu_approx,
    "gelu_pytorch_tanh": nn.gelu_approx,
    "relu": nn.relu,
    "relu2": nn.relu2,
}
# What mlx-lm computes whatever the config says, where that is not what transformers takes the family to have.
MLX_LM_HAS = {"gemma": "gelu", "gpt_bigcode": "gelu", "gpt_neox": "gelu_new", "starcoder2": "gelu"}


def differs(family: str, named: str | None, default: str | None) -> bool:
    """Whether the activation that a config names is another than mlx-lm's."""
    return ACTIVATIONS.get(str(named), named) != ACTIVATIONS.get(str(found := MLX_LM_HAS.get(family, default)), found)


def put_in(model: nn.Module, name: str) -> bool:
    """The named activation in every layer's feed-forward; False, with nothing changed, where that is not known how."""
    activation = ACTIVATIONS.get(name)
    found = [[module for _, module in layer.named_modules() if _formula(module)] for layer in model.layers]
    recurrent = any("mamba" in name or "conv" in name for layer in model.layers for name, _ in layer.named_modules())
    if activation is None or recurrent or not all(found):
        return False
    for module in (module for of_layer in found for module in of_layer):
        _change(module, activation)
    return True


def _change(module: nn.Module, activation: Activation) -> None:
    if isinstance(module, SwitchGLU):
        module.activation = lambda up, gate: activation(gate) * up
        return
    formula, own = _formula(module), type(module)
    assert formula is not None
    call = {"__call__": lambda self, x: formula(self, x, activation), "__module__": own.__module__}
    module.__class__ = type(own.__name__, (own,), call)


def _formula(module: nn.Module) -> Callable[..., mx.array] | None:
    """How a feed-forward is computed, by the linear layers that it is made of."""
    if isinstance(module, SwitchGLU):
        return _gated
    names = tuple(sorted(name for name, _ in module.children().items()))
    return FORMULAS.get(names)


def _gated(self: Any, x: mx.array, activation: Activation) -> mx.array:
    return self.down_proj(activation(self.gate_proj(x)) * self.up_proj(x))


def _joined(self: Any, x: mx.array, activation: Activation) -> mx.array:
    gate, up = mx.split(self.gate_up_proj(x), 2, axis=-1)
    return self.down_proj(activation(gate) * up)


def _plain(first: str, second: str, self: Any, x: mx.array, activation: Activation) -> mx.array:
    return self[second](activation(self[first](x)))


PAIRS = (
    ("c_fc", "c_proj"),
    ("fc1", "fc2"),
    ("fc_in", "fc_out"),
    ("up_proj", "down_proj"),
    ("dense_h_to_4h", "dense_4h_to_h"),
)
FORMULAS: Mapping[tuple[str, ...], Callable[..., mx.array]] = {
    ("down_proj", "gate_proj", "up_proj"): _gated,
    ("down_proj", "gate_up_proj"): _joined,
    **{tuple(sorted(pair)): partial(_plain, *pair) for pair in PAIRS},
}
