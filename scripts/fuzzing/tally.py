"""What was found: counts of each kind, and of each finding how to see it again."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fuzzing.kinds import Kind

WHATS = ("taken", "refused", "findings")


class Finding(NamedTuple):
    """what: the fault in a few words, the same for inputs with the same fault."""

    kind: str
    what: str
    number: int


class Tally:
    """What all workers found."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.findings: dict[tuple[str, str], list[int]] = {}

    def add(self, finding: Finding) -> None:
        known = self.findings.setdefault((finding.kind, finding.what), [])
        known.append(finding.number)
        if len(known) == 1:
            print(f"found: {finding.kind}: {finding.what} (--only {finding.number})", file=sys.stderr, flush=True)

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def table(tally: Tally, kinds: Mapping[str, Kind], seconds: float) -> Iterator[str]:
    """Counts of each kind, and of each finding its number of inputs and how to see the first again."""
    yield f"{'kind':<12}{'inputs':>10}{'taken':>10}{'refused':>10}{'findings':>10}"
    for name in [*kinds, "all"]:
        found = {
            what: sum(n for (kind, each), n in tally.counts.items() if each == what and name in (kind, "all"))
            for what in WHATS
        }
        yield f"{name:<12}{sum(found.values()):>10,}" + "".join(f"{found[what]:>10,}" for what in WHATS)
    yield f"{seconds:,.0f} s, {tally.total / max(seconds, 0.001):,.0f} inputs a second"


def findings(tally: Tally, options: Any) -> Iterator[str]:
    again = f"scripts/fuzz --seed {options.seed}" + (f" --kinds {' '.join(options.kinds)}" if options.kinds else "")
    for (kind, what), numbers in sorted(tally.findings.items(), key=lambda each: -len(each[1])):
        yield f"{kind}: {what} ({len(numbers):,} inputs)\n    {again} --only {min(numbers)}"
