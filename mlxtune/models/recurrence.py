"""Whether tokens of a model meet in attention alone, as the names of its parameters say.

Then rows may lie end to end: the mask keeps them apart. A convolution or a state over tokens would carry one row into
the next, and a table of positions would go on counting.
"""

import re
from collections.abc import Iterable

ACROSS_TOKENS = re.compile(
    r"(?:^|\.|_)(?:"
    r"\w*conv\w*|A_log|w_lora|g_norm|rg_lru"  # convolutions, and states: Mamba, RWKV, linear attention, Griffin
    r"|wpe|position_embeddings|embed_positions"  # a table of positions
    r"|\w*ngram\w*"  # what a token is embedded as depends on those before it
    r"|altup_\w+"  # several hidden states a token, which mlx-lm's code keeps apart by their places
    r")(?:\.|$)"
)


def attends_only(parameters: Iterable[str]) -> bool:
    """Whether nothing but attention reaches from a token to another.

    >>> attends_only(["model.layers.0.self_attn.q_proj.weight", "lm_head.weight"])
    True
    >>> attends_only(["backbone.layers.0.mixer.conv1d.weight"]), attends_only(["wpe.weight"])
    (False, False)
    """
    return not any(map(ACROSS_TOKENS.search, parameters))
