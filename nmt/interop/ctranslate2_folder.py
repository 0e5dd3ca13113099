"""The exported folder: written whole or not at all, and verified before it is used.

model.bin config.json *_vocabulary.json   what CTranslate2 reads
tokenizer/                                copied from the model folder
export.json                               what it was made from, the settings of its search, and
                                          checksum and size of every file
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.checkpoint import folder, manifests, sealed
from nmt.config import schema
from nmt.runtime import files
from nmt.text import tokenizer

NOTE = "export.json"
FORMAT = 1
ENGINE = "ctranslate2"
# The settings of a search that CTranslate2 has, too; with these it begins, flags go over them.
DECODING_KEYS = (
    "beam_size", "length_penalty", "min_length", "max_length", "max_src_tokens", "batch_tokens",
)  # fmt: skip
# Those that need no default besides: they only bound the time, or are those of our own arithmetic.
_KNOWN_KEYS = frozenset({*DECODING_KEYS, "exact_stop", "precision"})
_AGAIN = "Export the model again, or copy the folder again."


@dataclasses.dataclass(frozen=True)
class Note:
    """What stands in export.json besides the checksums.

    Attributes:
        quantization: how the weights are stored, in CTranslate2's words.
        positions: how many positions of source and target can be told apart; None is no limit.
        decoding: the settings that a search begins with, by key of the `decoding` section.
        made_from: name, update and checksum of the weights of the model folder.
        versions: of the packages that wrote it.
        agreement: by search, the share of lines translated alike by both engines.
    """

    quantization: str
    positions: tuple[int | None, int | None]
    decoding: Mapping[str, float | int]
    made_from: Mapping[str, Any]
    versions: Mapping[str, str]
    agreement: Mapping[str, float]

    def decoding_config(self) -> schema.DecodingConfig:
        """Returns the settings as a section."""
        return schema.DecodingConfig.model_validate(dict(self.decoding))


def unknown_settings(decoding: schema.DecodingConfig) -> dict[str, Any]:
    """Returns the settings, other than their defaults, that CTranslate2 has none of."""
    return {
        name: getattr(decoding, name)
        for name, field in schema.DecodingConfig.model_fields.items()
        if name not in _KNOWN_KEYS
        and getattr(decoding, name) != field.get_default(call_default_factory=True)
    }


def check_free(output: Path) -> None:
    """Finds out whether an export can be written there.

    Raises:
        errors.UsageError: something is there already.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise errors.UsageError(
            f"--output: is there already (given: {output}). Name a folder that is new or empty."
        )


@contextlib.contextmanager
def unfinished(output: Path, run_dir: Path) -> Iterator[Path]:
    """Makes a folder under another name, which takes the right one when the block ends well.

    Args:
        output: the folder to be; not there yet, or empty.
        run_dir: a model folder that was verified, whose tokenizer is copied.

    Yields:
        The folder to write into.

    Raises:
        errors.FileError: it cannot be written.
    """
    output = output.absolute()
    temporary = output.with_name(f".tmp-{os.getpid()}-{output.name}")
    files.remove_tree(temporary)
    files.make_dir(temporary)
    try:
        tokenizer.copy(run_dir / folder.TOKENIZER, temporary / folder.TOKENIZER)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                _sync(path)
        files.fsync_dir(temporary)
        try:
            os.rename(temporary, output)
        except OSError as error:
            raise errors.FileError(f"{output}: cannot be made ({error.strerror}).") from error
        files.fsync_dir(output.parent)
    except BaseException:
        with contextlib.suppress(errors.FileError):
            files.remove_tree(temporary)
        raise


def _sync(path: Path) -> None:
    """Brings a file to the disk: CTranslate2 leaves that to the system."""
    try:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be written ({error.strerror}).") from error


def write_note(path: Path, note: Note) -> None:
    """Writes export.json, with checksums of all that is in the folder.

    Raises:
        errors.FileError: it cannot be written.
    """
    found = sorted(entry for entry in path.rglob("*") if entry.is_file())
    entries = {
        entry.relative_to(path).as_posix(): manifests.entry_of_file(entry) for entry in found
    }
    content = {
        "engine": ENGINE,
        **{key: _plain(value) for key, value in dataclasses.asdict(note).items()},
        "files": {
            name: {"sha256": entry.sha256, "size": entry.size} for name, entry in entries.items()
        },
    }
    files.atomic_write_text(path / NOTE, sealed.render(content, FORMAT))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def is_export(path: Path) -> bool:
    """Returns whether a folder is one that `nmt export` wrote."""
    return (path / NOTE).is_file()


def read(path: Path) -> Note:
    """Verifies an exported folder and returns its note.

    Raises:
        errors.ModelError: it is none, or a file is missing, torn or altered.
        errors.FileError: a file cannot be read.
    """
    try:
        data = (path / NOTE).read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise errors.ModelError(
            f"{path}: is not an exported model ({NOTE} is missing). A folder that "
            f"`nmt export --to {ENGINE}` wrote is wanted. Name it with --model."
        ) from error
    except OSError as error:
        raise errors.FileError(f"{path / NOTE}: cannot be read ({error.strerror}).") from error
    try:
        content = sealed.parse(data, FORMAT)
        source, target = content["positions"]
        note = Note(
            quantization=content["quantization"],
            positions=(source, target),
            decoding=content["decoding"],
            made_from=content["made_from"],
            versions=content["versions"],
            agreement=content["agreement"],
        )
        entries = {
            name: manifests.FileEntry(entry["sha256"], entry["size"])
            for name, entry in content["files"].items()
        }
    except ValueError as error:
        raise errors.ModelError(f"{path / NOTE}: {error}. {_AGAIN}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise errors.ModelError(f"{path / NOTE}: incomplete ({error!r}). {_AGAIN}") from error
    for name, entry in entries.items():
        fault = manifests.fault(path / name, entry)
        if fault:
            raise errors.ModelError(f"{path / name}: {fault}. {_AGAIN}")
    return note
