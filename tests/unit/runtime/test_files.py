"""Files are opened by what they are, read by the line contract, and replaced whole or not at all."""

import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nmt import errors
from nmt.runtime import files

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}
# What Python's own text files would take for the end of a line.
ODD = "a\u2028b\x85c\x0cd\x0be\x1cf\x00g\rh"


@pytest.fixture(params=sorted(COMPRESS))
def suffix(request: pytest.FixtureRequest) -> str:
    return request.param


def temporaries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".tmp")]


def test_every_kind_of_file_gives_the_same_lines(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\r\n\n\xef\xbb\xbftwo\nlast"))
    assert list(files.read_lines(path)) == ["one", "", "\ufefftwo", "last"]
    assert list(files.read_lines(str(path))) == ["one", "", "\ufefftwo", "last"]


def test_files_of_several_compressed_parts_are_read_to_their_end(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(COMPRESS[suffix](b"one\ntw") + COMPRESS[suffix](b"o\n"))
    assert list(files.read_lines(path)) == ["one", "two"]


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.9999])
def test_a_torn_file_is_named(tmp_path: Path, suffix: str, kept: float) -> None:
    data = COMPRESS[suffix](os.urandom(60_000))
    path = tmp_path / f"torn{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(errors.FileError, match=rf"torn\{suffix}: .*torn"):
        list(files.read_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_what_its_name_says_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"plain{suffix}"
    path.write_text("just some text\n")
    with pytest.raises(errors.FileError, match=rf"plain\{suffix}: .*not what its name says"):
        list(files.read_lines(path))


def test_a_missing_package_says_which_extra_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "text.zst"
    path.write_bytes(zstandard.compress(b"one\n"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(errors.FileError, match=r"nmt-toolkit\[zstd\]"):
        files.open_read(path)
    other = tmp_path / "text.gz"
    other.write_bytes(gzip.compress(b"one\n"))
    assert list(files.read_lines(other)) == ["one"]


@pytest.mark.parametrize("function", [files.open_read, files.check_readable, files.sha256_of])
def test_what_is_no_readable_file_is_named(tmp_path: Path, function: Any) -> None:
    with pytest.raises(errors.FileError, match="none.txt: no such file"):
        function(tmp_path / "none.txt")
    with pytest.raises(errors.FileError, match="is a folder, a file is wanted"):
        function(tmp_path)


def test_a_file_without_permission_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "secret.txt"
    path.write_text("x")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(errors.FileError, match="secret.txt: cannot be read .*permission"):
        files.check_readable(path)


def test_looking_at_a_named_pipe_does_not_open_it(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    files.check_readable(path)  # opening it would wait for a writer for ever


def test_only_newline_ends_a_line(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(f"{ODD}\n\ufeff{ODD}", encoding="utf-8", newline="")
    assert list(files.read_lines(path)) == [ODD, f"\ufeff{ODD}"]


def test_one_carriage_return_belongs_to_the_line_end() -> None:
    counter = files.DecodeCounter()
    assert files.decode_line(b"a\r\r\n", counter) == "a\r"
    assert files.decode_line(b"a\r", counter) == "a"
    assert files.decode_line(b"\r\n", counter) == ""
    assert counter.num_invalid == 0


def test_lines_with_invalid_utf8_are_repaired_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(b"ok\na\xffb\xfe\n\xc3\n\xe2\x82\xac\n")
    counter = files.DecodeCounter()
    assert list(files.read_lines(path, counter)) == ["ok", "a\ufffdb\ufffd", "\ufffd", "€"]
    assert counter.num_invalid == 2


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.text("a\r\n\0é\u2028", max_size=20).map(str.encode))
def test_there_are_as_many_lines_as_newlines(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "any.txt"
    path.write_bytes(data)
    lines = list(files.read_lines(path))
    assert len(lines) == data.count(b"\n") + (data != b"" and not data.endswith(b"\n"))
    with contextlib.suppress(UnicodeDecodeError):
        expected = data.decode().split("\n")
        assert lines == [x.removesuffix("\r") for x in expected][: len(lines)]


def test_a_written_file_is_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out.bin"
    path.write_text("old")
    with files.atomic_write(path) as stream:
        stream.write(b"new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "out.txt"
    path.write_text("old")

    def write_half() -> None:
        with files.atomic_write(path) as stream:
            stream.write(b"new")
            raise failure

    with pytest.raises(type(failure)):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_reach_the_disk_before_the_name_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append("fsync"))

    def recorded(source: Path, target: Path) -> None:
        assert Path(source).read_bytes() == b"new"
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "replace", recorded)
    files.atomic_write_text(tmp_path / "out.txt", "new")
    assert events == ["fsync", "replace", "fsync"]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(errors.FileError, match="out.txt: .*disk is full.*Free space") as caught:
        files.atomic_write_text(tmp_path / "out.txt", "new")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT])
def test_a_disk_that_refuses_is_one_line_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(errors.FileError, match=f"out.txt: .*{os.strerror(number)}"):
        files.atomic_write_text(tmp_path / "out.txt", "new")
    assert temporaries(tmp_path) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.FileError, match="is a folder, a file is wanted"):
        files.atomic_write_text(tmp_path, "x")
    with pytest.raises(errors.FileError, match="its folder does not exist"):
        files.atomic_write_text(tmp_path / "none" / "out.txt", "x")
    (tmp_path / "file").touch()
    with pytest.raises(errors.FileError, match="a file where a folder is wanted"):
        files.atomic_write_text(tmp_path / "file" / "out.txt", "x")


def test_an_error_about_another_file_is_not_blamed_on_the_output(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.atomic_write(tmp_path / "out.txt"):
        (tmp_path / "input.txt").read_text()
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, target = tmp_path / "link", tmp_path / "folder" / "target"
    link.symlink_to(target)
    files.atomic_write_text(link, "one")
    files.atomic_write_text(link, "two")
    assert link.is_symlink()
    assert target.read_text() == "two"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as reader:
        files.atomic_write_text(path, "through")
        assert reader.stdout is not None
        assert reader.stdout.read() == b"through"
    assert path.is_fifo()
    assert temporaries(tmp_path) == []


def test_json_keeps_its_order_and_ends_in_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    files.atomic_write_json(path, {"b": 1, "a": ["ü"]})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": [\n    "ü"\n  ]\n}\n'
    assert json.loads(path.read_text(encoding="utf-8")) == {"b": 1, "a": ["ü"]}


def test_the_checksum_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc" * 1000)
    assert files.sha256_of(path) == hashlib.sha256(b"abc" * 1000).hexdigest()


def test_folders_are_made_and_removed(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    files.make_dir(folder)
    files.make_dir(folder)
    (folder / "x").touch()
    files.remove_tree(tmp_path / "a")
    files.remove_tree(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(errors.FileError, match="a file where a folder is wanted"):
            files.make_dir(path)
    with pytest.raises(errors.FileError, match="file: cannot be removed"):
        files.remove_tree(tmp_path / "file")


def test_a_folder_that_knows_no_fsync_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(number: int) -> None:
        def fsync(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fsync)

    fail(errno.EINVAL)
    files.fsync_dir(tmp_path)
    fail(errno.EIO)
    with pytest.raises(errors.FileError, match="cannot be written"):
        files.fsync_dir(tmp_path)


def test_lines_are_read_as_they_are_wanted(tmp_path: Path) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(gzip.compress(b"one\ntwo\n")[:-4])
    lines: Iterator[str] = files.read_lines(path)
    with pytest.raises(errors.FileError, match="text.gz"):
        list(lines)
    assert next(iter(lines), None) is None
