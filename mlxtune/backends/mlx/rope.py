"""The rotary settings of a config.json in the keys that mlx-lm reads.

Since version 5 transformers writes them as one mapping, `rope_parameters`, by itself or for each type of attention.
Most architectures of mlx-lm look for the older keys only, and would quietly take their own default base instead. Where
a config has both, the newer ones count, but for a `rope_scaling`, which replaces them all: so transformers reads it.
"""

from collections.abc import Mapping
from typing import Any


def older_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """The keys to add to a config, in place of its own: what its `rope_parameters` say.

    >>> older_keys({"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}})
    {'rope_theta': 500000.0}
    >>> older_keys({"rope_theta": 10000.0, "rope_scaling": None})
    {}
    """
    parameters = {} if config.get("rope_scaling") else config.get("rope_parameters") or {}
    everywhere = parameters.get("full_attention") or parameters
    kind = everywhere.get("rope_type", "default")
    found = {
        "rope_theta": everywhere.get("rope_theta"),
        "rope_scaling": None if kind == "default" else {**everywhere, "type": kind},
        "partial_rotary_factor": everywhere.get("partial_rotary_factor"),
        "rope_local_base_freq": (parameters.get("sliding_attention") or {}).get("rope_theta"),
    }
    added = {key: value for key, value in found.items() if value is not None}
    if text := config.get("text_config"):
        added["text_config"] = {**text, **older_keys(text)}
    return added
