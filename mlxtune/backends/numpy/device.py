"""What NumPy computes on: the processor, the BLAS and its threads, the memory."""

import os
import platform
from functools import cache
from pathlib import Path

PREFIX_SHARE = 0.25  # of the machine's memory, for the frozen layers' output


def name() -> str:
    """The device in words: "AMD EPYC, 2 threads of its 2 cores"."""
    cores = os.cpu_count() or 1
    return f"{processor()}, CPU, {threads()} of {cores} cores"


@cache
def threads() -> int:
    """How many threads the BLAS may use: OpenBLAS reads these variables when NumPy is imported."""
    for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(variable, "").isdigit():
            return max(1, int(os.environ[variable]))
    return os.cpu_count() or 1


def prefix_bytes(prefix_cache: str) -> int:
    """What the frozen layers' output may take; 0: it is not kept."""
    return 0 if prefix_cache == "off" else int(PREFIX_SHARE * memory_bytes())


def row_threads(batch_rows: int, prefix_cache: str) -> int | None:
    """How many threads compute frozen layers, each a row of its own; 1: all of them work on one row after the other.

    None: they work on a batch at once, as nothing is kept. A row's last bits depend on which it is, so that it is one
    of them for a whole run, whatever batches it has.
    """
    if prefix_bytes(prefix_cache) == 0:
        return None
    return threads() if batch_rows >= threads() else 1


def processor() -> str:
    """The processor in words, as far as the system says."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def memory_bytes() -> int:
    """The machine's memory; 0 where it does not say."""
    if not hasattr(os, "sysconf"):
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
