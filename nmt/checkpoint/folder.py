"""The model folder: published, verified, read, and found again.

A replacement goes: manifest.json with both models in it, then the weights, then config.yaml, then
manifest.json with the new model alone. The weights decide which of the two a folder is: while they
are the old ones it is the old model; from the moment that they are the new ones it is the new one,
whose configuration also stands in the manifest. So no kill leaves a mixture behind.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import manifests, weights
from nmt.runtime import files

logger = logging.getLogger(__name__)

CONFIG = "config.yaml"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer"
SHORTLIST = "shortlist-"
MODEL_VARIABLE = "NMT_MODEL"
LAST_RUN = Path(".nmt") / "last-run"
ATTEMPTS = 10


@dataclass(frozen=True)
class Model:
    """A verified model folder in memory.

    Attributes:
        manifest: what the folder holds.
        config_text: the effective configuration, YAML.
        tensors: the weights by name.
    """

    manifest: manifests.Manifest
    config_text: str
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class _View:
    """Which of its models a folder is.

    Attributes:
        manifest: the one of that model.
        config_entries: how config.yaml may look.
        config_text: the configuration, where it may not have reached config.yaml yet.
    """

    manifest: manifests.Manifest
    config_entries: tuple[manifests.FileEntry, ...]
    config_text: str | None = None


def publish(
    folder: Path,
    *,
    config_text: str,
    tensors: Mapping[str, torch.Tensor],
    scores: Mapping[str, Any],
    update: int,
) -> manifests.Manifest:
    """Makes these weights the model of the folder; a kill at any point leaves the old or the new.

    A folder that is damaged is put right, but for the tokenizer, which is not written here.

    Args:
        folder: the run folder, into which no other process publishes; tokenizer/ is in it.
        config_text: the whole effective configuration, YAML.
        tensors: the weights by name.
        scores: what validation said about them; JSON-able.
        update: the update that they are from.

    Returns:
        The manifest that was written.

    Raises:
        FileError: the disk is full or does not let itself be written.
        ModelError: the tokenizer is not the one that the folder was published with.
    """
    _sweep(folder)
    current = _settle(folder)
    config_data, weights_data = config_text.encode(), weights.serialize(tensors)
    entries = {
        CONFIG: manifests.entry_of_bytes(config_data),
        WEIGHTS: manifests.entry_of_bytes(weights_data),
        **_tokenizer_entries(folder, current),
    }
    new = manifests.Manifest(entries, manifests.versions(), update, dict(scores))
    if current is not None:
        replacement = manifests.Replacement(new, config_text)
        manifests.write(folder, manifests.Stored(current, replacement))
    with files.atomic_write(folder / WEIGHTS) as stream:
        stream.write(weights_data)
    _write_config(folder, config_text)
    manifests.write(folder, manifests.Stored(new))
    return new


def record_optimized(
    folder: Path, decision: Mapping[str, Any], shortlist: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Notes what `nmt optimize` decided for the model of the folder; the next `publish` forgets it.

    Args:
        folder: the run folder, into which no other process publishes.
        decision: JSON-able; takes the place of an earlier one.
        shortlist: tensors to keep with it, in a file that is named after what is in it.

    Raises:
        ModelError: there is no model.
        FileError: the files cannot be written.
    """
    manifest = _settle(folder)
    if manifest is None:
        raise _bad_file(folder, manifests.NAME, "holds no model")
    entries = {n: e for n, e in manifest.files.items() if not n.startswith(SHORTLIST)}
    if shortlist is not None:
        data = weights.serialize(shortlist)
        entry = manifests.entry_of_bytes(data)
        name = f"{SHORTLIST}{entry.sha256[:8]}.safetensors"
        with files.atomic_write(folder / name) as stream:
            stream.write(data)
        entries[name] = entry
    new = replace(manifest, files=entries, optimized=decision)
    manifests.write(folder, manifests.Stored(new))
    for path in (p for p in folder.glob(f"{SHORTLIST}*") if p.name not in entries):
        _unlink(path)


def shortlist_file(manifest: manifests.Manifest) -> str | None:
    """Returns the name of the shortlist that `nmt optimize` learnt, or None."""
    return next((name for name in manifest.files if name.startswith(SHORTLIST)), None)


def retract(folder: Path) -> None:
    """Makes a folder one without a model, so that it can get another tokenizer.

    Args:
        folder: the run folder; its other files stay, and are replaced by the next `publish`.

    Raises:
        FileError: the manifest cannot be removed.
    """
    _unlink(folder / manifests.NAME)


def verify(folder: Path) -> manifests.Manifest:
    """Checks every file of a model folder; another process may publish into it meanwhile.

    Args:
        folder: the run folder.

    Returns:
        What it holds.

    Raises:
        ModelError: names the first file that is missing, torn or altered, and what restores it.
        FileError: a file cannot be read.
    """
    return _verified(folder)[1].manifest


def read(folder: Path, device: str | torch.device = "cpu") -> Model:
    """Verifies and loads a model folder; another process may publish into it meanwhile.

    Args:
        folder: the run folder.
        device: where the weights go.

    Returns:
        Configuration and weights that belong together.

    Raises:
        ModelError: a file is missing, torn or altered.
        FileError: a file cannot be read.
    """
    for _ in range(ATTEMPTS):
        before = _verified(folder)
        view = before[1]
        config_text = view.config_text
        if config_text is None:
            config_text = _read_config(folder)
        tensors = weights.load_tensors(folder / WEIGHTS, device)
        if before == _peek(folder, before):
            return Model(view.manifest, config_text, tensors)
    raise _restless(folder)


def read_config(folder: Path) -> str:
    """Returns the effective configuration of a model folder; the weights are not checked.

    Args:
        folder: the run folder.

    Returns:
        YAML.

    Raises:
        ModelError: there is no model, or config.yaml is missing, torn or altered.
        FileError: a file cannot be read.
    """
    for _ in range(ATTEMPTS):
        stored = manifests.read(folder)
        view = _view(folder, stored)
        text = view.config_text
        fault = None
        if text is None:
            fault = manifests.fault(folder / CONFIG, *view.config_entries)
            text = "" if fault else _read_config(folder)
        if manifests.read(folder) == stored:
            if fault:
                raise _bad_file(folder, CONFIG, fault)
            return text
    raise _restless(folder)


def verify_tokenizer(folder: Path) -> None:
    """Checks that the tokenizer is still the one of the model, if there is a model yet.

    A damaged manifest cannot say, and is no reason not to train, which puts it right: there is a
    warning.

    Args:
        folder: the run folder, into which no other process publishes.

    Raises:
        ModelError: a file of the tokenizer is missing, torn or altered.
        FileError: a file cannot be read.
    """
    if not (folder / manifests.NAME).exists():
        return
    try:
        current = manifests.read(folder).manifest
    except errors.ModelError as error:
        logger.warning("%s The next model that is saved puts it right.", error)
        return
    _tokenizer_entries(folder, current)


def default_model() -> tuple[Path, str]:
    """Finds the model that a command takes when it is given none.

    Returns:
        The folder, which need not exist, and in words where it was named: `$NMT_MODEL`, or the
        run that `nmt train` was last at work on from this directory.

    Raises:
        ModelError: neither names one.
        FileError: the note of the last run cannot be read.
    """
    named = os.environ.get(MODEL_VARIABLE, "")
    if named:
        return Path(named), f"${MODEL_VARIABLE}"
    try:
        noted = os.fsdecode(LAST_RUN.read_bytes()).removesuffix("\n")
    except FileNotFoundError:
        noted = ""
    except OSError as error:
        raise errors.FileError(f"{LAST_RUN}: cannot be read ({error.strerror}).") from error
    if noted:
        return Path(noted), f"the last run of `nmt train` here, see {LAST_RUN}"
    raise errors.ModelError(
        f"--model: no model is named (${MODEL_VARIABLE} is not set, and `nmt train` was never "
        "run from this directory). A folder that `nmt train` wrote is wanted. "
        "Give --model RUN_DIR."
    )


def record_last_run(run_dir: Path) -> None:
    """Notes in the working directory that `nmt train` is at work on `run_dir`.

    A directory that cannot be written to is no reason not to train: there is a warning.

    Args:
        run_dir: the run folder; a relative path stays relative, so that both can be moved.
    """
    try:
        files.make_dir(LAST_RUN.parent)
        with files.atomic_write(LAST_RUN) as stream:
            stream.write(os.fsencode(run_dir) + b"\n")
    except errors.FileError as error:
        logger.warning("%s Commands here will need --model %s.", error, run_dir)


def _sweep(folder: Path) -> None:
    """Removes the unfinished files that a killed publication left behind; weights can be large."""
    for name in (WEIGHTS, CONFIG, manifests.NAME):
        for path in folder.glob(f".tmp-*-{name}"):
            _unlink(path)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be removed ({error.strerror}).") from error


def _settle(folder: Path) -> manifests.Manifest | None:
    """Ends a replacement that was cut short; returns what the folder holds, None if nothing."""
    try:
        stored = manifests.read(folder)
    except errors.ModelError:
        return None
    view = _view(folder, stored)
    if view.config_text is not None:
        _write_config(folder, view.config_text)
        manifests.write(folder, manifests.Stored(view.manifest))
    return view.manifest


def _write_config(folder: Path, text: str) -> None:
    """Writes config.yaml where it is not the same already."""
    data = text.encode()
    if manifests.fault(folder / CONFIG, manifests.entry_of_bytes(data)) is not None:
        with files.atomic_write(folder / CONFIG) as stream:
            stream.write(data)


def _read_config(folder: Path) -> str:
    try:
        return (folder / CONFIG).read_bytes().decode()
    except OSError as error:
        raise errors.FileError(f"{folder / CONFIG}: cannot be read ({error.strerror}).") from error


def _tokenizer_entries(
    folder: Path, current: manifests.Manifest | None
) -> dict[str, manifests.FileEntry]:
    """Returns the files of the tokenizer, after a check that they are those of `current`."""
    known = {} if current is None else current.files
    for name, entry in known.items():
        fault = manifests.fault(folder / name, entry) if name.startswith(TOKENIZER) else None
        if fault:
            raise _bad_file(folder, name, fault)
    paths = [path for path in (folder / TOKENIZER).glob("[!.]*") if path.is_file()]
    if not paths:
        raise _bad_file(folder, TOKENIZER, "missing or empty")
    return {path.relative_to(folder).as_posix(): manifests.entry_of_file(path) for path in paths}


def _view(folder: Path, stored: manifests.Stored) -> _View:
    """Finds out which of its models a folder is."""
    current, pending = stored.manifest, stored.pending
    if pending is None:
        return _View(current, (current.files[CONFIG],))
    if manifests.fault(folder / WEIGHTS, pending.manifest.files[WEIGHTS]) is not None:
        return _View(current, (current.files[CONFIG],))
    entries = (current.files[CONFIG], pending.manifest.files[CONFIG])
    return _View(pending.manifest, entries, pending.config_text)


def _verified(folder: Path) -> tuple[manifests.Stored, _View]:
    """Verifies a folder, anew whenever the manifest has changed meanwhile."""
    for _ in range(ATTEMPTS):
        stored = manifests.read(folder)
        view = _view(folder, stored)
        for name, entry in view.manifest.files.items():
            allowed = view.config_entries if name == CONFIG else (entry,)
            fault = manifests.fault(folder / name, *allowed)
            if fault:
                break
        if manifests.read(folder) == stored and view == _view(folder, stored):
            if fault:
                raise _bad_file(folder, name, fault)
            return stored, view
    raise _restless(folder)


def _peek(
    folder: Path, before: tuple[manifests.Stored, _View]
) -> tuple[manifests.Stored, _View] | None:
    """Returns which model the folder is now, or None if its manifest is another than before."""
    stored = manifests.read(folder)
    return (stored, _view(folder, stored)) if stored == before[0] else None


def _bad_file(folder: Path, name: str, fault: str) -> errors.ModelError:
    if name.startswith(TOKENIZER):
        return errors.ModelError(
            f"{folder / name}: {fault}. The tokenizer has to stay the one that the model was "
            "trained with. Copy the file again; or train anew, with `nmt train --fresh`."
        )
    return errors.ModelError(f"{folder / name}: {fault}. {manifests.RESTORE}")


def _restless(folder: Path) -> errors.ModelError:
    return errors.ModelError(
        f"{folder}: the model changed {ATTEMPTS} times while it was read. "
        "Try again, or read a copy of the folder."
    )
