"""Snapshots of the weights, and their average.

    run_dir/snapshots/00001000-<first 16 digits of its sha256>.safetensors

Source: checkpoint averaging as in Vaswani et al. 2017, section 6.1.
"""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import torch

from nmt import errors
from nmt.checkpoint import manifests, weights
from nmt.runtime import files

logger = logging.getLogger(__name__)

FOLDER = "snapshots"
DIGITS = 16
PATTERN = re.compile(r"([0-9]{8,})-([0-9a-f]{16})\.safetensors")


def snapshot_updates(run_dir: Path) -> list[int]:
    """Returns the updates that there are snapshots of, ascending.

    Args:
        run_dir: the run folder.
    """
    return sorted(_snapshots(run_dir))


def save_snapshot(
    run_dir: Path,
    update: int,
    tensors: Mapping[str, torch.Tensor],
    *,
    keep: int,
    needed_by: Collection[int] = (),
) -> None:
    """Saves a snapshot, then removes those that nothing can need any more.

    The newest `keep` stay. So do the `keep` newest at each kept resume state: a run that goes on
    from there makes the later ones again, but not those. Example with `keep=2`, a snapshot
    every 10 updates and resume states at 20 and 40: at update 50, the snapshots 40 and 50 are
    the newest, state 40 needs 30 and 40, state 20 needs 10 and 20, so none goes. Once state 20
    is gone, 10 and 20 go too.

    A snapshot has to be saved before the resume state of the same update, not after it.

    Args:
        run_dir: the run folder.
        update: the update that the weights are from.
        tensors: the weights by name.
        keep: how many snapshots are averaged, 1 or more.
        needed_by: the updates of the kept resume states, from `resume.updates`.

    Raises:
        FileError: the disk is full or does not let itself be written.
    """
    folder = run_dir / FOLDER
    files.make_dir(folder)
    data = weights.serialize(tensors)
    path = folder / f"{update:08d}-{manifests.entry_of_bytes(data).sha256[:DIGITS]}.safetensors"
    for other in folder.glob(f"{update:08d}-*.safetensors"):
        if other != path:
            _remove(other)
    with files.atomic_write(path) as stream:
        stream.write(data)
    _retain(run_dir, keep, needed_by)


def prune(run_dir: Path, after: int, *, keep: int, needed_by: Collection[int] = ()) -> None:
    """Makes the snapshots what they were when the run was at update `after`.

    Args:
        run_dir: the run folder, in which no other process trains.
        after: the update that the run goes on from, 0 for its start: later snapshots are removed.
        keep: how many snapshots are averaged, 1 or more.
        needed_by: the updates of the kept resume states, from `resume.updates`.

    Raises:
        FileError: a snapshot cannot be removed.
    """
    for path in (run_dir / FOLDER).glob(".tmp-*"):  # what a kill left behind
        _remove(path)
    for update, path in _snapshots(run_dir).items():
        if update > after:
            _remove(path)
    _retain(run_dir, keep, needed_by)


def average(run_dir: Path, updates: Collection[int]) -> dict[str, torch.Tensor]:
    """Returns the mean of the weights of some snapshots.

    Args:
        run_dir: the run folder.
        updates: which snapshots, in any order; at least one.

    Returns:
        Tensors of the dtypes of the snapshots: sums are taken in float64, in the order of the
        updates. Tensors of integers or booleans are those of the last snapshot.

    Raises:
        TrainingError: a snapshot is missing, torn or altered.
        ModelError: two snapshots are of different models.
        FileError: a snapshot cannot be read.
    """
    ordered = sorted(set(updates))
    return mean(
        (f"{run_dir / FOLDER}: snapshot of update {update}", load(run_dir, update))
        for update in ordered
    )


def mean(named: Iterable[tuple[str, Mapping[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Returns the mean of some weights, of which two at a time are in memory.

    Args:
        named: what messages call them, and the tensors by name; at least one, in the order in which
            they are summed.

    Returns:
        Tensors of the dtypes of the last ones, as `average` has them.

    Raises:
        ModelError: two are of different models.
    """
    sums: dict[str, torch.Tensor] = {}
    last: Mapping[str, torch.Tensor] = {}
    count = 0
    for place, last in named:
        count += 1
        if sums:
            weights.check_fit({name: value.shape for name, value in sums.items()}, last, place)
            for name, value in last.items():
                sums[name] += value
        else:
            sums = {
                name: value.double() if value.is_floating_point() else value.clone()
                for name, value in last.items()
            }
    assert count, "an average is of at least one"
    return {
        name: (sums[name] / count).to(value.dtype) if value.is_floating_point() else value
        for name, value in last.items()
    }


def _snapshots(run_dir: Path) -> dict[int, Path]:
    folder = run_dir / FOLDER
    if not folder.is_dir():
        return {}
    matches = [(PATTERN.fullmatch(path.name), path) for path in sorted(folder.iterdir())]
    return {int(match[1]): path for match, path in matches if match}


def _retain(run_dir: Path, keep: int, needed_by: Collection[int]) -> None:
    found = _snapshots(run_dir)
    newest = sorted(found)
    needed = set(newest[-keep:])
    for state in needed_by:
        needed.update([update for update in newest if update <= state][-keep:])
    for update, path in found.items():
        if update not in needed:
            _remove(path)


def load(run_dir: Path, update: int) -> dict[str, torch.Tensor]:
    """Returns the weights of one snapshot.

    Args:
        run_dir: the run folder.
        update: one of `snapshot_updates`.

    Raises:
        TrainingError: it is missing, torn or altered.
    """
    return weights.load_tensors(_checked(run_dir, update))


def whole(run_dir: Path, updates: Collection[int]) -> list[int]:
    """Returns those of some snapshots that are as they were written; logs a warning for each other one.

    Args:
        run_dir: the run folder.
        updates: ascending, among `snapshot_updates`.
    """
    found = []
    for update in updates:
        try:
            _checked(run_dir, update)
        except (errors.TrainingError, errors.FileError) as error:
            logger.warning(
                "The snapshot of update %d is left out of the average. %s", update, error
            )
        else:
            found.append(update)
    return found


def _checked(run_dir: Path, update: int) -> Path:
    """Returns the file of a snapshot; see `load`."""
    path = _snapshots(run_dir).get(update)
    if path is None:
        raise _bad_snapshot(run_dir / FOLDER / f"{update:08d}-*.safetensors", "missing")
    if not files.sha256_of(path).startswith(path.stem.split("-")[1]):
        raise _bad_snapshot(path, "torn or altered (its checksum is not the one in its name)")
    return path


def _bad_snapshot(path: Path, fault: str) -> errors.TrainingError:
    return errors.TrainingError(
        f"{path}: {fault}. A snapshot of an average has to be as it was written."
    )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise errors.FileError(f"{path}: cannot be removed ({error.strerror}).") from error
