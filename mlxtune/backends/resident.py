"""How much of the memory this process had at most, as the benchmarks compare it."""

import resource
import sys
from pathlib import Path


def peak_resident_bytes() -> int:
    """The largest resident size of this process. Linux's ru_maxrss would take in that of the process it came from."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
