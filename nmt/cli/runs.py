"""`nmt runs`: what runs there are in a folder, and how they are."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.checkpoint import manifests
from nmt.evaluation import events
from nmt.runtime import characters, locks

logger = logging.getLogger(__name__)

# Files by which a folder is known to be one of a run, and those that a folder may have for other reasons.
SIGNS = frozenset({manifests.NAME, events.NAME})
WEAK_SIGN, BESIDE_IT = "log.txt", frozenset({locks.NAME, "checkpoints", "tokenizer"})


@dataclasses.dataclass(frozen=True)
class Overview:
    """How a run is.

    Attributes:
        folder: of the run.
        state: running, stopped, finished, broken, or model for a folder that was not trained here.
        update: updates done, as far as the log knows.
        best: the best validation score, and what it is of.
        minutes: spent training.
        size: of all files in bytes.
        detail: what is broken, or who trains.
    """

    folder: str
    state: str
    update: int | None
    best: str
    minutes: float | None
    size: int
    detail: str = ""


def run(args: argparse.Namespace) -> int:
    """Prints a line for each run in a folder and the folders below it.

    Args:
        args: `folder`, `json`.

    Returns:
        0.

    Raises:
        errors.FileError: the folder is not there.
        errors.UsageError: there is no run in it.
    """
    parent = Path(args.folder or "runs")
    if not parent.is_dir():
        raise errors.FileError(f"{parent}: is no folder. Name the one that your runs are in.")
    found = [overview(folder) for folder in run_folders(parent)]
    if not found:
        raise errors.UsageError(f"{parent}: there is no run in it. `nmt train` makes one.")
    if args.json:
        text = json.dumps([dataclasses.asdict(one) for one in found], indent=1, ensure_ascii=False)
        print(characters.printable(text))
        return 0
    header = ["run", "state", "update", "best", "minutes", "MB", ""]
    for line in _aligned([header, *map(row, found)]):
        print(characters.printable(line))
    return 0


def run_folders(parent: Path) -> Iterator[Path]:
    """Yields the folders of runs, the folder itself included, in the order of their names."""
    seen = set()
    for place, folders, names in os.walk(parent, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads to where we were
            folders.clear()
            continue
        seen.add(real)
        if SIGNS & {*names} or (WEAK_SIGN in names and BESIDE_IT & {*names, *folders}):
            folders.clear()
            yield Path(place)
        else:
            folders[:] = sorted(name for name in folders if not name.startswith("."))


def overview(folder: Path) -> Overview:
    """Returns how a run is; what is wrong with it is part of that."""
    size = _size(folder)
    told, fault = None, None
    try:
        told = events.read(folder)
    except events.NoEventError:
        pass  # stopped early
    except errors.DataError as error:
        fault = str(error)
    except errors.FileError:
        pass
    state, detail = _state(folder, fault)
    if told is None:
        return Overview(str(folder), state, _stored_update(folder), "", None, size, detail)
    last = [*told.train[-1:], *told.validation[-1:]]
    seconds = [float(event["seconds"]) for event in last if "seconds" in event]
    return Overview(
        str(folder),
        state,
        max(int(event["update"]) for event in last),
        _best(told.validation),
        max(seconds) / 60.0 if seconds else None,
        size,
        detail,
    )


def _size(folder: Path) -> int:
    """Returns the bytes of all files; a run at work may remove some meanwhile."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.stat(os.path.join(place, name)).st_size
    return size


def _size_of(path: Path) -> int:
    """Returns the bytes of a file, -1 for one that is not there."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _state(folder: Path, fault: str | None) -> tuple[str, str]:
    holder = locks.holder(folder)
    if holder is not None:
        return "running", holder
    if fault is not None:
        return "broken", fault
    if (folder / manifests.NAME).exists():
        try:
            stored = manifests.read(folder)
        except errors.NMTError as error:
            return "broken", str(error)
        sizes = {name: entry.size for name, entry in stored.manifest.files.items()}
        for name, size in sizes.items():
            path = folder / name
            found = _size_of(path)
            # A replacement that was cut short has the sizes of either model.
            if found < 0 or (stored.pending is None and found != size):
                return "broken", f"{path}: is missing or torn. {manifests.RESTORE}"
    newest = newest_state(folder)
    if newest is None:
        has_model = (folder / manifests.NAME).exists()
        return ("model", "") if has_model else ("stopped", "before its first checkpoint")
    try:
        content = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        is_over = bool(content["values"]["progress"]["finished"])
    except (OSError, ValueError, KeyError, TypeError):
        return "broken", f"{newest}: cannot be read. The run goes on from an older checkpoint."
    return ("finished", "") if is_over else ("stopped", "")


def newest_state(folder: Path) -> Path | None:
    """Returns the folder of the newest whole checkpoint of a run, or None."""
    states = folder / "checkpoints"
    names = os.listdir(states) if states.is_dir() else []
    whole = sorted(name for name in names if re.fullmatch(r"[0-9]{8,}", name))
    return states / whole[-1] if whole else None


def _stored_update(folder: Path) -> int | None:
    newest = newest_state(folder)
    return None if newest is None else int(newest.name)


def _best(validations: Sequence[events.Event]) -> str:
    best = [event for event in validations if event.get("is_best")][-1:]
    if not best:
        return ""
    value = best[0].get("score", best[0].get("loss"))
    if value is None:
        # JSON has no NaN.
        return f"not finite at {best[0]['update']}"
    name = next((name for name in ("bleu", "chrf") if best[0].get(name) == value), "")
    loss = best[0].get("loss")
    if not name and loss is not None and abs(loss) == abs(value):
        name, value = "loss", loss
    return f"{name or 'score'} {value:.2f} at {best[0]['update']}"


def row(one: Overview) -> list[str]:
    """Returns the cells of a table: folder, state, updates, best score, minutes, megabytes, detail."""
    minutes = "" if one.minutes is None else f"{one.minutes:.1f}"
    update = "" if one.update is None else f"{one.update:,}"
    return [one.folder, one.state, update, one.best, minutes, f"{one.size / 1e6:.0f}", one.detail]


def _aligned(rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    for cells in rows:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        yield "  ".join(padded).rstrip()
