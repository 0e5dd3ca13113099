"""Files behind a URL (`s3://`, `https://`, ...), through fsspec."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from nmt import errors

# What a web server may say of a file that changes when it does.
_HTTP_VERSION = ("size", "ETag", "Last-Modified", "Content-MD5", "Digest")


def is_url(name: object) -> bool:
    """Returns whether a file's name is a URL."""
    return isinstance(name, str) and "://" in name


def open_read(url: str) -> BinaryIO:
    """Opens a remote file for reading, as it lies there.

    Raises:
        errors.FileError: it cannot be reached, or a package is missing.
    """
    with _explained(url):
        system, path = _file_system(url)
        stream: BinaryIO = system.open(path, "rb")
        return stream


def check_readable(url: str) -> None:
    """Finds out whether a remote file is there.

    Raises:
        errors.FileError: it is not, or it cannot be reached.
    """
    with _explained(url):
        system, path = _file_system(url)
        if not system.isfile(path):
            raise FileNotFoundError


def identity(url: str) -> str:
    """Returns what changes when a remote file does: its version, or its size and date.

    Hashing its content would read it over the network once more.

    Raises:
        errors.FileError: it cannot be reached.
    """
    with _explained(url):
        system, path = _file_system(url)
        if not url.startswith(("http://", "https://")):
            return str(system.ukey(path))
        # fsspec takes what lies behind such an address for unchanging.
        info = system.info(path)
        told = {key: info[key] for key in _HTTP_VERSION if info.get(key) is not None}
        return json.dumps(told, sort_keys=True)


def size(url: str) -> int:
    """Returns the bytes of a remote file, 0 if its server does not say.

    Raises:
        errors.FileError: it cannot be reached.
    """
    with _explained(url):
        system, path = _file_system(url)
        return int(system.size(path) or 0)


def matches(pattern: str) -> list[str]:
    """Returns the URLs that match a pattern, sorted.

    Raises:
        errors.FileError: the place cannot be reached.
    """
    with _explained(pattern):
        system, path = _file_system(pattern)
        return sorted(str(system.unstrip_protocol(name)) for name in system.glob(path))


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    return system, path


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turns what fsspec and its file systems raise into one line that names the URL."""
    try:
        yield
    except ImportError as error:
        raise errors.FileError(
            f"{url}: reading it needs a package that is not installed ({error}). "
            "Install fsspec with: pip install 'nmt-toolkit[remote]', and what it asks for beside it."
        ) from error
    except FileNotFoundError as error:
        raise errors.FileError(f"{url}: no such file. Check the URL.") from error
    except errors.NMTError:
        raise
    except Exception as error:
        # What file systems raise has no base in common.
        what = " ".join(str(error).split()) or type(error).__name__
        raise errors.FileError(f"{url}: cannot be read ({what}). Check the URL.") from error
