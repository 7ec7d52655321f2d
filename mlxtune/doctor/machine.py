"""Processor and memory."""

import os
import platform

from mlxtune.backends.numpy import device
from mlxtune.checks import Check
from mlxtune.format import size
from mlxtune.memory import readings
from mlxtune.memory.ask import sysctl

SMALL_BYTES = 8e9  # of memory
LITTLE = 0.25  # of the memory that is free
MUCH_SWAP = 0.1  # of the memory's size that is in use of the swap
WEIGHTS = "A model's weights take 2 bytes a parameter in 16 bits, 16 GB for one of 8 billion; what trains takes more."
PAGED = "What does not fit is paged to the disk, and a step then takes many times as long."


def checks() -> list[Check]:
    """Of the processor, the memory, and what is left of it."""
    found = readings.now()
    return [chip(), total(found), available(found), swap(found)]


def chip() -> Check:
    """A Mac's Python for Intel cannot load MLX, on Apple Silicon neither."""
    name = sysctl("machdep.cpu.brand_string") if platform.system() == "Darwin" else device.processor()
    found = f"{name or 'unknown'}, {_cores()}"
    if platform.system() != "Darwin" or platform.machine() == "arm64":
        return Check("chip", "ok", found)
    if sysctl("sysctl.proc_translated") == "1":
        meaning = "This Python is for Intel and runs translated, so MLX cannot be installed: NumPy computes."
        return Check("chip", "bad", found, meaning, "Install Python for Apple Silicon (arm64), and mlxtune in it.")
    meaning = "MLX needs Apple Silicon: NumPy computes, and trains models of the Llama family."
    return Check("chip", "warn", found, meaning)


def _cores() -> str:
    """How many there are, and how many of them this process may use.

    A Mac's are of two kinds, the faster first.
    """
    kinds = [sysctl(f"hw.perflevel{level}.logicalcpu") for level in (0, 1)] if platform.system() == "Darwin" else []
    if all(kinds) and kinds:
        return "{} performance and {} efficiency cores".format(*kinds)
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    said = f"{cores} core{'s' if cores > 1 else ''}"
    return said if usable == cores else f"{said}, of which this process may use {usable}"


def total(found: readings.Memory) -> Check:
    """The memory's size."""
    if found.total is None:
        return _unknown("memory")
    if found.total >= SMALL_BYTES:
        return Check("memory", "ok", size(found.total), WEIGHTS)
    return Check(
        "memory", "warn", size(found.total), WEIGHTS, "Choose a small model; `mlxtune train --dry-run` counts."
    )


def available(found: readings.Memory) -> Check:
    """What is left of it."""
    if found.total is None or found.available is None:
        return _unknown("free memory")
    if found.available >= LITTLE * found.total:
        return Check("free memory", "ok", size(found.available))
    return Check("free memory", "warn", size(found.available), PAGED, "Close what is not needed before a run.")


def swap(found: readings.Memory) -> Check:
    """What was paged out."""
    if found.total is None or found.swap_used is None:
        return _unknown("swap")
    used = f"{size(found.swap_used)} in use"
    if found.swap_used <= MUCH_SWAP * found.total:
        return Check("swap", "ok", used)
    meaning = f"The memory has been too small for what ran. {PAGED}"
    return Check("swap", "warn", used, meaning, "Close what is not needed, or restart the machine, before a run.")


def _unknown(name: str) -> Check:
    return Check(name, "warn", "unknown", "This system does not say it in a way that is known here.")
