"""Resume states: all that a run needs to go on as if it had never stopped.

    run_dir/checkpoints/00001000/weights.safetensors, optimizer.safetensors, ..., state.json

A state is written under a name that starts with a dot and renamed when it is complete; one that
goes is renamed before it is deleted. So whatever stands under a number is whole, unless the disk
damaged it, which the checksums in state.json tell.
"""

import contextlib
import logging
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import manifests, sealed, weights
from nmt.runtime import files

logger = logging.getLogger(__name__)

FORMAT = 1
FOLDER = "checkpoints"
STATE = "state.json"
UNFINISHED = ".tmp-"  # being written
DOOMED = ".old-"  # being deleted
REPLACED = ".replaced-"  # whole; stands in for its number until the new one has that name


@dataclass(frozen=True)
class ResumeState:
    """A run between two updates.

    Attributes:
        update: how many updates are done.
        values: position in the data, scores, patience and the like; JSON-able with string keys
            and without tuples, and it comes back exactly as it was.
        tensors: tensors by name, by the stem of the file that they go to (weights, optimizer).
    """

    update: int
    values: dict[str, Any]
    tensors: dict[str, dict[str, torch.Tensor]]


def updates(run_dir: Path) -> list[int]:
    """Returns the updates of the states that are kept, ascending; none of them is opened.

    Args:
        run_dir: the run folder.
    """
    return sorted(_states(run_dir / FOLDER))


def save(
    run_dir: Path,
    state: ResumeState,
    *,
    keep: int,
    best_of: Callable[[dict[str, Any]], int | None] = lambda values: None,
) -> None:
    """Saves a state, then removes those that are no longer wanted.

    States of later updates are removed too: they are of a future that the run turned away from
    when it resumed from an older state.

    Args:
        run_dir: the run folder.
        state: what is saved; its tensors may be on any device.
        keep: how many of the newest states stay, 1 or more.
        best_of: tells from a state's values the update of another one that it needs, which stays as
            long as it does itself.

    Raises:
        FileError: the disk is full or does not let itself be written; the older states are as
            they were.
    """
    folder = run_dir / FOLDER
    files.make_dir(folder)
    name = _name(state.update)
    unfinished, replaced = folder / (UNFINISHED + name), folder / (REPLACED + name)
    files.remove_tree(unfinished)
    try:
        _write(unfinished, state)
        if (folder / name).exists():
            files.remove_tree(replaced)
            _rename(folder / name, replaced)
        _rename(unfinished, folder / name)
    except BaseException:
        with contextlib.suppress(errors.FileError):
            files.remove_tree(unfinished)
        with contextlib.suppress(errors.FileError):
            if replaced.exists() and not (folder / name).exists():
                _rename(replaced, folder / name)
        raise
    _fsync_dir(folder)
    _remove(replaced)
    kept = [update for update in updates(run_dir) if update <= state.update][-keep:]
    states = _states(folder)
    needed = {best_of(values) for update in kept if (values := _values(states[update]))}
    for update, path in states.items():
        if update not in kept and update not in needed:
            _remove(path)


def load(run_dir: Path, update: int) -> ResumeState:
    """Loads one state.

    Args:
        run_dir: the run folder.
        update: the state's update, one of `updates`.

    Returns:
        The state as it was saved, on the CPU.

    Raises:
        TrainingError: names the file of the state that is missing, torn or altered.
        FileError: a file cannot be read.
    """
    path = _states(run_dir / FOLDER).get(update, run_dir / FOLDER / _name(update))
    content = _read_json(path / STATE)
    if content["update"] != update:
        raise _bad_file(path / STATE, f"is of another update, {content['update']}")
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, entry in content["files"].items():
        fault = manifests.fault(path / name, manifests.FileEntry(entry["sha256"], entry["size"]))
        if fault:
            raise _bad_file(path / name, fault)
        tensors[name.removesuffix(".safetensors")] = weights.load_tensors(path / name)
    return ResumeState(update, content["values"], tensors)


def latest(
    run_dir: Path, *, accept: Callable[[dict[str, Any]], bool] = lambda values: True
) -> ResumeState | None:
    """Loads the newest good state; logs a warning for each newer one that is damaged.

    Args:
        run_dir: the run folder.
        accept: tells from a state's values whether it will do.

    Returns:
        The state, or None if none was ever saved, or none will do.

    Raises:
        TrainingError: there are states, and every one is damaged.
    """
    found = updates(run_dir)
    is_any_whole = False
    for update in reversed(found):
        try:
            state = load(run_dir, update)
            is_any_whole = True
            if accept(state.values):
                return state
        except (errors.TrainingError, errors.ModelError, errors.FileError) as error:
            logger.warning("The checkpoint of update %d is passed over. %s", update, error)
    if not found or is_any_whole:
        return None
    raise errors.TrainingError(
        f"{run_dir / FOLDER}: no checkpoint is whole (damaged: {len(found)} of {len(found)}). "
        "A run goes on from a whole one. "
        "Copy the folder again, or start from the beginning with --fresh."
    )


def clean(run_dir: Path, *, after: int | None = None) -> None:
    """Removes what a kill left behind, and the states that the run turns away from.

    Args:
        run_dir: the run folder, in which no other process trains.
        after: the update that the run goes on from: later states, which `latest` found damaged,
            are removed, lest they count among the newest ones. None to let them stay.

    Raises:
        FileError: something cannot be renamed or removed.
    """
    folder = run_dir / FOLDER
    for path in _listing(folder):
        if path.name.startswith(REPLACED):
            good = folder / path.name.removeprefix(REPLACED)
            if good.exists():
                _remove(path)
            else:
                _rename(path, good)
                _fsync_dir(folder)
        elif path.name.startswith((UNFINISHED, DOOMED)):
            files.remove_tree(path)
    for update, path in _states(folder).items():
        if after is not None and update > after:
            _remove(path)


def _name(update: int) -> str:
    return f"{update:08d}"


def _listing(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise errors.FileError(f"{folder}: cannot be read ({error.strerror}).") from error


def _states(folder: Path) -> dict[int, Path]:
    """Returns the directory of each state; a replaced one only where no other has its number."""
    found: dict[int, Path] = {}
    for path in _listing(folder):  # sorted: names with a dot come before those with a digit
        name = path.name.removeprefix(REPLACED)
        if re.fullmatch(r"[0-9]{8,}", name):
            found[int(name)] = path
    return found


def _values(path: Path) -> dict[str, Any]:
    """Returns the values of a state; none where it is damaged."""
    try:
        values: dict[str, Any] = _read_json(path / STATE)["values"]
    except (errors.TrainingError, errors.FileError):
        return {}
    return values


def _write(path: Path, state: ResumeState) -> None:
    """Writes a state's files into the new directory `path`, and makes them last."""
    files.make_dir(path)
    entries: dict[str, Any] = {}
    for stem, tensors in sorted(state.tensors.items()):
        name = f"{stem}.safetensors"
        data = weights.serialize(tensors)
        with files.atomic_write(path / name) as stream:
            stream.write(data)
        entry = manifests.entry_of_bytes(data)
        entries[name] = {"sha256": entry.sha256, "size": entry.size}
    content = {"update": state.update, "values": state.values, "files": entries}
    files.atomic_write_text(path / STATE, sealed.render(content, FORMAT))
    _fsync_dir(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return sealed.parse(path.read_bytes(), FORMAT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _bad_file(path, "missing") from error
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise _bad_file(path, str(error)) from error


def _bad_file(path: Path, fault: str) -> errors.TrainingError:
    return errors.TrainingError(
        f"{path}: {fault}. A run goes on from a checkpoint with all its files as they were "
        "written. Copy the folder again, or go on from an older checkpoint."
    )


def _remove(path: Path) -> None:
    """Removes a whole directory so that no half of it is ever found under its good name."""
    if path.exists():
        doomed = path.with_name(DOOMED + path.name)
        files.remove_tree(doomed)
        _rename(path, doomed)
        files.remove_tree(doomed)


def _fsync_dir(path: Path) -> None:
    try:
        files.fsync_dir(path)
    except OSError as error:
        raise errors.FileError(
            f"{path}: does not reach the disk ({error.strerror}). "
            "Make room or give access, then run `nmt train` again to go on."
        ) from error


def _rename(source: Path, target: Path) -> None:
    try:
        os.rename(source, target)
    except OSError as error:
        raise errors.FileError(
            f"{source}: cannot be renamed to {target.name} ({error.strerror}). "
            "Make room or give access, then run `nmt train` again to go on."
        ) from error
