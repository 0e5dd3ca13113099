"""The bytes of a corpus file: lines, encoding, line ends. Every byte is looked at, none is kept."""

import dataclasses
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.data import findings
from nmt.runtime import files

# UTF-16 of Latin text is half NUL bytes; UTF-8 text has none.
NUL_SHARE = 0.2

# A carriage return that belongs to no line end.
LONE_RETURN = re.compile(rb"\r(?!\n|\Z)")
REPLACEMENT = "\ufffd".encode()


@dataclasses.dataclass(frozen=True)
class FileSurvey:
    """What the bytes of a file say.

    Attributes:
        num_lines: lines, a last one without its end included; 0 where the file cannot be read.
        found: what is wrong with it.
    """

    num_lines: int
    found: list[findings.Finding]


def survey_file(path: Path | str) -> FileSurvey:
    """Reads a whole file once, a block at a time.

    Args:
        path: plain, or compressed as its name says; or a URL.

    Returns:
        Its lines and faults; a file that cannot be read is a fault, not an exception.
    """
    place = str(path)
    try:
        files.check_readable(path)
        if isinstance(path, Path) and not stat.S_ISREG(path.stat().st_mode):
            advice = "`nmt train` reads a corpus more than once: name a file."
            return FileSurvey(0, [findings.Finding("error", place, "is no regular file", advice)])
        scan = _Scan()
        with files.open_read(path) as stream, files.reading(place):
            for chunk in _whole_lines(stream):
                scan.add(chunk)
    except errors.NMTError as error:
        return FileSurvey(0, [findings.of_error(place, error)])
    return FileSurvey(scan.num_lines, scan.faults(place))


def _whole_lines(stream: BinaryIO) -> Iterator[bytes]:
    """Yields the content in chunks that end where a line ends."""
    parts: list[bytes] = []  # a line under way; joining once keeps long ones linear
    while block := stream.read(files.BLOCK):
        cut = block.rfind(b"\n") + 1
        if cut:
            yield b"".join([*parts, block[:cut]])
            parts.clear()
        parts.append(block[cut:])
    if rest := b"".join(parts):
        yield rest


@dataclasses.dataclass
class _Tally:
    """How often something was met, and the line that had it first."""

    count: int = 0
    line: int | None = None

    def add(self, count: int, line: int) -> None:
        self.count += count
        if self.line is None:
            self.line = line


class _Scan:
    def __init__(self) -> None:
        self.num_lines = 0
        self._has_mark = False
        self._is_utf16 = False
        self._invalid = _Tally()
        self._returns = _Tally()
        self._replaced = _Tally()

    def add(self, chunk: bytes) -> None:
        """Looks at whole lines."""
        if not self.num_lines:
            self._has_mark = chunk.startswith(b"\xef\xbb\xbf")
            self._is_utf16 = chunk.startswith((b"\xff\xfe", b"\xfe\xff")) or (
                chunk.count(b"\0") > NUL_SHARE * len(chunk)
            )
        if b"\r" in chunk and (first := LONE_RETURN.search(chunk)):
            count = sum(1 for _ in LONE_RETURN.finditer(chunk))
            self._returns.add(count, self._line_at(chunk, first.start()))
        if (at := chunk.find(REPLACEMENT)) >= 0:
            self._replaced.add(chunk.count(REPLACEMENT), self._line_at(chunk, at))
        try:
            chunk.decode()
        except UnicodeDecodeError:
            # Line by line only where something is wrong: a whole block decodes far faster.
            for number, line in enumerate(chunk.split(b"\n"), start=self.num_lines + 1):
                if not _is_valid(line):
                    self._invalid.add(1, number)
        self.num_lines += chunk.count(b"\n") + (not chunk.endswith(b"\n"))

    def _line_at(self, chunk: bytes, offset: int) -> int:
        return self.num_lines + chunk.count(b"\n", 0, offset) + 1

    def faults(self, place: str) -> list[findings.Finding]:
        """Returns what is wrong; UTF-16 explains all the rest."""
        if not self.num_lines:
            return [findings.Finding("error", place, "has no line", "Check the path.")]
        if self._is_utf16:
            advice = "Convert it to UTF-8: iconv -f UTF-16 -t UTF-8"
            return [findings.Finding("error", place, "looks like UTF-16, not UTF-8", advice)]
        found = []
        if self._has_mark:
            what = "begins with a byte order mark, which is left out"
            advice = "Other tools may take it for text: save the file as UTF-8 without BOM."
            found.append(findings.Finding("warning", place, what, advice, 1, line=1))
        for tally, what, advice in (
            (
                self._invalid,
                "lines that are not valid UTF-8, whose bad bytes are replaced",
                "Find out the encoding, and convert the file with iconv.",
            ),
            (
                self._returns,
                "carriage returns within lines: only a newline ends a line",
                "If they are meant as line ends, convert them: tr '\\r' '\\n'",
            ),
            (
                self._replaced,
                "replacement characters (U+FFFD), which a wrong conversion left",
                "Convert the file again from its source.",
            ),
        ):
            if tally.count:
                found.append(
                    findings.Finding("warning", place, what, advice, tally.count, line=tally.line)
                )
        return found


def _is_valid(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
