"""Holds a run to its memory: a batch larger than all before is planned before it is computed, and may end the run."""

from collections.abc import Iterable

from mlxtune.errors import RunStopped
from mlxtune.events import Memory
from mlxtune.format import size
from mlxtune.memory.plan import Plan, plan
from mlxtune.memory.setup import Rows, Setup

LOWER = (
    "Lower --batch-size (with --grad-accum), --max-seq-length or --last-n, or give --grad-checkpoint; --fit chooses."
)


class TooLarge(RunStopped):
    """A batch that does not fit. Its step has not begun."""


class Guard:
    """The largest shapes that are known to fit, and what a new one would need.

    factor: what the run was seen to take over what was planned for it, 1 until it is more. evaluated, kept_tokens: as
    of `plan`: the validation and what is kept take memory beside every step.
    """

    def __init__(
        self,
        setup: Setup,
        limit_bytes: int,
        factor: float = 1.0,
        evaluated: Rows | None = None,
        kept_tokens: int = 0,
    ) -> None:
        self.setup, self.limit_bytes, self.factor = setup, limit_bytes, factor
        self.evaluated, self.kept_tokens = evaluated, kept_tokens
        self.known: dict[Rows, Plan] = {}
        self.largest: Plan | None = None
        self.before_bytes = 0  # the peak when training begins: of the check at the start, on the run's largest batch

    def check(self, batches: Iterable[Rows], step: int) -> None:
        """Raises TooLarge where a micro-batch would go past the limit; it has not begun."""
        for rows in batches:
            if self._is_smaller(rows):
                continue
            needed = self.needed(rows)
            if not self._within(needed):
                raise TooLarge(
                    f"step {step:,}",
                    expected=f"a batch that fits {size(self.limit_bytes)}",
                    found=f"one of {in_words(rows)} that needs {size(needed.peak_bytes)}",
                    remedy=LOWER,
                )
            if self.largest is None or needed.peak_bytes > self.largest.peak_bytes:
                self.largest = needed

    def needed(self, rows: Rows) -> Plan:
        """The plan of a run with such a micro-batch."""
        if rows not in self.known:
            self.known[rows] = plan(self.setup, rows, self.evaluated, self.kept_tokens, self.factor)
        return self.known[rows]._replace(factor=self.factor)

    def fits(self, rows: Rows) -> bool:
        """Whether it does."""
        return self._is_smaller(rows) or self._within(self.needed(rows))

    def _within(self, needed: Plan) -> bool:
        """Where the limit is not known, all is."""
        return not self.limit_bytes or needed.peak_bytes <= self.limit_bytes

    def note(self, memory: Memory) -> None:
        """Learn from what was measured: later batches are expected to be off by as much."""
        peak_bytes = memory.peak_memory_bytes
        if self.largest is None or peak_bytes <= self.before_bytes:
            return
        if peak_bytes > self.largest.parts.total * self.factor:
            self.factor = peak_bytes / self.largest.parts.total

    def _is_smaller(self, rows: Rows) -> bool:
        """Than one that fits, in everything that memory grows with."""
        packed, mine = self.setup.decisions.packs_rows, rows.grows_with(packed=self.setup.decisions.packs_rows)
        return any(
            all(a <= b for a, b in zip(mine, other.grows_with(packed=packed), strict=True))
            for other, found in self.known.items()
            if self._within(found._replace(factor=self.factor))
        )


def in_words(rows: Rows) -> str:
    """A micro-batch.

    >>> in_words(Rows((1023, 511), 1031, 800))
    '2 rows, the longest of 1,024 tokens'
    """
    count = len(rows.lengths)
    return f"{count:,} row{'s, the longest' if count > 1 else ''} of {max(rows.lengths) + 1:,} tokens"
