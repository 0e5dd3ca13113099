"""What the training loop has done for it: all that has to do with files and searches."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from nmt.models import seq2seq
from nmt.training import progress
from nmt.training import tensors as state_tensors

Tensors = state_tensors.Tensors


class Validation(Protocol):
    """What a validation found."""

    @property
    def scores(self) -> dict[str, float]:
        """Figures by name, among them those that `best_metric` may name."""


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop has done for it.

    Attributes:
        validate: judges the model as it is.
        save: keeps a resume state; its arguments are the progress and the tensors by kind.
        snapshot: keeps weights for averaging.
        publish: makes these weights, of this update and with these scores, the model of the run.
        average: returns the mean of the kept weights, or None if there are fewer than two.
        best_weights: returns the weights of the best update; None if the published model alone has them.
        last_good: returns progress and tensors of the newest state that no skipped update led up to,
            and forgets what came after it.
        write_metrics: appends a line to the metrics.
        stop_requested: whether the user wants the run to stop.
    """

    validate: Callable[[seq2seq.Seq2Seq], Validation]
    save: Callable[[progress.Progress, dict[str, Tensors]], None]
    snapshot: Callable[[int, Tensors], None]
    publish: Callable[[int, Tensors, dict[str, float]], None]
    average: Callable[[], Tensors | None]
    best_weights: Callable[[int], Tensors | None]
    last_good: Callable[[], tuple[dict[str, Any], dict[str, Tensors]]]
    write_metrics: Callable[[dict[str, Any]], None]
    stop_requested: Callable[[], bool]
