"""What is compared, as data."""

from typing import NamedTuple

from mlxtune.bench.sides.spec import Case
from mlxtune.errors import BadSetting

CASES = (
    Case(
        "last-2-head",
        "Last 2 layers, vocabulary 32,000, head and norm trained",
        vocabulary=32_000,
        last_n=2,
        head=True,
        as_it_is=True,
    ),
    Case("last-2", "Last 2 layers, vocabulary 8,000, head frozen", vocabulary=8_000, last_n=2),
    Case(
        "last-4-head", "Last 4 layers, vocabulary 32,000, head and norm trained", vocabulary=32_000, last_n=4, head=True
    ),
    Case("lora-4", "LoRA of rank 8 on the last 4 layers, head frozen", vocabulary=8_000, last_n=4, lora_rank=8),
    Case(
        "even",
        "Adverse: every row has 96 tokens, all with loss; last 2 layers, head frozen",
        vocabulary=8_000,
        last_n=2,
        row_tokens=96,
    ),
    Case("lora-all", "LoRA of rank 8 on all layers: none is frozen", vocabulary=8_000, last_n=16, lora_rank=8),
)

MLXTUNE, EQUAL, AS_IT_IS = "mlxtune", "mlx-lm", "mlx-lm as it is"


class Variation(NamedTuple):
    """mlxtune with some of its techniques, by their names in the MLX backend."""

    words: str
    techniques: tuple[str, ...]


# In the order in which they are added up.
TECHNIQUES = {
    "split": "frozen layers apart",
    "gathered": "head on supervised tokens",
    "packed": "rows packed",
    "kept": "frozen layers' output kept",
    "sharded": "head in shards",
}
NEEDS = {"kept": ("split",), "sharded": ("gathered",)}  # what a technique cannot be without


def variations() -> list[Variation]:
    """None of the techniques, each alone, then one after the other on top of the first.

    >>> [variation.words for variation in variations()][-2:]
    ["+ frozen layers' output kept", '+ head in shards']
    >>> variations()[-1].techniques
    ('split', 'gathered', 'packed', 'kept', 'sharded')
    """
    first, *others = TECHNIQUES
    alone = [Variation(TECHNIQUES[name], (*NEEDS.get(name, ()), name)) for name in (*others, first)]
    added = [Variation(f"+ {TECHNIQUES[name]}", (first, *others[: n + 1])) for n, name in enumerate(others)]
    return [Variation("none of them", ()), *alone, *added]


def chosen(names: list[str]) -> list[Case]:
    """The cases with these names, or all. Raises BadSetting for a name that none has."""
    by_name = {case.name: case for case in CASES}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        raise BadSetting("--case", expected=", ".join(by_name), found=", ".join(unknown))
    return [by_name[name] for name in names] if names else list(CASES)
