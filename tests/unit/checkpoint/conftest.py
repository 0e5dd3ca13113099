"""A disk that fails at the n-th operation that changes it."""

import builtins
import contextlib
import errno
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class Killed(BaseException):
    """Stands for kill -9: nobody may catch it and go on."""


class _Stream:
    """A file whose writes are counted; the failing one gets half of its bytes out."""

    def __init__(self, stream: Any, disk: "FailingDisk") -> None:
        self._stream, self._disk = stream, disk

    def write(self, data: bytes) -> int:
        try:
            self._disk.operation()
        except BaseException:
            self._stream.write(data[: len(data) // 2])
            raise
        return int(self._stream.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> "_Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


class FailingDisk:
    """Lets `allowed` changes pass and then fails: once, or for good if the process is dead."""

    def __init__(self, allowed: int, *, kills: bool) -> None:
        self.left, self.kills, self.has_failed = allowed, kills, False

    def operation(self) -> None:
        if self.has_failed and self.kills:
            raise Killed
        if self.left == 0 and not self.has_failed:
            self.has_failed = True
            if self.kills:
                raise Killed
            raise OSError(errno.ENOSPC, "No space left on device")
        self.left -= 1

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.operation()
            return function(*args, **kwargs)

        return call

    def open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real(file, mode, *args, **kwargs)
            self.operation()
            return _Stream(real(file, mode, *args, **kwargs), self)

        return call

    @contextlib.contextmanager
    def installed(self) -> Iterator["FailingDisk"]:
        with pytest.MonkeyPatch.context() as patch:
            names = ["replace", "rename", "unlink", "remove", "rmdir", "mkdir"]
            if not self.kills:  # a kill at an fsync leaves what one at the next change leaves
                names.append("fsync")
            for name in names:
                patch.setattr(os, name, self.counted(getattr(os, name)))
            real = io.open
            patch.setattr(io, "open", self.open(real))
            patch.setattr(builtins, "open", self.open(real))
            yield self


def _kills(work: Callable[[], object]) -> Iterator[int]:
    """Kills `work` before its first change to the disk, its second, ..., until it ends.

    The caller puts the disk back and checks what is left between two yields.
    """
    for allowed in range(1000):
        disk = FailingDisk(allowed, kills=True)
        with disk.installed(), contextlib.suppress(Killed):
            work()
        if not disk.has_failed:
            assert allowed > 3, "the operations were not counted"
            return
        yield allowed


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of kills, each with its fsyncs, would take seconds on a busy disk."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def kills() -> Callable[[Callable[[], object]], Iterator[int]]:
    return _kills


@pytest.fixture
def full_disk() -> Callable[[int], FailingDisk]:
    """Returns a maker of disks that are full at one operation."""
    return lambda allowed: FailingDisk(allowed, kills=False)
