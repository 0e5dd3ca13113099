"""manifest.json: what belongs to a model folder, and how each file has to look."""

import dataclasses
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.checkpoint import sealed
from nmt.runtime import files

FORMAT = 1
NAME = "manifest.json"
PACKAGES = ("nmt-toolkit", "safetensors", "sentencepiece", "torch")
RESTORE = (
    "Run `nmt train` again with the same config, which restores it from the newest checkpoint, "
    "or copy the folder again."
)


@dataclass(frozen=True)
class FileEntry:
    """How a file has to look.

    Attributes:
        sha256: its checksum, in hexadecimal.
        size: its size in bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What a model folder holds.

    Attributes:
        files: every file that inference reads, by its path inside the folder.
        versions: of Python and of the packages that wrote it.
        update: the update that the weights are from.
        scores: what validation said about these weights.
        optimized: what `nmt optimize` decided for these weights, and what it measured; empty until
            then. JSON-able.
    """

    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    update: int
    scores: Mapping[str, Any]
    optimized: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Replacement:
    """A model that is just taking the place of another one.

    Attributes:
        manifest: what the folder holds once the new weights are in place.
        config_text: the config.yaml that belongs to them, until it is in place too.
    """

    manifest: Manifest
    config_text: str


@dataclass(frozen=True)
class Stored:
    """The content of manifest.json.

    Attributes:
        manifest: what the folder holds.
        pending: what it holds instead as soon as its weights are the new ones; None unless a
            replacement is under way or was cut short.
    """

    manifest: Manifest
    pending: Replacement | None = None


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that the model depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found


def entry_of_bytes(data: bytes) -> FileEntry:
    """Returns how a file that holds `data` has to look."""
    return FileEntry(hashlib.sha256(data).hexdigest(), len(data))


def entry_of_file(path: Path) -> FileEntry:
    """Returns how the file at `path` looks.

    Raises:
        FileError: it cannot be read.
    """
    return FileEntry(files.sha256_of(path), size_of(path))


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes.

    Raises:
        FileError: it cannot be found or read.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be read ({error.strerror}).") from error


def fault(path: Path, *allowed: FileEntry) -> str | None:
    """Returns what is wrong with a file, or None if it looks like one of `allowed`.

    The size is compared first: a torn file is found without reading it.

    Raises:
        FileError: the file is there and cannot be read.
    """
    if not path.is_file():
        return "missing"
    size = size_of(path)
    candidates = [entry for entry in allowed if entry.size == size]
    if not candidates:
        wanted = " or ".join(str(entry.size) for entry in allowed)
        return f"torn or altered ({size} bytes, {wanted} were written)"
    if files.sha256_of(path) not in {entry.sha256 for entry in candidates}:
        return "altered (its checksum is not the one it was written with)"
    return None


def write(folder: Path, stored: Stored) -> None:
    """Writes manifest.json at once or not at all.

    Raises:
        FileError: it cannot be written.
    """
    content = _to_json(stored.manifest)
    if stored.pending is not None:
        content["pending"] = {
            **_to_json(stored.pending.manifest),
            "config_text": stored.pending.config_text,
        }
    files.atomic_write_text(folder / NAME, sealed.render(content, FORMAT))


def read(folder: Path) -> Stored:
    """Reads manifest.json.

    Raises:
        ModelError: folder or manifest are missing, torn, altered or of another format.
        FileError: the manifest cannot be read.
    """
    path = folder / NAME
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.ModelError(_why_missing(folder)) from error
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be read ({error.strerror}).") from error
    try:
        content = sealed.parse(data, FORMAT)
    except ValueError as error:
        raise errors.ModelError(f"{path}: {error}. {RESTORE}") from error
    try:
        pending = content.get("pending")
        if pending is None:
            return Stored(_from_json(content))
        return Stored(_from_json(content), Replacement(_from_json(pending), pending["config_text"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.ModelError(f"{path}: incomplete ({error!r}). {RESTORE}") from error


def _why_missing(folder: Path) -> str:
    if not folder.exists():
        return (
            f"{folder}: there is no such model folder. A folder that `nmt train` wrote is wanted. "
            "Name it with --model or in $NMT_MODEL."
        )
    if not folder.is_dir():
        return (
            f"{folder}: is a file, not a model folder. A folder that `nmt train` wrote is wanted. "
            "Name it with --model or in $NMT_MODEL."
        )
    if (folder / "export.json").exists():
        return (
            f"{folder}: is an export for another engine, not a model folder. "
            "Translate with it by --engine ctranslate2, or name the model that it was made from."
        )
    if (folder / "model.safetensors").exists():
        return f"{folder / NAME}: missing. {RESTORE}"
    if any((folder / name).exists() for name in ("config.yaml", "tokenizer", "checkpoints")):
        return (
            f"{folder}: has no model yet, training has not saved one ({NAME} is missing). "
            "Wait for the first validation, or run `nmt train` again to go on."
        )
    return (
        f"{folder}: is not a model folder ({NAME} is missing). A folder that `nmt train` wrote is "
        "wanted. Name it with --model or in $NMT_MODEL."
    )


def _to_json(manifest: Manifest) -> dict[str, Any]:
    content: dict[str, Any] = {
        "files": {
            name: {"sha256": entry.sha256, "size": entry.size}
            for name, entry in sorted(manifest.files.items())
        },
        "versions": dict(manifest.versions),
        "update": manifest.update,
        "scores": dict(manifest.scores),
    }
    if manifest.optimized:
        content["optimized"] = dict(manifest.optimized)
    return content


def _from_json(content: dict[str, Any]) -> Manifest:
    entries = {
        name: FileEntry(entry["sha256"], entry["size"]) for name, entry in content["files"].items()
    }
    return Manifest(
        entries,
        content["versions"],
        content["update"],
        content["scores"],
        dict(content.get("optimized", {})),
    )
