"""What macOS alone has: a limit of what the GPU may hold, and a watchdog over it."""

import platform

from mlxtune.checks import Check
from mlxtune.format import size
from mlxtune.memory.ask import sysctl
from mlxtune.memory.readings import integer

MIB = 1 << 20
FOR_THE_SYSTEM = 8 << 30  # bytes that a raised limit leaves
WIRED = "How much memory the GPU may hold so that it is never paged; MLX keeps weights within it."
RISK = "What is wired cannot be paged: with too little left for the system the machine freezes or restarts."


def checks() -> list[Check]:
    """None but on macOS with Apple Silicon."""
    if (platform.system(), platform.machine()) != ("Darwin", "arm64"):
        return []
    total = integer(sysctl("hw.memsize"))
    limit = wired_limit(integer(sysctl("iogpu.wired_limit_mb")), total)
    return [limit, display()]


def wired_limit(limit_mb: int | None, total: int | None) -> Check:
    """iogpu.wired_limit_mb, in MiB; 0 is the system's default.

    >>> wired_limit(0, 64 << 30).remedy
    'For more, until the next restart: sudo sysctl iogpu.wired_limit_mb=57344'
    >>> wired_limit(63 << 10, 64 << 30).state
    'warn'
    """
    if limit_mb is None:
        return Check("wired limit", "warn", "unknown", WIRED, "sysctl iogpu.wired_limit_mb should say it.")
    if limit_mb == 0:
        remedy = _raise_to(total) if total and total >= 4 * FOR_THE_SYSTEM else "Leave it: the system needs the rest."
        return Check("wired limit", "ok", "the default", f"{WIRED} {RISK}", remedy)
    left = total - limit_mb * MIB if total else FOR_THE_SYSTEM
    if left >= FOR_THE_SYSTEM // 2:
        remedy = "The default again: sudo sysctl iogpu.wired_limit_mb=0"
        return Check("wired limit", "ok", size(limit_mb * MIB), f"{WIRED} {RISK}", remedy)
    found = f"{size(limit_mb * MIB)}, which leaves the system {size(max(0, left))}"
    return Check("wired limit", "warn", found, RISK, "Back to the default: sudo sysctl iogpu.wired_limit_mb=0")


def _raise_to(total: int) -> str:
    return f"For more, until the next restart: sudo sysctl iogpu.wired_limit_mb={(total - FOR_THE_SYSTEM) // MIB}"


def display() -> Check:
    """Known of MLX on macOS: ml-explore/mlx#3267, where the remedies are from."""
    return Check(
        "display",
        "warn",
        "macOS watches the GPU",
        'While the display is on, macOS may kill a program whose GPU work keeps it waiting ("Impacting Interactivity").'
        " Checkpoints stay good.",
        "For a long run let the display sleep: caffeinate -s mlxtune train ..., then pmset displaysleepnow."
        " AGX_RELAX_CDM_CTXSTORE_TIMEOUT=1 in the environment helps on some Macs, not on all.",
    )
