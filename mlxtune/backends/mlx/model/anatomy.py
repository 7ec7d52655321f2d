"""The Anatomy of an mlx-lm model, read from its module tree: which parameters are layers, head, embedding, norm."""

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxtune.errors import BadModel
from mlxtune.strategies.selection import Anatomy, Parameter


def describe(model: nn.Module) -> Anatomy:
    """Names and shapes of the model's parts. Raises BadModel where no list of layers or embedding is found."""
    modules = {name: module for name, module in model.named_modules() if name}
    layers = _layer_prefixes(model, modules)
    outside = {name: module for name, module in modules.items() if not f"{name}.".startswith(layers)}
    parameters = {name: Parameter(tuple(array.shape), array.nbytes) for name, array in tree_flatten(model.parameters())}
    embedding = _token_embedding(model, outside)
    head = _linear_with(outside, rows=outside[embedding].weight.shape[0])
    norms = tuple(f"{name}." for name, module in outside.items() if "Norm" in type(module).__name__)
    return Anatomy(
        parameters=parameters,
        linears={name: module.weight.shape[::-1] for name, module in modules.items() if type(module) is nn.Linear},
        layers=layers,
        head=f"{head}.weight" if head else None,
        embedding=f"{embedding}.weight",
        final_norm=tuple(name for name in parameters if norms and name.startswith(norms)),
    )


UNKNOWN = "mlxtune cannot find its way in this architecture; please report the model's name."


def _layer_prefixes(model: nn.Module, modules: dict[str, nn.Module]) -> tuple[str, ...]:
    """The names of `model.layers`, which mlx-lm gives every architecture, wherever the list itself lives."""
    names = {id(module): name for name, module in modules.items()}
    prefixes = tuple(f"{names[id(layer)]}." for layer in getattr(model, "layers", ()) if id(layer) in names)
    if not prefixes:
        raise BadModel(model.__class__.__module__, expected="a list of layers", found="none", remedy=UNKNOWN)
    return prefixes


def _token_embedding(model: nn.Module, modules: dict[str, nn.Module]) -> str:
    """The embedding with a row for each token: GPT-2 and its kin have one for positions too."""
    rows = {name: module.weight.shape[0] for name, module in modules.items() if isinstance(module, nn.Embedding)}
    if not rows:
        raise BadModel(model.__class__.__module__, expected="a token embedding", found="none", remedy=UNKNOWN)
    vocabulary = getattr(getattr(model, "args", None), "vocab_size", None)
    return max(rows, key=lambda name: (rows[name] == vocabulary, rows[name]))


def _linear_with(modules: dict[str, nn.Module], rows: int) -> str | None:
    """The name of the linear module with so many outputs, outside of the layers: the head where it is its own."""
    names = (name for name, module in modules.items() if isinstance(module, nn.Linear))
    return next((name for name in sorted(names) if modules[name].weight.shape[0] == rows), None)
