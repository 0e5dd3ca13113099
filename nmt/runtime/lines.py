"""The two ends of `nmt translate`: lines from a pipe as they arrive, lines out when ready."""

import codecs
import io
import os
import select
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from nmt import errors
from nmt.runtime import files

# Bytes asked for at once: more than a pipe holds.
BLOCK = 1 << 20


class LineReader:
    """Reads lines in chunks, handing out what has arrived without waiting for more."""

    def __init__(self, stream: BinaryIO) -> None:
        """Takes an open binary stream that nobody has read from: a file, a pipe, one in memory."""
        self._stream = stream
        self._counter = files.DecodeCounter()
        name = getattr(stream, "name", None)
        self._place = name.strip("<>") if isinstance(name, str) else "the input"
        # Only what reads straight from the system has its content behind its descriptor: that of a
        # decompressing stream leads to the compressed bytes.
        raw = getattr(stream, "raw", stream)
        self._descriptor = raw.fileno() if isinstance(raw, io.FileIO) else None

    @property
    def num_invalid(self) -> int:
        """Lines so far that were not valid UTF-8 and were repaired."""
        return self._counter.num_invalid

    def chunks(self, max_lines: int) -> Iterator[list[str]]:
        """Yields lists of at most `max_lines` lines, each as soon as no more input is ready.

        A byte order mark before the first line is left out, as in files (`files.read_lines`).

        Args:
            max_lines: at least 1.

        Raises:
            errors.FileError: the input cannot be read, or is torn.
        """
        assert max_lines >= 1, "a chunk has room for a line"
        ready: list[str] = []
        partial: list[bytes] = []  # the line under way, in pieces: joining once keeps it linear
        for block in self._blocks():
            *complete, rest = block.split(b"\n")
            for piece in complete:
                partial.append(piece)
                ready.append(files.decode_line(b"".join(partial), self._counter))
                partial.clear()
            if rest:
                partial.append(rest)
            num_full = len(ready) - len(ready) % max_lines
            for begin in range(0, num_full, max_lines):
                yield ready[begin : begin + max_lines]
            ready = ready[num_full:]
            if ready and not self._has_more():
                yield ready
                ready = []
        if partial:
            ready.append(files.decode_line(b"".join(partial), self._counter))
        if ready:
            yield ready

    def _blocks(self) -> Iterator[bytes]:
        """Yields what is read, without a byte order mark, which a pipe may bring in pieces."""
        begun: bytes | None = b""
        while block := self._read():
            if begun is not None:
                begun += block
                if len(begun) < len(codecs.BOM_UTF8) and codecs.BOM_UTF8.startswith(begun):
                    continue
                block, begun = begun.removeprefix(codecs.BOM_UTF8), None
            yield block
        if begun:
            yield begun

    def _read(self) -> bytes:
        with files.reading(self._place):
            if self._descriptor is None:
                return self._stream.read(BLOCK)
            while True:
                try:
                    return os.read(self._descriptor, BLOCK)
                except BlockingIOError:
                    # Another process may have made a terminal or pipe that it shares non-blocking.
                    self._poll(None)

    def _has_more(self) -> bool:
        """Returns whether reading would not wait (a file is always ready, even at its end)."""
        return self._descriptor is None or self._poll(0)

    def _poll(self, milliseconds: int | None) -> bool:
        """Waits until there is input, for so long at most, and returns whether there is."""
        assert self._descriptor is not None, "streams in memory never wait"
        # Unlike select(), poll() takes descriptors above 1,023.
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        return bool(poller.poll(milliseconds))


class LineWriter:
    """Writes lines and flushes them."""

    def __init__(self, stream: BinaryIO) -> None:
        """Takes an open binary stream."""
        self._stream = stream

    def write(self, lines: Iterable[str]) -> None:
        """Writes each text as exactly one line, whatever it contains.

        Raises:
            errors.FileError: the reader of a pipe has gone, or stdout cannot be written.
        """
        data = "".join(line.replace("\n", " ").replace("\r", " ") + "\n" for line in lines)
        try:
            self._stream.write(data.encode("utf-8", errors="replace"))
            self._stream.flush()
        except BrokenPipeError as error:
            raise errors.FileError(
                "stdout: closed by its reader before all lines were written. The output is "
                "incomplete. Let the reader take all of it."
            ) from error
        except OSError as error:
            # `files.atomic_write` knows the name of the file that it writes.
            if getattr(self._stream, "name", None) != "<stdout>":
                raise
            raise errors.FileError(
                f"stdout: cannot be written ({error.strerror or error}). The output is incomplete. "
                "Check the disk it goes to."
            ) from error
