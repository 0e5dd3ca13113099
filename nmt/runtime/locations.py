"""The files of a corpus: paths, URLs and patterns, and what they are known by."""

import glob
import urllib.parse
from pathlib import Path

from nmt import errors
from nmt.runtime import files, remote

# How many times smaller compressed text is, about.
COMPRESSION = 3


def location(name: str) -> Path | str:
    """Returns the place of a file: a path, also for `file://`, or a URL as it is."""
    if name.startswith("file://"):
        return Path(urllib.parse.unquote(urllib.parse.urlsplit(name).path))
    return name if remote.is_url(name) else Path(name)


def locations(pattern: str) -> list[Path | str]:
    """Returns the files that a name stands for: itself, or the matches of `*`, `?`, `[]`, sorted.

    Raises:
        errors.FileError: a pattern matches no file.
    """
    place = location(pattern)
    if not any(sign in pattern for sign in "*?["):
        return [place]
    found: list[Path | str]
    if isinstance(place, str):
        found = [*remote.matches(place)]
    elif place.exists():
        return [place]
    else:
        found = [Path(name) for name in sorted(glob.glob(str(place), recursive=True))]
    if not found:
        raise errors.FileError(f"{pattern}: matches no file. Check the pattern.")
    return found


def fingerprint(path: Path | str) -> str:
    """Returns what changes when a corpus file does: the SHA-256 of its bytes as they lie on disk.

    Raises:
        errors.FileError: it cannot be read, or is a pipe, which can be read only once.
    """
    if isinstance(path, str) and remote.is_url(path):
        return remote.identity(path)
    if Path(path).exists() and not Path(path).is_file():
        raise errors.FileError(
            f"{path}: is no regular file. Training reads its corpora again; write it to a file."
        )
    return files.sha256_of(path)


def text_size(path: Path | str) -> int:
    """Returns about how many bytes of text a file holds.

    Raises:
        errors.FileError: it cannot be read.
    """
    if isinstance(path, str) and remote.is_url(path):
        size = remote.size(path)
    else:
        files.check_readable(path)
        size = Path(path).stat().st_size
    return size * (COMPRESSION if Path(path).suffix in {".gz", ".xz", ".zst"} else 1)
