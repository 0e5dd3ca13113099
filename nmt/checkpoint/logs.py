"""Append-only logs that are cut back to the checkpoint when a run resumes."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from nmt import errors

logger = logging.getLogger(__name__)

BLOCK = 65536


class AppendLog:
    """A text file that only grows, such as metrics.jsonl and log.txt.

    It has `write` and `flush`, so that a `logging.StreamHandler` can write into it. What is
    written is with the operating system at once: a kill loses nothing.
    """

    def __init__(self, path: Path) -> None:
        """Opens the file, and drops the half line that a kill may have left at its end.

        Args:
            path: the file, which need not exist; its folder does.

        Raises:
            FileError: it cannot be opened.
        """
        self.path = path
        with self._file_errors("opened"):
            self._stream = path.open("a+b", buffering=0)
        with self._file_errors("read"):
            size = os.fstat(self._stream.fileno()).st_size
            self._truncate(self._line_end(size))

    def write(self, text: str) -> None:
        """Appends `text`, all of it or nothing.

        Args:
            text: one or more whole lines.

        Raises:
            FileError: the disk is full or does not let itself be written.
        """
        data = text.encode("utf-8", errors="replace")
        with self._file_errors("written"):
            start = os.fstat(self._stream.fileno()).st_size
            try:
                while data:
                    data = data[self._stream.write(data) :]
            except OSError:
                with contextlib.suppress(OSError):
                    self._truncate(start)
                raise

    def flush(self) -> None:
        """Does nothing: nothing is held back."""

    def offset(self) -> int:
        """Returns the size in bytes, after all of it has reached the disk.

        Raises:
            FileError: the disk does not take it.
        """
        with self._file_errors("written"):
            os.fsync(self._stream.fileno())
            return os.fstat(self._stream.fileno()).st_size

    def cut_back(self, offset: int) -> None:
        """Drops what was written after a checkpoint.

        A log that is shorter than that, or has no line end there, was changed by someone else.
        That is no reason not to train: it is cut to whole lines, and there is a warning.

        Args:
            offset: what `offset()` was at the checkpoint, in bytes; 0 to start anew.

        Raises:
            FileError: the file cannot be cut.
        """
        with self._file_errors("cut back"):
            size = os.fstat(self._stream.fileno()).st_size
            end = self._line_end(min(offset, size))
            self._truncate(end)
        if end != offset:
            logger.warning(
                "%s: was changed since the checkpoint (it should go on at byte %d and goes on at "
                "byte %d). Some of its lines are missing; the training is not affected.",
                self.path,
                offset,
                end,
            )

    def close(self) -> None:
        """Closes the file."""
        with self._file_errors("closed"):
            self._stream.close()

    def __enter__(self) -> "AppendLog":
        """Returns the log."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self.close()

    def _truncate(self, size: int) -> None:
        if size != os.fstat(self._stream.fileno()).st_size:
            self._stream.truncate(size)

    def _line_end(self, limit: int) -> int:
        """Returns the end of the last whole line within the first `limit` bytes, 0 if none."""
        while limit > 0:
            start = max(0, limit - BLOCK)
            found = os.pread(self._stream.fileno(), limit - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            limit = start
        return 0

    @contextlib.contextmanager
    def _file_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise errors.FileError(
                f"{self.path}: cannot be {what} ({error.strerror}). "
                "Make room or give access, then run `nmt train` again to go on."
            ) from error
