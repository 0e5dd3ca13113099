"""Files behind URLs, on fsspec's file system in memory."""

from collections.abc import Iterator

import pytest

from nmt import errors
from nmt.runtime import files, locations, remote

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def put() -> Iterator[object]:
    """A function that writes a remote file."""
    system = fsspec.filesystem("memory")

    def write(name: str, content: bytes) -> str:
        system.pipe_file(name, content)
        return f"memory:/{name}"

    yield write
    system.rm("/", recursive=True)


def test_a_remote_file_is_read_like_any_other(put):
    url = put("/a/train.en", b"one\ntwo\n")
    remote.check_readable(url)
    assert list(files.read_lines(url)) == ["one", "two"]
    assert remote.size(url) == 8


def test_what_is_not_there_or_is_a_folder_is_one_line(put):
    put("/a/train.en", b"one\n")
    for url in ("memory://a/none", "memory://a"):
        with pytest.raises(errors.FileError, match=f"{url}: no such file"):
            remote.check_readable(url)


def test_a_changed_file_is_known_by_its_identity(put):
    url = put("/a/train.en", b"one\n")
    before = locations.fingerprint(url)
    assert locations.fingerprint(url) == before
    put("/a/train.en", b"another\n")
    assert locations.fingerprint(url) != before


def test_patterns_match_in_the_order_of_names(put):
    for name in ("/a/b.en", "/a/a.en", "/a/a.de"):
        put(name, b"x\n")
    assert locations.locations("memory://a/*.en") == ["memory:///a/a.en", "memory:///a/b.en"]
    with pytest.raises(errors.FileError, match="matches no file"):
        locations.locations("memory://a/*.fr")


def test_an_unknown_protocol_is_one_line():
    with pytest.raises(errors.FileError, match=r"nosuch://x/y: cannot be read"):
        remote.check_readable("nosuch://x/y")
