"""How far a run has come: all that a resumed run has to know besides tensors."""

import dataclasses
import math
from typing import Any

from nmt.config import schema
from nmt.data import plan


@dataclasses.dataclass
class Window:
    """Sums over the updates since the last metrics line; those that were skipped are only counted."""

    loss: float = 0.0
    nll: float = 0.0
    tokens: int = 0
    padded: int = 0
    updates: int = 0
    skipped: int = 0
    seconds: float = 0.0

    @property
    def perplexity(self) -> float:
        """Of a token; not a number where there was none."""
        return math.exp(min(self.nll / self.tokens, 100.0)) if self.tokens else math.nan


@dataclasses.dataclass
class Progress:
    """The counters and choices of a run; goes into every resume state and comes back the same.

    Attributes:
        update: optimiser updates done.
        position: epochs and batches done.
        seconds: time spent training, over all resumptions.
        best_score: best validation score so far (higher is better), None before the first.
        best_update: the update that had it.
        average_score: that of the averaged weights that are published, None if none are.
        bad_validations: validations since then.
        bad_for_plateau: validations since then or since the rate last fell.
        num_plateaus: how often the rate fell.
        validated_update: the last update that was validated, -1 before the first.
        skipped: updates that were skipped, since loss or gradient was not finite.
        skipped_in_row: those that failed so since the last one that was taken.
        num_rollbacks: how often the run went back to a checkpoint because of that.
        rate_factor: what the learning rate is multiplied by since then.
        device_tokens: positions of a piece that were found to fit, None while everything does.
        finished: whether the run has come to its end.
        window: sums for the next metrics line.
    """

    update: int = 0
    position: plan.Position = dataclasses.field(default_factory=plan.Position)
    seconds: float = 0.0
    best_score: float | None = None
    best_update: int = -1
    average_score: float | None = None
    bad_validations: int = 0
    bad_for_plateau: int = 0
    num_plateaus: int = 0
    validated_update: int = -1
    skipped: int = 0
    skipped_in_row: int = 0
    num_rollbacks: int = 0
    rate_factor: float = 1.0
    device_tokens: int | None = None
    finished: bool = False
    window: Window = dataclasses.field(default_factory=Window)

    def to_json(self) -> dict[str, Any]:
        """Returns the values for a resume state."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Progress":
        """Returns what `to_json` was called on."""
        position = plan.Position(**values["position"])
        return cls(**{**values, "position": position, "window": Window(**values["window"])})

    def count_skipped(self, *, has_failed: bool) -> None:
        """Counts an update that was not taken.

        Args:
            has_failed: whether it is a bad sign; see `update.UpdateResult`.
        """
        self.skipped += 1
        self.window.skipped += 1
        self.skipped_in_row += has_failed

    def take_score(self, score: float, config: schema.TrainingConfig) -> bool:
        """Counts a validation and returns whether it is the best so far.

        Args:
            score: higher is better.
            config: for the patience of the plateau schedule.
        """
        self.validated_update = self.update
        if math.isnan(score):
            # Nothing is higher than NaN, so it would stay the best.
            score = -math.inf
        if self.best_score is None or score > self.best_score:
            self.best_score, self.best_update = score, self.update
            self.bad_validations = self.bad_for_plateau = 0
            return True
        self.bad_validations += 1
        self.bad_for_plateau += 1
        if config.schedule == "plateau" and self.bad_for_plateau >= config.plateau_patience:
            self.num_plateaus += 1
            self.bad_for_plateau = 0
        return False

    def forget_best(self) -> None:
        """Makes the next validation the best one, since the weights of the best so far are lost."""
        self.best_score, self.best_update, self.validated_update = None, -1, -1


def reached_limit(progress: Progress, config: schema.TrainingConfig) -> str | None:
    """Returns which limit the run has reached, in words, or None; whichever comes first counts."""
    if config.max_updates is not None and progress.update >= config.max_updates:
        return f"max_updates ({config.max_updates})"
    if config.max_epochs is not None and progress.position.epoch >= config.max_epochs:
        return f"max_epochs ({config.max_epochs})"
    if config.max_minutes is not None and progress.seconds >= 60.0 * config.max_minutes:
        return f"max_minutes ({config.max_minutes:g})"
    if config.patience is not None and progress.bad_validations >= config.patience:
        return f"patience ({config.patience} validations without a new best)"
    if config.schedule == "plateau" and config.min_learning_rate > 0:
        if config.learning_rate * config.plateau_factor**progress.num_plateaus < (
            config.min_learning_rate
        ):
            return f"min_learning_rate ({config.min_learning_rate:g})"
    return None


def share_done(progress: Progress, config: schema.TrainingConfig, epoch_batches: int) -> float:
    """Returns how much of the run is done, by the limit that is nearest, in [0, 1].

    Args:
        progress: the run.
        config: its limits.
        epoch_batches: batches of an epoch.
    """
    shares = [0.0]
    if config.max_updates is not None:
        shares.append(progress.update / config.max_updates)
    if config.max_epochs is not None:
        done = progress.position.epoch + progress.position.batch / max(epoch_batches, 1)
        shares.append(done / config.max_epochs)
    if config.max_minutes is not None:
        shares.append(progress.seconds / (60.0 * config.max_minutes))
    return min(max(shares), 1.0)


def as_shown(score: float | None, config: schema.TrainingConfig) -> float:
    """Returns a score as users know it: a loss is positive again."""
    if score is None:
        return math.nan
    return -score if config.best_metric == "loss" else score
