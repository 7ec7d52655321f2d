"""Macs with Apple Silicon, by the size of their memory: what macOS lets the GPU have of it.

The sizes and shares are Metal's recommendedMaxWorkingSetSize as owners report it; nothing was measured here.
"""

GIB = 1 << 30
SIZES_GIB = (8, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
LARGE_GIB = 36  # from here on the GPU may have three quarters, below it two thirds


def gives(size_gib: float) -> int:
    """Bytes that a run may take on a Mac of this size.

    >>> gives(16) // 10**6, gives(64) // 10**6
    (11453, 51539)
    """
    return int(size_gib * GIB * (3 / 4 if size_gib >= LARGE_GIB else 2 / 3))


def gib(n_bytes: int) -> float:
    """The size that was meant: a Mac of "16GB" has 16 GiB.

    >>> gib(16 * 10**9), gib(24 * 2**30)
    (16.0, 24.0)
    """
    return n_bytes / 10**9 if n_bytes % 10**9 == 0 else n_bytes / GIB


def smallest(peak_bytes: int) -> int | None:
    """The size in GiB of the smallest Mac that gives a run so much; None where none does.

    >>> smallest(12 * 10**9), smallest(10**15)
    (18, None)
    """
    return next((size for size in SIZES_GIB if gives(size) >= peak_bytes), None)
