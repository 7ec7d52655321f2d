"""What MLX says of the device and of the memory that it holds."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx

from mlxtune.events import Memory


def name() -> str:
    """The device in words: "Apple M4 Max", or "AMD EPYC, CPU"."""
    chip = str(mx.device_info().get("device_name", "unknown device"))
    return f"{chip}, CPU" if is_processor() else chip


def is_processor() -> bool:
    """Whether MLX computes on the processor, for want of Metal or CUDA."""
    return bool(mx.default_device().type == mx.DeviceType.cpu)


def memory_limit_bytes() -> int:
    """What the device can give: Metal's recommended working set, the device's memory, or the machine's memory."""
    info = mx.device_info()
    for key in ("max_recommended_working_set_size", "memory_size", "total_memory"):
        if info.get(key):
            return int(info[key])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def hold_in_memory() -> None:
    """On Metal, keep up to the recommended working set wired, so that weights are not paged between steps."""
    if mx.metal.is_available():
        mx.set_wired_limit(memory_limit_bytes())


def memory() -> Memory:
    """Active, peak and cached bytes. The peak leaves the cache out; show all three."""
    return Memory(mx.get_active_memory(), mx.get_peak_memory(), mx.get_cache_memory())


def forget_peak() -> None:
    """The peak begins anew: MLX counts that of the process, and a run is not the first in it if recipes run in turn."""
    mx.reset_peak_memory()


@contextmanager
def limited(memory_bytes: int, cache_bytes: int) -> Iterator[None]:
    """Within the block, MLX has these limits of memory and cache.

    Past its memory limit MLX does not fail: it waits, before it takes more, until work that was begun is done and what
    that held is given back. Without one it builds up to some hundred operations ahead of those that are done.
    """
    before = mx.set_memory_limit(memory_bytes), mx.set_cache_limit(cache_bytes)
    try:
        yield
    finally:
        mx.set_memory_limit(before[0])
        mx.set_cache_limit(before[1])
