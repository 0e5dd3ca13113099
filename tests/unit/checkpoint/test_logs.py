"""Append-only logs."""

import errno
import logging
from pathlib import Path
from typing import Any

import pytest

from nmt import errors
from nmt.checkpoint import logs


def test_lines_are_on_disk_at_once(tmp_path: Path) -> None:
    with logs.AppendLog(tmp_path / "log.txt") as log:
        log.write("eins\n")
        log.write("zwölf\n")
        assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "eins\nzwölf\n"
        assert log.offset() == 12


def test_a_log_is_cut_back_to_the_checkpoint_and_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log.txt"
    with logs.AppendLog(path) as log:
        log.write("1\n2\n")
        offset = log.offset()
        log.write("3\n4\n")
    with logs.AppendLog(path) as log:
        log.cut_back(offset)
        log.write("3\n")
        assert log.offset() == offset + 2
    assert path.read_text() == "1\n2\n3\n"
    assert not caplog.records


@pytest.mark.parametrize("torn", ["x", "x" * 200_000, '{"loss": 1.'])
@pytest.mark.parametrize("lines", ["", "1\n2\n"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, lines: str, torn: str) -> None:
    path = tmp_path / "log.txt"
    path.write_text(lines + torn)
    with logs.AppendLog(path) as log:
        assert log.offset() == len(lines)
        log.write("3\n")
    assert path.read_text() == lines + "3\n"


@pytest.mark.parametrize(("offset", "left"), [(0, ""), (3, "1\n"), (4, "1\n2\n"), (99, "1\n2\n")])
def test_a_changed_log_is_cut_to_whole_lines_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: int, left: str
) -> None:
    path = tmp_path / "log.txt"
    path.write_text("1\n2\n")
    with caplog.at_level(logging.WARNING), logs.AppendLog(path) as log:
        log.cut_back(offset)
    assert path.read_text() == left
    assert ("log.txt: was changed" in caplog.text) == (offset in {3, 99})


def test_logging_can_write_into_it(tmp_path: Path) -> None:
    logger = logging.Logger("alone")
    with logs.AppendLog(tmp_path / "log.txt") as log:
        logger.addHandler(logging.StreamHandler(log))
        logger.warning("a %s\udc80", "b")
    assert (tmp_path / "log.txt").read_bytes() == b"a b?\n"


class FullStream:
    """Takes three bytes of a line and then no more."""

    def __init__(self, stream: Any) -> None:
        self.stream, self.room = stream, 3

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self.stream.write(data[: self.room])
        self.room -= written
        return int(written)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def test_a_full_disk_is_a_file_error_and_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with logs.AppendLog(path) as log:
        log.write("1\n")
        log._stream = FullStream(log._stream)
        with pytest.raises(errors.FileError, match=r"log\.txt: cannot be written \(No space"):
            log.write("0123456789\n")
        assert path.read_text() == "1\n"


def test_a_short_write_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with logs.AppendLog(path) as log:
        stream = FullStream(log._stream)
        log._stream = stream
        write = stream.write

        def write_and_make_room(data: bytes) -> int:
            written = write(data)
            stream.room = 3
            return written

        stream.write = write_and_make_room
        log.write("0123456789\n")
    assert path.read_text() == "0123456789\n"


def test_a_file_that_cannot_be_opened_is_a_file_error(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError, match="cannot be opened"):
        logs.AppendLog(tmp_path)
