"""Which keys of a config.json the code of an architecture in mlx-lm reads: its source tells.

A key counts as read where `ModelArgs` has it and the code asks for it anywhere. What transformers' class of the family
has besides must be computed by us, change nothing, or be as mlx-lm takes it to be; else the model is refused by name.
"""

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from mlxtune.errors import BadModel, MlxtuneError
from mlxtune.models import declared

ROPE = ("rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor")
WINDOWS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
OURS = frozenset({*ROPE, *WINDOWS, "hidden_act", "hidden_activation", "activation_function", "tie_word_embeddings"})
# Families whose key mlx-lm reads, and computes otherwise than transformers: the key, what is right, when it is not.
OTHERWISE: Mapping[str, tuple[str, str, Callable[[Any], bool]]] = {
    "jamba": ("num_experts", "1: mlx-lm weighs the chosen experts otherwise", lambda config: config.num_experts > 1),
    "mamba2": ("layer_norm_epsilon", "1e-05, which mlx-lm has fixed in part", lambda c: c.layer_norm_epsilon != 1e-5),
    "phimoe": (
        "num_experts_per_tok",
        "2, which transformers has fixed",
        lambda config: config.num_experts_per_tok != 2,
    ),
    "gpt_bigcode": ("multi_query", "true: mlx-lm lays the heads out otherwise", lambda config: not config.multi_query),
}
REMEDY = "mlx-lm's code for this family does not compute it, so that another model than this one would be trained."


def of(args_class: Any) -> frozenset[str]:
    """The fields of a ModelArgs that the architecture's code reads."""
    module = sys.modules[args_class.__module__]
    return frozenset({field.name for field in fields(args_class)} & _asked_for(module))


def faults(path: Path, raw: Mapping[str, Any], config: Any, args_class: Any) -> Iterator[MlxtuneError]:
    """A fault for each key that matters and that no one computes, or that mlx-lm computes otherwise."""
    for key in sorted(unread(raw, config, args_class) - declared.SHAPES):
        expected = f"{declared.without(raw, key)!r}, which is what mlx-lm computes for this family"
        yield BadModel(f"{path}: {key}", expected=expected, found=repr(raw[key]), remedy=REMEDY)
    for key in _null(raw, args_class) - OURS:
        if declared.value(config, key) is None:
            yield BadModel(f"{path}: {key}", expected="a value", found="null", remedy=REMEDY)
    key, expected, otherwise = OTHERWISE.get(config.model_type, ("", "", None))
    if otherwise and otherwise(config):
        yield BadModel(f"{path}: {key}", expected=expected, found=repr(declared.value(config, key)), remedy=REMEDY)


def unread(raw: Mapping[str, Any], config: Any, args_class: Any) -> set[str]:
    """The keys that matter to transformers, and that neither mlx-lm nor we compute."""
    keys = (declared.keys(config) & raw.keys()) - of(args_class) - OURS - declared.inert(config)
    return {key for key in keys if declared.matters(raw, key, config)}


def _null(raw: Mapping[str, Any], args_class: Any) -> set[str]:
    """The keys that are null, where mlx-lm's code must have a number to compute with."""
    taken = fields(args_class)
    must = {field.name for field in taken if field.type in (float, "float")}
    return {key for key in must & raw.keys() if raw[key] is None}


@cache
def _asked_for(module: ModuleType) -> frozenset[str]:
    """Every attribute that the module's source reads, and that of mlx-lm's modules it takes from."""
    tree = ast.parse(inspect.getsource(module))
    found = {node.attr for node in _outside_args(tree) if isinstance(node, ast.Attribute)}
    for other in _taken_from(module):
        found |= _asked_for(other)
    return frozenset(found)


def _outside_args(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes, but of a ModelArgs only what it makes other fields of: that it fills a default is no reading."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and node.name.endswith("Args"):
            yield from _derivations(node)
        else:
            yield node
            yield from _outside_args(node)


def _derivations(args_class: ast.ClassDef) -> Iterator[ast.AST]:
    for node in ast.walk(args_class):
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            made = {target.attr for target in targets if isinstance(target, ast.Attribute)}
            yield from (part for part in ast.walk(node.value) if getattr(part, "attr", None) not in made)


def _taken_from(module: ModuleType) -> set[ModuleType]:
    """mlx-lm's other architectures whose classes or names the module uses."""
    names = {getattr(thing, "__module__", None) or getattr(thing, "__name__", "") for thing in vars(module).values()}
    names |= {thing.__name__ for thing in vars(module).values() if isinstance(thing, ModuleType)}
    mine = {name for name in names if isinstance(name, str) and name.startswith("mlx_lm.models.")}
    return {sys.modules[name] for name in mine - {module.__name__, "mlx_lm.models.base", "mlx_lm.models.cache"}}
