"""Every line in is a line out, in order, and none waits for a line that has not come."""

import errno
import gzip
import io
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt import errors
from nmt.runtime import files, lines


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, int]]:
    """A reading stream and a writing descriptor, which the test may have closed."""
    source, sink = os.pipe()
    with open(source, "rb") as stream:
        yield stream, sink
    try:
        os.close(sink)
    except OSError as error:
        assert error.errno == errno.EBADF


def test_what_has_arrived_is_handed_out_while_the_pipe_is_open(
    pipe: tuple[BinaryIO, int],
) -> None:
    stream, sink = pipe
    chunks = lines.LineReader(stream).chunks(100)
    os.write(sink, b"one\ntwo\nthr")
    assert next(chunks) == ["one", "two"]
    os.write(sink, b"ee\n\n")
    assert next(chunks) == ["three", ""]
    os.write(sink, b"last")
    os.close(sink)
    assert list(chunks) == [["last"]]


def test_a_chunk_from_a_pipe_has_at_most_max_lines(pipe: tuple[BinaryIO, int]) -> None:
    stream, sink = pipe
    chunks = lines.LineReader(stream).chunks(2)
    os.write(sink, b"1\n2\n3\n4\n5\n")
    assert [next(chunks) for _ in range(3)] == [["1", "2"], ["3", "4"], ["5"]]


def test_a_pipe_that_does_not_block_is_waited_for(pipe: tuple[BinaryIO, int]) -> None:
    stream, sink = pipe
    os.set_blocking(stream.fileno(), False)
    chunks = lines.LineReader(stream).chunks(10)
    os.write(sink, b"one\n")
    assert next(chunks) == ["one"]
    os.close(sink)
    assert list(chunks) == []


@pytest.mark.parametrize("kind", ["file", "memory", "gz"])
@pytest.mark.parametrize("block", [1, 3, 1 << 20])
def test_files_fill_their_chunks(
    tmp_path: Path, kind: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "BLOCK", block)
    data = b"".join(b"line %d\r\n" % number for number in range(25)) + b"\xff\x00\xe2\x80\xa8"
    expected = [f"line {number}" for number in range(25)] + ["\ufffd\x00\u2028"]
    path = tmp_path / ("x.gz" if kind == "gz" else "x.txt")
    path.write_bytes(gzip.compress(data) if kind == "gz" else data)
    with io.BytesIO(data) if kind == "memory" else files.open_read(path) as stream:
        reader = lines.LineReader(stream)
        chunks = list(reader.chunks(10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 6]
    assert [line for chunk in chunks for line in chunk] == expected
    assert reader.num_invalid == 1


def test_a_torn_input_is_named(tmp_path: Path) -> None:
    path = tmp_path / "torn.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n")[:-9])
    with files.open_read(path) as stream, pytest.raises(errors.FileError, match="torn.gz: .*torn"):
        list(lines.LineReader(stream).chunks(10))


@given(
    data=st.lists(st.sampled_from([b"\n", b"\r", b"a", "é".encode(), b"\xff", b"\0"])),
    max_lines=st.integers(1, 5),
    block=st.integers(1, 4),
)
def test_lines_do_not_depend_on_how_they_are_cut(
    data: list[bytes], max_lines: int, block: int
) -> None:
    content = b"".join(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "BLOCK", block)
        chunks = list(lines.LineReader(io.BytesIO(content)).chunks(max_lines))
    counter = files.DecodeCounter()
    expected = [files.decode_line(raw, counter) for raw in io.BytesIO(content)]
    assert [line for chunk in chunks for line in chunk] == expected
    assert all(0 < len(chunk) <= max_lines for chunk in chunks)
    assert all(len(chunk) == max_lines for chunk in chunks[:-1])


@pytest.mark.parametrize("data", [b"x" * 20_000_000, b"\n" * 300_000], ids=["long", "many"])
def test_time_is_linear_in_the_input(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    if data[:1] == b"x":
        monkeypatch.setattr(lines, "BLOCK", 1 << 12)  # 5,000 pieces: quadratic would copy 50 GB
    began = time.process_time()
    count = sum(len(chunk) for chunk in lines.LineReader(io.BytesIO(data)).chunks(1))
    assert count == max(data.count(b"\n"), 1)
    assert time.process_time() - began < 1.5


def test_each_text_is_one_line_whatever_it_contains() -> None:
    stream = io.BytesIO()
    lines.LineWriter(stream).write(["a\nb\r\nc\r", "", "é\u2028\x85\x0c\0", "x\ud800y"])
    written = stream.getvalue().decode("utf-8")
    assert written == "a b  c \n\né\u2028\x85\x0c\0\nx?y\n"


@given(texts=st.lists(st.text(st.characters() | st.sampled_from("\n\r\u2028\ud800"))))
def test_as_many_lines_come_out_as_texts_go_in(texts: list[str]) -> None:
    stream = io.BytesIO()
    lines.LineWriter(stream).write(texts)
    stream.seek(0)
    read = [line for chunk in lines.LineReader(stream).chunks(3) for line in chunk]
    assert len(read) == len(texts)
    clean = [text for text in texts if text.isprintable()]
    assert [line for line, text in zip(read, texts, strict=True) if text.isprintable()] == clean


def test_lines_are_flushed(pipe: tuple[BinaryIO, int]) -> None:
    stream, sink = pipe
    with open(sink, "wb") as out:
        lines.LineWriter(out).write(["now"])
        assert os.read(stream.fileno(), 100) == b"now\n"


def test_a_reader_that_leaves_is_one_clear_line() -> None:
    source, sink = os.pipe()
    os.close(source)
    out = open(sink, "wb", buffering=0)  # noqa: SIM115 - closing must not flush again
    with pytest.raises(errors.FileError, match="stdout: closed by its reader before all lines"):
        lines.LineWriter(out).write(["lost"])
    out.close()


class _Full(io.BytesIO):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def write(self, data: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_named_by_those_who_know_it(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError, match=r"stdout: .*No space left"):
        lines.LineWriter(_Full("<stdout>")).write(["lost"])
    with pytest.raises(OSError, match="No space left"):
        lines.LineWriter(_Full(str(tmp_path / "out"))).write(["lost"])


def test_stdin_is_read_past_pythons_buffer(
    pipe: tuple[BinaryIO, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, sink = pipe
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))
    chunks = lines.LineReader(sys.stdin.buffer).chunks(5)
    os.write(sink, b"a\n")
    assert next(chunks) == ["a"]
    sys.stdin.detach()


@pytest.mark.parametrize("step", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"\xef\xbb\xbfone\n\xef\xbb\xbftwo", ["one", "\ufefftwo"]),
        (b"\xef\xbb\xbf\n", [""]),
        (b"\xef\xbb", ["\ufffd"]),
        (b"\xef\xbb\n", ["\ufffd"]),
    ],
)
def test_a_byte_order_mark_is_no_part_of_the_first_line(
    data: bytes, wanted: list[str], step: int, tmp_path: Path
) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(step)

    found = [line for chunk in lines.LineReader(Slow(data)).chunks(10) for line in chunk]
    assert found == wanted
    path = tmp_path / "marked"
    path.write_bytes(data)
    assert list(files.read_lines(path)) == wanted
