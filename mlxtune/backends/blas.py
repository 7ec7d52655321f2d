"""Which BLAS multiplies matrices on a processor. Both choices work only before the array library is imported."""

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path

SYSTEM_OPENBLAS = ("libopenblas.so.0", "libopenblasp.so.0")  # Debian's and Fedora's names
USED = "Products run on the system's OpenBLAS."
NOT_USED = "--bundled-blas: products run on the BLAS in MLX's wheel, about 30 times slower in float32 than OpenBLAS."
SLOW = "Products run on the BLAS in MLX's wheel, about 30 times slower in float32 than OpenBLAS."
INSTALL = "Install one: apt install libopenblas0-pthread, or your system's name for it."
MISSING = f"{SLOW} {INSTALL}"


def configure() -> None:
    """Set what OpenBLAS reads when it is loaded, but for what is set already.

    Idle threads of it sleep after 2^20 cycles, some 0.4 ms, instead of 2^26: until then they take a core from the
    threads of others. Where the attention had two threads of its own, a step of 10M parameters took 0.88 of the time.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    _choose_kernels()


def _choose_kernels() -> None:
    """On AMD's Zen 4, OpenBLAS's AVX2 kernels instead of its AVX-512 ones.

    Zen 4 computes 512 bits as twice 256. In float32 on one core the AVX2 kernels did 110 GFLOP/s instead of 103 with
    1,024 rows, and 97 instead of 74 with 64.
    """
    info = Path("/proc/cpuinfo")
    if info.is_file() and _is_zen4(info.read_text()):
        os.environ.setdefault("OPENBLAS_CORETYPE", "Zen")


def _is_zen4(cpuinfo: str) -> bool:
    r"""Whether /proc/cpuinfo is of that processor.

    >>> _is_zen4("vendor_id : AuthenticAMD\ncpu family : 25\nflags : sse avx2 avx512f\n\n")
    True
    >>> _is_zen4("vendor_id : AuthenticAMD\ncpu family : 25\nflags : sse avx2\n\n")
    False
    """
    lines = cpuinfo.partition("\n\n")[0].splitlines()  # the first core
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return (
        fields.get("vendor_id") == "AuthenticAMD"
        and fields.get("cpu family") == "25"
        and "avx512f" in fields.get("flags", "").split()  # which Zen 3, of the same family, does not have
    )


@cache
def load_openblas() -> bool:
    """Load a system OpenBLAS, whose symbols then come before those of the BLAS in MLX's Linux wheel; False without one.

    1,024^3 in float32 on two cores: 6 GFLOP/s in the wheel, 215 with Debian's libopenblas0-pthread. Products in 16 bits
    are MLX's own and gain nothing.
    """
    if platform.system() != "Linux":
        return False
    if "mlx.core" in sys.modules:  # too late to change what it found
        return "/libopenblas" in Path("/proc/self/maps").read_text()
    for name in SYSTEM_OPENBLAS:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False
