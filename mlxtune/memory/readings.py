"""The machine's memory as Linux and macOS tell it: texts of commands and files -> bytes, None where they do not say."""

import platform
import re
from pathlib import Path
from typing import NamedTuple

from mlxtune.memory.ask import ask, sysctl

UNITS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
PAGES = ("Pages free", "Pages inactive", "Pages speculative")  # that a new program gets without anything going to disk


class Memory(NamedTuple):
    """Bytes. available: what programs can have without another one being paged out."""

    total: int | None = None
    available: int | None = None
    swap_used: int | None = None


def now() -> Memory:
    """What the system says at this moment; all None on a system that is asked nothing."""
    if platform.system() == "Darwin":
        return from_macos(sysctl("hw.memsize"), ask("vm_stat"), sysctl("vm.swapusage"))
    meminfo = Path("/proc/meminfo")
    return from_linux(meminfo.read_text()) if meminfo.is_file() else Memory()


def from_linux(meminfo: str) -> Memory:
    r"""The text of /proc/meminfo.

    >>> from_linux("MemTotal:  2000 kB\nMemAvailable:  500 kB\nSwapTotal:  100 kB\nSwapFree:  60 kB\n")
    Memory(total=2048000, available=512000, swap_used=40960)
    """
    found = {name: int(kilobytes) << 10 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.M)}
    swap = (found.get("SwapTotal"), found.get("SwapFree"))
    used = None if swap[0] is None or swap[1] is None else swap[0] - swap[1]
    return Memory(found.get("MemTotal"), found.get("MemAvailable"), used)


def from_macos(memsize: str, vm_stat: str, swapusage: str) -> Memory:
    """What `sysctl -n hw.memsize`, `vm_stat` and `sysctl -n vm.swapusage` print.

    >>> from_macos("17179869184", "", "total = 2048.00M  used = 1.50M  free = 2046.50M  (encrypted)")
    Memory(total=17179869184, available=None, swap_used=1572864)
    """
    return Memory(integer(memsize), _available(vm_stat), _swap_used(swapusage))


def integer(text: str) -> int | None:
    """A number that is a command's whole answer; None for any other answer.

    >>> integer("8192"), integer("sysctl: unknown oid"), integer("")
    (8192, None, None)
    """
    return int(text) if re.fullmatch(r"\s*\d+\s*", text) else None


def _available(vm_stat: str) -> int | None:
    page = re.search(r"page size of (\d+) bytes", vm_stat)
    pages = {name: int(number) for name, number in re.findall(r'^"?([\w -]+)"?:\s+(\d+)\.?\s*$', vm_stat, re.M)}
    if page is None or "Pages free" not in pages:
        return None
    return int(page[1]) * sum(pages.get(name, 0) for name in PAGES)


def _swap_used(swapusage: str) -> int | None:
    found = re.search(r"used = (\d+)(?:[.,](\d+))?([BKMGT]?)", swapusage)  # a comma in some languages
    return round(float(f"{found[1]}.{found[2] or 0}") * UNITS[found[3]]) if found else None
