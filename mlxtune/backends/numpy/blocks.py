"""How much is computed at once: known without NumPy, as the plan of a run's memory asks it too."""

from itertools import pairwise

QUERIES = 64  # of the attention; the triangle of one block that is computed for nothing is then small
LOGITS = 1 << 25  # 128 MiB, of 1,048 tokens with a vocabulary of 32,000


def query_blocks(n_tokens: int) -> list[tuple[int, int]]:
    """Where each block of a row's queries begins and ends.

    >>> query_blocks(150)
    [(0, 64), (64, 128), (128, 150)]
    """
    return [*pairwise([*range(0, n_tokens, QUERIES), n_tokens])]


def logit_tokens(n_vocabulary: int) -> int:
    """Of how many tokens there are logits at once.

    >>> logit_tokens(32_000), logit_tokens(1 << 26)
    (1048, 1)
    """
    return max(1, LOGITS // n_vocabulary)
