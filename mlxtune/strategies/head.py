"""What happens to the head: the matrix from hidden states to logits, which many models tie to their embedding.

A tied head stays tied and frozen unless it is asked for: to train it as it is would train the embedding too, and with
it everything after it. Untying costs a copy, and other tools cannot load a head that the base model does not have.
"""

from typing import NamedTuple

from mlxtune.strategies.selection import Anatomy


class Head(NamedTuple):
    train: tuple[str, ...]  # base parameters; empty where the head stays frozen or becomes a copy
    untie: bool
    words: tuple[str, ...]
    notes: tuple[str, ...]


def choose_head(wanted: bool | None, anatomy: Anatomy) -> Head:
    """The head of a strategy that trains single layers. wanted: None is the default, True and False are the user's."""
    if wanted is False:
        return Head((), False, (), ("The head is frozen (--no-head).",))
    if anatomy.head is not None:
        return Head((anatomy.head,), False, ("head",), ())
    if wanted is None:
        return Head((), False, (), ("The head is tied to the embedding and stays frozen; --head trains a copy of it.",))
    return Head((), True, ("untied head",), (untie_cost(anatomy),))


def untie_cost(anatomy: Anatomy) -> str:
    """What --head costs on a tied model, as a sentence."""
    embedding = anatomy.parameters[anatomy.embedding]
    return (
        f"--head unties the head: a copy of the embedding, {embedding.size:,} parameters and "
        f"{embedding.bytes / 1e6:,.1f} MB of weights more, with gradients and moments besides. "
        "The adapter then has a head that the base model lacks: mlxtune loads it, mlx-lm does not."
    )
