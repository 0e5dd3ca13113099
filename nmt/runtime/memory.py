"""Memory that runs out: how it is told, how it is given back, and a limit that it is tried with."""

import contextlib
import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from nmt import errors

MIB = 1 << 20

# How torch and oneDNN say on CPU that the system gave no memory; neither has a class for it. A primitive
# is code that oneDNN makes for a shape: the shapes of a model do work, so what it lacks is memory.
_WORDS = (
    "can't allocate memory",
    "std::bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
)
# What oneDNN says where the processor has no kernel of the kind.
_NO_KERNEL = "could not create a primitive descriptor"


def is_exhausted(error: BaseException) -> bool:
    """Returns whether an error says that the device, or the process, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return (
        isinstance(error, RuntimeError)
        and _NO_KERNEL not in text
        and any(w in text for w in _WORDS)
    )


def give_back(device: torch.device) -> None:
    """Gives memory that nothing uses back to the system, so that larger blocks can be found.

    `runtime.allocator` sets processes up to keep what they once had, and CUDA's allocator does, too:
    good for speed, but after an error the kept blocks have the sizes that did not fit.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def check_limit(mebibytes: int | None, device: torch.device) -> None:
    """Finds out whether `limited` can keep a limit.

    Args:
        mebibytes: the limit, or None for none.
        device: of the run.

    Raises:
        errors.ConfigError: the platform or the device knows no such limit, or it is lower than what
            the process has already.
    """
    if mebibytes is None:
        return
    place = f"training.memory_limit: {mebibytes} MiB"
    if not sys.platform.startswith("linux") or device.type != "cpu":
        raise errors.ConfigError(
            f"{place} cannot be kept (given: device {device.type} on {sys.platform}). It works on "
            "the CPU, on Linux. Remove it; a device's own limit needs no setting."
        )
    used = _data_size() // MIB
    if mebibytes <= used:
        raise errors.ConfigError(
            f"{place} is no more than the process has before it trains ({used} MiB). "
            "Raise it, or set null for no limit."
        )


@contextlib.contextmanager
def limited(mebibytes: int | None) -> Iterator[None]:
    """Limits the memory of this process while the context is open.

    What counts is what the process has asked for (heap and private mappings: RLIMIT_DATA), not what
    it has touched. Only code that can take a failed allocation belongs into the context: threads
    that start in it, and files that are mapped, fail in ways that end the process.

    Args:
        mebibytes: the limit, or None for none; one that `check_limit` has passed.
    """
    if mebibytes is None:
        yield
        return
    import resource  # not on every platform

    before, highest = resource.getrlimit(resource.RLIMIT_DATA)
    limit = mebibytes * MIB
    if highest != resource.RLIM_INFINITY:
        limit = min(limit, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, highest))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, highest))


def _data_size() -> int:
    """Returns what RLIMIT_DATA counts of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
