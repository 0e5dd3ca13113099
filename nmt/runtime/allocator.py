"""Settings of the memory allocator that have to be made before torch is imported."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def tune() -> None:
    """Lets large tensors reuse memory instead of asking the system for fresh pages each time.

    A page fault costs microseconds on virtual machines, and every tensor of some megabytes is made
    of thousands of pages. Huge pages and a heap that is not given back make it none. Results are
    unchanged; the memory that a process holds stays at its peak. Linux with glibc only.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
