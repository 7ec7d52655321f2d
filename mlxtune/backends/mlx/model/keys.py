"""config.json in the keys that mlx-lm's code for its family takes, with nothing left to mlx-lm's own defaults.

What the file leaves out has transformers' default; what mlx-lm calls otherwise is given by both names.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any

from mlxtune.models import declared

# mlx-lm's names, and what transformers has in their place.
OTHER_NAMES: Mapping[str, str] = {
    "n_ctx": "max_position_embeddings",
    "block_dim": "hidden_size",
    "block_ff_dim": "intermediate_size",
    "rotary_emb_base": "rope_theta",
    "rotary_pct": "partial_rotary_factor",
}
# What transformers' code has fixed, and mlx-lm's asks for.
FIXED: Mapping[str, Mapping[str, Any]] = {
    "apertus": {"mlp_bias": False, "post_norm": False, "qk_norm": True},
    "deepseek_v2": {"rope_scaling": {"type": "default", "factor": 1.0}},
    "minimax": {"shared_intermediate_size": 0},
}
ROPE = ("rope_theta", "rope_scaling", "partial_rotary_factor", "rope_local_base_freq")


def completed(raw: Mapping[str, Any], config: Any, args_class: Any) -> dict[str, Any]:
    """The keys to add to a config.json, in place of its own, for mlx-lm's ModelArgs."""
    text = config.get_text_config()
    names = [field.name for field in fields(args_class)]
    added = _completed(raw, text if "text_config" not in raw else config, names)
    if nested := raw.get("text_config"):
        added["text_config"] = {**nested, **_completed(nested, text, {*declared.keys(text), *ROPE, *OTHER_NAMES})}
    elif added.get("rope_scaling") and not _takes(args_class, {**raw, **added}):
        added["rope_scaling"] = None  # a type of RoPE that mlx-lm refuses for the family is put in afterwards
    return added


def _takes(args_class: Any, config: Mapping[str, Any]) -> bool:
    try:
        args_class.from_dict(copy.deepcopy(config))
    except (ValueError, TypeError, KeyError):
        return False
    return True


def _completed(raw: Mapping[str, Any], config: Any, names: Iterable[str]) -> dict[str, Any]:
    rope = rope_keys(declared.value(config, "rope_parameters") or {})
    fixed = FIXED.get(config.model_type, {})
    added: dict[str, Any] = {}
    for name in names:
        found = _value(config, name, rope, fixed)
        if found is not None and (raw.get(name) is None or name in (*rope, "sliding_window_pattern")):
            added[name] = found
        elif name not in raw and name in ROPE:
            added[name] = None  # some of mlx-lm's code must be told that there is none
    return added


def _value(config: Any, name: str, rope: Mapping[str, Any], fixed: Mapping[str, Any]) -> Any:
    known = {**dict.fromkeys(ROPE), **fixed, **rope}
    for called in (name, OTHER_NAMES.get(name, name)):
        found = known[called] if called in known else declared.value(config, called)
        if found is not None and called != "sliding_window_pattern":
            return found
    derive = DERIVED.get(name)
    return derive(config) if derive else None


def _pattern(config: Any) -> int | str | None:
    """EXAONE 4 spells it in letters, local and global."""
    every = declared.pattern(config)
    return every if every is None or config.model_type != "exaone4" else "L" * (every - 1) + "G"


def _rotary_dim(config: Any) -> int:
    parameters = declared.value(config, "rope_parameters") or {}
    return int(declared.head_dim(config) * parameters.get("partial_rotary_factor", 1.0))


DERIVED: Mapping[str, Callable[[Any], Any]] = {
    "head_dim": declared.head_dim,
    "rotary_dim": _rotary_dim,
    "sliding_window_pattern": _pattern,
}


def rope_only(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to add where transformers does not know the family."""
    added = {} if raw.get("rope_scaling") else rope_keys(raw.get("rope_parameters") or {})
    if nested := raw.get("text_config"):
        added["text_config"] = {**nested, **rope_only(nested)}
    return added


def rope_keys(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What `rope_parameters` say, in the older keys.

    >>> rope_keys({"rope_theta": 500000.0, "rope_type": "default"})
    {'rope_theta': 500000.0}
    """
    everywhere = parameters.get("full_attention") or parameters
    kind = everywhere.get("rope_type", "default")
    found = {
        "rope_theta": everywhere.get("rope_theta"),
        "rope_scaling": None if kind == "default" else {**everywhere, "type": kind},
        "partial_rotary_factor": everywhere.get("partial_rotary_factor"),
        "rope_local_base_freq": (parameters.get("sliding_attention") or {}).get("rope_theta"),
    }
    return {key: value for key, value in found.items() if value is not None}
