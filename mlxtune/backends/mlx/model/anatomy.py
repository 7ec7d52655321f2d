"""The Anatomy of an mlx-lm model, read from its module tree: which parameters are layers, head, embedding, norm."""

from collections.abc import Mapping, Set

import mlx.nn as nn
from mlx.utils import tree_flatten

from mlxtune.backends.mlx.model import linear
from mlxtune.backends.mlx.model.linear import Linear
from mlxtune.errors import BadModel
from mlxtune.strategies.selection import Anatomy, Parameter


def describe(model: nn.Module) -> Anatomy:
    """Names and shapes of the model's parts. Raises BadModel where no list of layers or embedding is found."""
    modules = {name: module for name, module in model.named_modules() if name}
    layers = _layer_prefixes(model, modules)
    outside = {name: module for name, module in modules.items() if not f"{name}.".startswith(layers)}
    parameters = {name: Parameter(tuple(array.shape), array.nbytes) for name, array in tree_flatten(model.parameters())}
    embedding = _token_embedding(model, outside)
    linears = {name: found for name, module in modules.items() if (found := linear.describe(module))}
    head = _linear_with(linears.keys() & outside.keys(), linears, outside[embedding].weight.shape[0])
    norms = tuple(f"{name}." for name, module in outside.items() if "Norm" in type(module).__name__)
    return Anatomy(
        parameters=parameters,
        linears={name: (found.n_in, found.n_out) for name, found in linears.items() if found.takes_adapter},
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
    rows = {name: found for name, module in modules.items() if (found := linear.table_rows(module))}
    if not rows:
        raise BadModel(model.__class__.__module__, expected="a token embedding", found="none", remedy=UNKNOWN)
    vocabulary = getattr(getattr(model, "args", None), "vocab_size", None)
    return max(rows, key=lambda name: (rows[name] == vocabulary, rows[name]))


def _linear_with(outside: Set[str], linears: Mapping[str, Linear], n_out: int) -> str | None:
    """The name of the linear module with so many outputs, outside of the layers: the head where it is its own."""
    return next((name for name in sorted(outside) if linears[name].n_out == n_out), None)
