"""Exports inside a model folder: what `nmt optimize` measures, and keeps where it is the fastest.

MODEL/ctranslate2-0f3a91c2/   an export as in `ctranslate2_folder`; eight digits of its checksum

The decision in the manifest names it, so it counts from the moment that this is written. It belongs to
the weights that it was made from: with others, or damaged, it is not used.
"""

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder, manifests
from nmt.config import schema
from nmt.inference import loading
from nmt.interop import ctranslate2_engine, ctranslate2_export, ctranslate2_folder, ctranslate2_spec
from nmt.runtime import files

logger = logging.getLogger(__name__)

KEY = "engine_folder"  # of the decision in the manifest
PREFIX = "ctranslate2-"
_UNFINISHED = ".tmp-optimize-"
QUANTIZATIONS = ("float32", "int8")


def check(config: schema.Config, path: Path) -> None:
    """Finds out whether CTranslate2 can translate as the configuration of a model says.

    Args:
        config: of the model.
        path: its folder.

    Raises:
        errors.UsageError: it cannot, or is not installed; says why.
    """
    ctranslate2_spec.package()
    texts = loading.load_texts(path)
    ctranslate2_spec.check(config.model, texts.src.vocab, texts.tgt.vocab)
    if config.data.languages:
        raise errors.UsageError("data: CTranslate2 sets no tags, which this model's sources have.")
    if config.data.valid_corpora[0].mono is not None:
        raise errors.UsageError("data.valid: CTranslate2 restores no damaged text.")
    for name, value in ctranslate2_folder.unknown_settings(config.decoding).items():
        raise errors.UsageError(f"decoding.{name}: CTranslate2 has none (given: {value}).")
    ctranslate2_engine.check(config.decoding, 1, None)


@contextlib.contextmanager
def made(path: Path, sources: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Exports a model for the time of the block.

    Args:
        path: the model folder, which `check` has passed.
        sources: lines on which both engines are compared.

    Yields:
        Exported folders by quantization, without those that translate differently.

    Raises:
        errors.FileError: the folder cannot be written.
    """
    for left in path.glob(f"{_UNFINISHED}*"):  # by a kill
        files.remove_tree(left)
    try:
        room = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=path))
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be written ({error.strerror}).") from error
    found = {}
    try:
        for quantization in QUANTIZATIONS:
            try:
                ctranslate2_export.export(path, room / quantization, quantization, sources)
            except errors.ModelError as error:
                logger.info("ctranslate2 %s: left out (%s)", quantization, error)
            else:
                found[quantization] = room / quantization
        yield found
    finally:
        files.remove_tree(room)


def keep(path: Path, exported: Path) -> str:
    """Moves an export of `made` to where it can stay; returns its name in the model folder.

    Raises:
        errors.FileError: it cannot be moved.
    """
    name = PREFIX + files.sha256_of(exported / ctranslate2_folder.NOTE)[:8]
    files.remove_tree(path / name)
    try:
        os.rename(exported, path / name)
    except OSError as error:
        raise errors.FileError(f"{path / name}: cannot be made ({error.strerror}).") from error
    files.fsync_dir(path)
    return name


def load(
    exported: Path,
    model: schema.ModelConfig,
    decoding: schema.DecodingConfig,
    batch_sentences: int | None,
) -> ctranslate2_engine.Engine:
    """Loads an export on the CPU.

    Args:
        exported: its folder.
        model: the options of the model that it was made from.
        decoding: search settings.
        batch_sentences: sentences searched at once, or None.

    Raises:
        errors.ModelError: a file is missing, torn or altered.
        errors.UsageError: a setting means something else to CTranslate2, or the export is too short.
    """
    _, positions = ctranslate2_folder.read(exported).positions
    is_learned = getattr(model.decoder, "positions", "") == "learned"
    if is_learned and positions is not None and positions < decoding.max_length:
        # What the model cannot represent our own search does not ask for, either. (Sinusoids have no
        # end: where the export has too few of them, our own search is the one to take.)
        decoding = decoding.model_copy(update={"max_length": positions})
    return ctranslate2_engine.load(
        exported, decoding, batch_sentences=batch_sentences, device="cpu"
    )


def sweep(path: Path, name: str | None) -> None:
    """Removes all exports of a model folder but the one of this name."""
    for other in path.glob(f"{PREFIX}*"):
        if other.name != name:
            files.remove_tree(other)


def find(path: Path) -> Path | None:
    """Returns the export that `nmt optimize` chose for the weights of a model folder, or None.

    Raises:
        errors.ModelError: it is missing, damaged, or made from other weights.
        errors.UsageError: CTranslate2 is not installed.
    """
    try:
        optimized = manifests.read(path).manifest.optimized
        if KEY not in optimized or not loading.counts_here(optimized):
            return None
        manifest = folder.verify(path)
    except errors.ModelError:
        return None  # whoever loads the model says what is wrong with it
    name = manifest.optimized.get(KEY)
    if name is None:
        return None
    ctranslate2_spec.package()
    note = ctranslate2_folder.read(path / str(name))
    if note.made_from.get("weights_sha256") != manifest.files[folder.WEIGHTS].sha256:
        raise errors.ModelError(f"{path / name}: was made from other weights.")
    return path / str(name)
