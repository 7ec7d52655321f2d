"""Into how many parts a head is cut: known without an array library, as the plan of a run's memory asks it too."""

import math

SHARD_ROWS, MOST_SHARDS = 1024, 32


def shard_rows(vocabulary: int) -> int:
    """How many rows a shard should have: about 1,000, equal shards, and 32 of them at most.

    The logits of 2,048 tokens are then 8 MB, and what AdamW holds for a shard is small beside a layer: with 4,000 rows
    a step of a head of 32,000 by 256 held 43 MB more. More shards would leave the device idle: each adds some twenty
    kernels that must run in order.

    >>> shard_rows(128_256), shard_rows(32_000), shard_rows(8_000)
    (4008, 1000, 1000)
    """
    return math.ceil(vocabulary / min(MOST_SHARDS, math.ceil(vocabulary / SHARD_ROWS)))
