"""Opening files of every kind, lines as the toolkit understands them, and atomic replacement."""

import codecs
import contextlib
import dataclasses
import errno
import gzip
import hashlib
import io
import json
import lzma
import os
import re
import shutil
import stat
import urllib.parse
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from nmt import errors
from nmt.runtime import remote

BLOCK = 1 << 20

# Compressed bytes at once: few, since they may stand for a thousand times as many.
ZST_BLOCK = 1 << 14

# Names of what this process has open.
_STREAMS = {"stdout": 1, "stderr": 2}
_OPENED = re.compile(r"/dev/(stdout|stderr)|/(?:dev|proc/self)/fd/([0-9]{1,9})")


@dataclasses.dataclass
class DecodeCounter:
    """Counts lines that were not valid UTF-8."""

    num_invalid: int = 0


def decode_line(raw: bytes, counter: DecodeCounter) -> str:
    """Returns the text of one line, invalid UTF-8 replaced and counted.

    Only a newline ends a line, and one carriage return before it belongs to the line end. Every
    other character stays, U+2028 and form feed among them.

    Args:
        raw: the bytes up to and perhaps including the newline.
        counter: counts the line if it has to be repaired.
    """
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        counter.num_invalid += 1
        return raw.decode("utf-8", errors="replace")


def check_readable(path: Path | str) -> None:
    """Finds out whether a file is there and can be read, without opening it.

    A named pipe that is opened and closed again has lost its writer.

    Raises:
        errors.FileError: it is missing, a folder, or may not be read.
    """
    if isinstance(path, str) and remote.is_url(path):
        remote.check_readable(path)
        return
    path = Path(path)
    with _named_errors(path, "read"):
        if stat.S_ISDIR(path.stat().st_mode):
            raise IsADirectoryError
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def open_read(path: Path | str) -> BinaryIO:
    """Opens a file for reading, decompressing `.gz`, `.xz` and `.zst`.

    What is read from a torn file raises one of `torn_errors`; `reading` puts them into words.

    Raises:
        errors.FileError: the file cannot be opened, or the package for zst is missing.
    """
    name = str(path)
    with _named_errors(name, "read"):
        # The decompressors close a file that they open themselves only.
        source: Any = None
        if remote.is_url(name):
            # Without a buffer of its own, each line would cost a block of the network's.
            source = io.BufferedReader(cast("io.RawIOBase", remote.open_read(name)), BLOCK)
        match _suffix(name):
            case ".gz":
                return _Decompressed(cast("io.RawIOBase", gzip.open(source or name, "rb")), name)
            case ".xz":
                return _Decompressed(cast("io.RawIOBase", lzma.open(source or name, "rb")), name)
            case ".zst":
                return _open_zst(name, source)
        return cast("BinaryIO", source or Path(name).open("rb"))


def _suffix(name: str) -> str:
    """Returns the end of a file's name, without what a URL has behind its path."""
    return Path(urllib.parse.urlsplit(name).path if remote.is_url(name) else name).suffix


class _Decompressed(io.BufferedReader):
    """A buffer that makes reading lines fast, and knows the name of the compressed file."""

    def __init__(self, raw: io.RawIOBase, name: str) -> None:
        super().__init__(raw, BLOCK)
        self._name = name

    @property
    def name(self) -> str:
        return self._name


def _open_zst(path: str, source: BinaryIO | None) -> BinaryIO:
    try:
        import zstandard
    except ImportError as error:
        raise errors.FileError(
            f"{path}: reading .zst needs the package zstandard, which is not installed. "
            "Install it with: pip install 'nmt-toolkit[zstd]'"
        ) from error
    decompressor = zstandard.ZstdDecompressor()
    source = source or Path(path).open("rb")  # noqa: SIM115 (closed with the stream)
    return _Decompressed(_ZstStream(source, decompressor.decompressobj), path)


class _ZstStream(io.RawIOBase):
    """The content of all frames of a zst file.

    The reader that comes with the package takes a torn frame for the end of the file.
    """

    def __init__(self, source: BinaryIO, new_frame: Callable[[], Any]) -> None:
        self._source, self._new_frame = source, new_frame
        self._frame: Any = None  # None between two frames
        self._rest = b""  # what follows the end of a frame
        self._content = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            raw = self._rest or self._source.read(ZST_BLOCK)
            if not raw:
                if self._frame is not None:
                    raise EOFError("it ends within a frame")
                return 0
            self._frame = self._frame or self._new_frame()
            self._content = memoryview(self._frame.decompress(raw))
            self._rest = b""
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._content))
        buffer[:size] = self._content[:size]
        self._content = self._content[size:]
        return size

    def close(self) -> None:
        self._source.close()
        super().close()


def torn_errors() -> tuple[type[BaseException], ...]:
    """Returns what the decompressors raise on torn files."""
    found: list[type[BaseException]] = [EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile]
    with contextlib.suppress(ImportError):
        import zstandard

        found.append(zstandard.ZstdError)
    return tuple(found)


@contextlib.contextmanager
def reading(place: str) -> Iterator[None]:
    """Turns errors while a stream of `open_read` is read into one line that names the file.

    Args:
        place: the file, or "stdin".

    Raises:
        errors.FileError: the file cannot be read, or is torn.
    """
    try:
        yield
    except torn_errors() as error:
        raise errors.FileError(
            f"{place}: cannot be decompressed to its end ({error}). The file is torn, or not what "
            "its name says. Copy or compress it again."
        ) from error
    except OSError as error:
        raise errors.FileError(f"{place}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:
        # What remote file systems raise has no base in common.
        if isinstance(error, errors.NMTError) or not remote.is_url(place):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise errors.FileError(f"{place}: cannot be read to its end ({what}).") from error


def read_lines(path: Path | str, counter: DecodeCounter | None = None) -> Iterator[str]:
    """Yields the lines of a file, decompressed and decoded; see `decode_line`.

    A byte order mark, which some editors put before UTF-8, is left out.

    Args:
        path: plain, `.gz`, `.xz` or `.zst`.
        counter: counts lines that were not valid UTF-8.

    Raises:
        errors.FileError: the file cannot be read, or is torn.
    """
    counter = counter if counter is not None else DecodeCounter()
    with open_read(path) as stream, reading(str(path)):
        for number, raw in enumerate(stream):
            yield decode_line(raw if number else raw.removeprefix(codecs.BOM_UTF8), counter)


def line_counts(paths: Sequence[Path | str]) -> list[int] | None:
    """Returns the lines of each file, or None where one can be read only once, such as a named pipe.

    Raises:
        errors.FileError: a file cannot be read, or is torn.
    """
    if not all(os.path.isfile(path) for path in paths):
        return None
    return [sum(1 for _ in read_lines(path)) for path in paths]


def _explained(path: Path | str, action: str, error: OSError) -> errors.FileError:
    """Returns an error of the operating system in one line that names the file.

    Args:
        path: what the user named.
        action: "read", "written", "made" or "removed".
        error: what went wrong.
    """
    cause = error.strerror or str(error)
    match error:
        case FileNotFoundError() if action == "read":
            what = "no such file. Check the path; relative ones start at the working directory."
        case FileNotFoundError():
            what = f"cannot be {action}: its folder does not exist. Make the folder first."
        case IsADirectoryError():
            what = "is a folder, a file is wanted."
        case NotADirectoryError() | FileExistsError():
            what = f"cannot be {action}: there is a file where a folder is wanted ({cause})."
            what += " Take another name."
        case PermissionError():
            what = f"cannot be {action} ({cause}). Check the permissions of file and folder."
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            what = f"cannot be {action}: the disk is full ({cause}). Free space and try again."
        case _:
            what = f"cannot be {action} ({cause}). Check the disk it is on."
    return errors.FileError(f"{path}: {what}")


@contextlib.contextmanager
def _named_errors(path: Path | str, action: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _explained(path, action, error) from error


@contextlib.contextmanager
def atomic_write(path: Path | str) -> Iterator[BinaryIO]:
    """Writes a file so that it is whole or as it was before, whatever happens.

    The bytes go to a temporary name beside it, reach the disk, and take the final name at once.
    A link stays a link; a device or pipe is written to as it is, and so is what is open already
    and named by its number (`/dev/stdout`), wherever it leads.

    Args:
        path: the file; its folder exists.

    Yields:
        The stream to write to.

    Raises:
        errors.FileError: the disk is full or does not let itself be written.
    """
    path = Path(path)
    if (opened := _OPENED.fullmatch(str(path))) is not None:
        number = _STREAMS[opened[1]] if opened[1] else int(opened[2])
        with _written(path, path), os.fdopen(os.dup(number), "wb") as stream:
            yield stream
        return
    with _named_errors(path, "written"):
        is_file, is_folder = path.is_file(), path.is_dir()
        if is_folder:
            raise IsADirectoryError
        # Renaming onto /dev/null would take it from every other process.
        is_special = path.exists() and not is_file
        target = path.resolve() if path.is_symlink() else path
    if is_special:
        with _written(path, path), path.open("wb") as stream:
            yield stream
        return
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    try:
        with _written(path, temporary):
            with temporary.open("wb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, target)
        fsync_dir(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _written(path: Path, temporary: Path) -> Iterator[None]:
    """Names the file in errors of writing it; those that are about another file pass."""
    try:
        yield
    except OSError as error:
        # An error of a write names no file, one of opening or renaming does.
        if error.filename is not None and Path(os.fsdecode(error.filename)) != temporary:
            raise
        raise _explained(path, "written", error) from error


def atomic_write_text(path: Path | str, text: str) -> None:
    """Writes UTF-8 text; see `atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text.encode("utf-8", errors="replace"))


def atomic_write_json(path: Path | str, value: Any) -> None:
    """Writes indented JSON; see `atomic_write`."""
    atomic_write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Returns JSON as our files have it: indented, with a line end."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def fsync_dir(path: Path | str) -> None:
    """Makes sure that renames within a folder have reached the disk.

    Raises:
        errors.FileError: they have not.
    """
    with _named_errors(Path(path), "written"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems know no such thing for folders.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):
                raise
        finally:
            os.close(descriptor)


def sha256_of(path: Path | str) -> str:
    """Returns the SHA-256 of a file, in hexadecimal.

    Raises:
        errors.FileError: it cannot be read.
    """
    path = Path(path)
    with _named_errors(path, "read"), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def make_dir(path: Path | str) -> None:
    """Makes a folder and those above it.

    Raises:
        errors.FileError: it cannot be made, or a file has its name.
    """
    path = Path(path)
    with _named_errors(path, "made"):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path | str) -> None:
    """Removes a folder and all that is in it, if it is there.

    Raises:
        errors.FileError: it cannot be removed.
    """
    path = Path(path)
    with _named_errors(path, "removed"), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)
