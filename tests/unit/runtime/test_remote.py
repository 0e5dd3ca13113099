"""Files behind URLs, on fsspec's file system in memory."""

import gzip
import io
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


class _Web:
    """A web server's file system, as fsspec sees it: what it says of a file, and its content."""

    def __init__(self, content: bytes, **info: object) -> None:
        self.content, self.info_ = content, info
        self.blocks = 0

    def info(self, path: str) -> dict[str, object]:
        return {"name": path, "size": len(self.content), "type": "file", **self.info_}

    def ukey(self, path: str) -> str:
        return path  # as fsspec's does

    def open(self, path: str, mode: str) -> io.RawIOBase:
        web = self

        class _Stream(io.BytesIO):
            def readinto(self, buffer):
                web.blocks += 1
                return super().readinto(buffer)

            def __next__(self):
                web.blocks += 1
                return super().__next__()

        return _Stream(self.content)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch):
    """A function that puts a file behind every URL."""

    def put(content: bytes, **info: object) -> _Web:
        web = _Web(content, **info)
        monkeypatch.setattr(remote, "_file_system", lambda url: (web, url))
        return web

    return put


@pytest.mark.parametrize("key", ["ETag", "Last-Modified", "size"])
def test_a_file_of_a_web_server_is_known_by_what_it_says_of_it(serve, key):
    url = "https://host/train.en"
    serve(b"one\n", **{key: "first"})
    first = remote.identity(url)
    assert remote.identity(url) == first
    serve(b"one\n", **{key: "second"})
    assert remote.identity(url) != first


def test_lines_of_a_remote_file_come_in_large_blocks(serve):
    web = serve(b"line\n" * 10_000)
    assert sum(1 for _ in files.read_lines("https://host/train.en")) == 10_000
    assert web.blocks < 5


def test_a_query_is_no_part_of_the_name(serve):
    serve(gzip.compress(b"one\ntwo\n"))
    assert list(files.read_lines("https://host/train.en.gz?download=true")) == ["one", "two"]


def test_whatever_breaks_on_the_way_is_one_line(serve, monkeypatch):
    class _PayloadError(Exception):
        pass

    class _Torn(io.BytesIO):
        def readinto(self, buffer):
            raise _PayloadError("not all of it came")

    web = serve(b"")
    monkeypatch.setattr(web, "open", lambda path, mode: _Torn())
    with pytest.raises(errors.FileError, match=r"https://h/x: .*not all of it came"):
        list(files.read_lines("https://h/x"))
    monkeypatch.setattr(web, "open", lambda path, mode: _fail())
    with pytest.raises(errors.FileError, match=r"https://h/x: .*no ranges"):
        files.open_read("https://h/x")


def _fail():
    raise AssertionError("no ranges")
