"""Have the C library keep the memory that a training step frees, for the next step."""

import ctypes
import sys

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Switch off what makes large tensors slow on the CPU; acts on this process.

    glibc maps every large block (32 MiB at the latest) anew and unmaps it when it is freed, so
    that each step pays a page fault per 4 KiB for activations that it had a moment before. What is
    freed now serves the next block that fits, and is not handed back before the process ends.
    ``mallopt(3)``; ``python -m benchmarks.malloc`` prints what it brings and costs.

    Returns:
        Whether there was anything to switch: only Linux with glibc has it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        (mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
    )
