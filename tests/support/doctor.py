"""What the tests of `mlxtune doctor` share: what systems print of their memory, a backend that works."""

from mlxtune.backends.probe import Probe

GOOD = Probe("Some chip, CPU", True, 10**10, 100.0, 1e-7)

MEMINFO = """\
MemTotal:       24689764 kB
MemFree:         1188540 kB
MemAvailable:   20023128 kB
Buffers:          240196 kB
Cached:         18423892 kB
SwapCached:        10240 kB
SwapTotal:       8388604 kB
SwapFree:        5242876 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
DirectMap4k:      180100 kB
"""

VM_STAT = """\
Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              123456.
Pages active:                            789012.
Pages inactive:                          345678.
Pages speculative:                        12345.
Pages throttled:                              0.
Pages wired down:                        234567.
Pages purgeable:                          56789.
"Translation faults":                  98765432.
Pages copy-on-write:                     345678.
File-backed pages:                       456789.
Pages stored in compressor:              123456.
Pages occupied by compressor:             45678.
Swapins:                                    123.
Swapouts:                                    45.
"""

SWAPUSAGE = "total = 2048.00M  used = 1214.75M  free = 833.25M  (encrypted)"


def named(checks):
    return {check.name: check for check in checks}
