"""What memory is taken for. The sum at the moment when it is largest is the peak."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Parts:
    """Bytes at one moment of a run.

    gradients: those that are held at that moment. head_loss: logits, or shards of them, and what is computed with them.
    data: kept hidden states and tokens that are in memory.
    """

    frozen_weights: int = 0
    trainable_weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    head_loss: int = 0
    data: int = 0

    @property
    def total(self) -> int:
        """The sum.

        >>> Parts(frozen_weights=2, activations=3).total
        5
        """
        return sum(asdict(self).values())

    def plus(self, other: "Parts") -> "Parts":
        """Part by part.

        >>> Parts(gradients=1).plus(Parts(gradients=2)).gradients
        3
        """
        mine, theirs = asdict(self), asdict(other)
        return Parts(**{name: mine[name] + theirs[name] for name in mine})


def largest(moments: dict[str, Parts]) -> str:
    """The name of the moment with the largest sum."""
    return max(moments, key=lambda name: moments[name].total)
