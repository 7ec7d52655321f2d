"""Train the built-in model for many steps and show that the process takes no more at the end than at the start.

    scripts/long_run.py [--steps 20000] [--backend numpy|mlx]

Resident memory, descriptors and threads are read every hundredth part of the steps (Linux: /proc; macOS: ps and
/dev/fd). The run is that of `mlxtune train` with its log, checkpoints and validation. Memory grows where the middle of
the last quarter's readings is above the middle of the second quarter's by more than 50 bytes a step; the first quarter
is left out, in which allocators find their size. Ends with 0 where nothing grows.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from statistics import median
from typing import NamedTuple

from mlxtune.events import Event, Step
from mlxtune.recipe.recipe import build
from mlxtune.report.plain import Plain
from mlxtune.run import session as run

READINGS = 100
ALLOWED_BYTES_A_STEP = 50.0


class Reading(NamedTuple):
    step: int
    resident_bytes: int
    descriptors: int
    threads: int


def reading(step: int) -> Reading:
    """What this process holds now."""
    if sys.platform == "linux":
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    else:
        resident = 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(os.getpid())]))
    return Reading(step, resident, len([*Path("/dev/fd").iterdir()]), threading.active_count())


class Watch:
    """The report that takes a reading every `every` steps."""

    def __init__(self, every: int) -> None:
        self.every, self.readings = every, list[Reading]()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Step) and event.step % self.every == 0:
            self.readings.append(reading(event.step))

    def close(self) -> None:
        """Nothing is held."""


def watched(steps: int, backend: str, out: Path) -> list[Reading]:
    """The readings of one run."""
    changes = {"train.max_steps": steps, "backend.name": backend, "backend.precision": "fp32", "run.out": str(out)}
    watch = Watch(max(1, steps // READINGS))
    with (out.parent / "screen.txt").open("w") as stream:
        run.start(build({}, changes), [Plain(stream), watch])
    return watch.readings


def growth(readings: list[Reading]) -> float:
    """Bytes a step, from the second quarter to the last."""
    quarter = len(readings) // 4
    early, late = readings[quarter : 2 * quarter], readings[-quarter:]
    grown = median(each.resident_bytes for each in late) - median(each.resident_bytes for each in early)
    return grown / (median(each.step for each in late) - median(each.step for each in early))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--backend", choices=("numpy", "mlx"), default="numpy")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readings = watched(given.steps, given.backend, Path(folder) / "run")
    for each in readings[:: max(1, len(readings) // 10)]:
        shown = f"{each.resident_bytes / 1e6:8.1f} MB {each.descriptors:4} descriptors {each.threads:3} threads"
        print(f"step {each.step:7,} {shown}")
    grown = growth(readings)
    steady = len({(each.descriptors, each.threads) for each in readings[len(readings) // 4 :]}) == 1
    print(f"{given.backend}: {grown:+.0f} bytes a step; descriptors and threads {'steady' if steady else 'vary'}")
    return 0 if grown < ALLOWED_BYTES_A_STEP and steady else 1


if __name__ == "__main__":
    sys.exit(main())
