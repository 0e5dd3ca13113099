"""Memory that runs out: how it is told, how it is given back, and a limit that it is tried with."""

import contextlib
import ctypes
import gc
import mmap
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils import _python_dispatch

from nmt import errors

S = TypeVar("S")
T = TypeVar("T")

MIB = 1 << 20
_STATISTICS = Path("/proc/self/statm")

# How torch and oneDNN say on CPU that the system gave no memory, and CUDA and Metal that the device gave
# none; they have no class for it. A primitive is code that oneDNN makes for a shape: the shapes of a model
# do work, so what it lacks is memory.
_WORDS = (
    "out of memory",
    "_STATUS_ALLOC_FAILED",
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


def in_halves(
    items: Sequence[S],
    action: Callable[[Sequence[S]], Sequence[T]],
    device: torch.device,
    alone: Callable[[S], T] | None = None,
) -> list[T]:
    """Returns what the action makes of all items, in halves of halves where memory is too small.

    Args:
        items: one at least.
        action: makes one result of each.
        device: where it computes.
        alone: makes the result of an item that does not fit by itself; None to let the error pass.

    Raises:
        RuntimeError, MemoryError: of the action; those of memory, if one item is too many.
    """
    try:
        return list(action(items))
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error) or (len(items) == 1 and alone is None):
            raise
    # Only here, where the error no longer holds what was there.
    give_back(device)
    if len(items) == 1:
        assert alone is not None, "the error has passed otherwise"
        return [alone(items[0])]
    middle = len(items) // 2
    return [
        result
        for half in (items[:middle], items[middle:])
        for result in in_halves(half, action, device, alone)
    ]


def give_back(device: torch.device) -> None:
    """Gives memory that nothing uses back to the system, so that larger blocks can be found.

    `runtime.allocator` sets processes up to keep what they once had, and CUDA's allocator does, too:
    good for speed, but after an error the kept blocks have the sizes that did not fit.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
    else:
        _trim()


def _trim() -> None:
    """Gives back what was freed and the heap has kept."""
    if sys.platform.startswith("linux"):
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def used() -> int:
    """Returns the memory that this process has and no file stands behind, in bytes. Linux only."""
    return _used(_STATISTICS.read_bytes())


def _used(statistics: bytes) -> int:
    _, resident, shared, *_ = statistics.split()
    return (int(resident) - int(shared)) * mmap.PAGESIZE


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
    present = used() // MIB
    if mebibytes <= present:
        raise errors.ConfigError(
            f"{place} is no more than the process has before it trains ({present} MiB). "
            "Raise it, or set null for no limit."
        )


def bound_code() -> None:
    """Lets oneDNN keep the code of few shapes: 64 of each operation in place of 1,024.

    Each takes half a MiB, which under a limit is better left to batches. It has to be said before the
    first product.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, "64")


@contextlib.contextmanager
def limited(mebibytes: int | None) -> Iterator[None]:
    """Limits the memory of this process while the context is open.

    What counts is what `used` says, and it is looked at after each of torch's operations: the one that
    passes the limit is finished, and then there is a MemoryError. A limit that the system keeps
    (RLIMIT_DATA) ends processes instead: oneDNN, refused the room for its code once, makes none in that
    thread any more, and crashes; threads cannot be started; mapped files cannot be read.

    Args:
        mebibytes: the limit, or None for none; one that `check_limit` has passed.

    Raises:
        MemoryError: in the context, the limit is passed.
    """
    if mebibytes is None:
        yield
        return
    statistics = os.open(_STATISTICS, os.O_RDONLY)
    try:
        with _Watch(statistics, mebibytes):
            yield
    finally:
        os.close(statistics)


class _Watch(_python_dispatch.TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Looks at the memory after each operation, forward and backward."""

    def __init__(self, statistics: int, mebibytes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._statistics, self._mebibytes = statistics, mebibytes

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Only to be told to stay away, torch's compiler would be loaded: seconds, and 60 MiB.
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._is_passed():
            _trim()
            if self._is_passed():
                raise MemoryError(f"training.memory_limit: {self._mebibytes} MiB are passed")
        return result

    def _is_passed(self) -> bool:
        return _used(os.pread(self._statistics, 128, 0)) > self._mebibytes * MIB
