"""What a run has told about itself: the lines of its metrics.jsonl."""

import dataclasses
import json
import logging
import math
from pathlib import Path
from typing import Any

from nmt import errors
from nmt.runtime import files

logger = logging.getLogger(__name__)

NAME = "metrics.jsonl"

Event = dict[str, Any]


class NoEventError(errors.DataError):
    """A run that has written nothing of its training yet."""


@dataclasses.dataclass(frozen=True)
class Events:
    """The events of one run in their order.

    Attributes:
        train: every logging interval: update, epoch, loss, learning_rate, tokens_per_second, ...
        validation: every validation: update, loss, perplexity, scores, is_best.
        others: all that is rarer: returns to a checkpoint, cut batches, averages.
    """

    train: list[Event]
    validation: list[Event]
    others: list[Event]

    def series(self, kind: str, name: str) -> list[tuple[float, float]]:
        """Returns (update, value) of the events that have a number of that name.

        Args:
            kind: train or validation.
            name: of the number.
        """
        found = []
        for event in self.train if kind == "train" else self.validation:
            value = event.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            if math.isfinite(value):
                found.append((float(event["update"]), float(value)))
        return found


def read(run_dir: Path) -> Events:
    """Returns the events of a run.

    A last line without its end is that of a run that was killed, or that writes it just now: it is passed
    over, and a warning says so.

    Raises:
        errors.DataError: another line is torn or no event, or there is none at all.
        errors.FileError: the file is not there or cannot be read.
    """
    path = run_dir / NAME
    files.check_readable(path)
    with files.reading(str(path)):
        content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    if rest:
        logger.warning("%s:%d: the last line is torn and is passed over", path, len(lines) + 1)
    found = Events([], [], [])
    for number, line in enumerate(lines, start=1):
        event = _parse(line)
        if event is None:
            raise errors.DataError(
                f"{path}:{number}: is no event (given: {line[:40].decode(errors='replace')!r}). Each line "
                "is a JSON object with event and update. Mend or remove the line."
            )
        places = {"train": found.train, "validation": found.validation}
        places.get(str(event["event"]), found.others).append(event)
    if not (found.train or found.validation):
        raise NoEventError(
            f"{path}: holds no event yet. A run writes one every training.logging_interval updates."
        )
    return found


def _parse(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_event = isinstance(event, dict) and isinstance(event.get("update"), int)
    return event if is_event and isinstance(event.get("event"), str) else None
