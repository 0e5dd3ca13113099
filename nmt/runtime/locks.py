"""One process at a time trains into a folder, or fills one."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from nmt import errors

NAME = ".lock"


def holder(folder: Path) -> str | None:
    """Returns which process trains into a folder, in its own words, or None.

    Writes nothing. A folder without a lock file, and one that cannot be asked, has none.

    Args:
        folder: the run folder, which need not exist.
    """
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        # Shared, so that two who only ask do not take each other for a training process.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode("utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


class RunLock:
    """Holds a folder for as long as the context, or the process, lives.

    The lock is the operating system's, so a killed process leaves none behind; the file only tells
    others who holds it.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which exists."""
        self._path = folder / NAME
        self._descriptor: int | None = None

    def __enter__(self) -> "RunLock":
        """Takes the lock.

        Raises:
            errors.TrainingError: another process holds it.
            errors.FileError: the folder cannot be written to.
        """
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise errors.FileError(
                f"{self._path}: cannot be written ({error.strerror}). "
                "A run needs a folder that it may write to."
            ) from error
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return self

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            began = time.strftime("%Y-%m-%d %H:%M:%S")
            text = f"process {os.getpid()} on {socket.gethostname()} since {began}\n"
            os.write(descriptor, text.encode())
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode("utf-8", errors="replace").strip()
            raise errors.TrainingError(
                f"{self._path.parent}: another process trains there ({holder or 'unknown'}). "
                "One process at a time trains into a folder. "
                "Wait for it, stop it, or take another run_dir."
            ) from error
        except OSError as error:
            raise errors.FileError(
                f"{self._path}: cannot be locked ({error.strerror}). "
                "A run needs a disk with free space that allows locks."
            ) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Gives the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Holds a folder that several runs share, after waiting for whoever holds it.

    Args:
        folder: it is there.

    Raises:
        errors.FileError: the folder cannot be written to, or its disk knows no locks.
    """
    path = folder / NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be written ({error.strerror}).") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise errors.FileError(f"{path}: cannot be locked ({error.strerror}).") from error
        yield
    finally:
        os.close(descriptor)
