"""The training loop: updates, and between them metrics, validations and resume states.

What validates, saves, publishes and writes is handed in, so that the loop can be read, and tested,
without files or a search.
"""

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch

from nmt import errors
from nmt.config import schema
from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import optimizers, progress, reporting, schedules, update

logger = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


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
        best_weights: returns the weights of the best update.
        write_metrics: appends a line to the metrics.
        stop_requested: whether the user wants the run to stop.
    """

    validate: Callable[[seq2seq.Seq2Seq], Validation]
    save: Callable[[progress.Progress, dict[str, Tensors]], None]
    snapshot: Callable[[int, Tensors], None]
    publish: Callable[[int, Tensors, dict[str, float]], None]
    average: Callable[[], Tensors | None]
    best_weights: Callable[[int], Tensors]
    write_metrics: Callable[[dict[str, Any]], None]
    stop_requested: Callable[[], bool]


class Trainer:
    """A run: model, optimiser, data position and the choices so far."""

    def __init__(
        self,
        updater: update.Updater,
        loader: batches.Loader,
        config: schema.TrainingConfig,
        arithmetic: devices.Arithmetic,
        hooks: Hooks,
        reporter: reporting.Reporter,
    ) -> None:
        """Takes the parts of a run that starts anew; `restore` makes it one that goes on.

        Args:
            updater: model and optimiser.
            loader: batches from any position.
            config: intervals and limits.
            arithmetic: device and precision.
            hooks: what is done at the edges.
            reporter: what is shown.
        """
        self._updater = updater
        self._model = updater.model
        self._loader = loader
        self._config = config
        self._arithmetic = arithmetic
        self._hooks = hooks
        self._reporter = reporter
        self.progress = progress.Progress()
        self._sums: list[update.UpdateResult] = []
        self._last_norm = 0.0

    def restore(self, values: dict[str, Any], tensors: dict[str, Tensors]) -> None:
        """Sets the run to a saved state.

        Args:
            values: what `Progress.to_json` returned.
            tensors: what `tensors` returned.
        """
        self.progress = progress.Progress.from_json(values)
        self.load_weights(tensors["weights"])
        optimizers.restore(self._updater.optimizer, tensors["optimizer"])
        devices.restore_random_states(self._arithmetic.device, tensors["random"])
        if self._arithmetic.needs_scaler and "scaler" in tensors:
            # The scale and its factors are fractions, the counts of updates are whole.
            whole = {"growth_interval", "_growth_tracker"}
            self._updater.scaler.load_state_dict(
                {
                    name: int(tensor.item()) if name in whole else tensor.item()
                    for name, tensor in tensors["scaler"].items()
                }
            )

    def tensors(self) -> dict[str, Tensors]:
        """Returns all tensors that a resumed run needs."""
        tensors = {
            "weights": self.weights(),
            "optimizer": optimizers.state_tensors(self._updater.optimizer),
            "random": devices.random_states(self._arithmetic.device),
        }
        if self._arithmetic.needs_scaler:
            scaler = self._updater.scaler.state_dict()
            tensors["scaler"] = {
                name: torch.tensor(value, dtype=torch.float64) for name, value in scaler.items()
            }
        return tensors

    def weights(self) -> Tensors:
        """Returns the model's weights, tied ones once."""
        return {name: tensor.detach() for name, tensor in self._model.named_parameters()}

    @torch.no_grad()
    def load_weights(self, weights: Tensors) -> None:
        """Sets the model's weights."""
        for name, parameter in self._model.named_parameters():
            parameter.copy_(weights[name])

    def run(self) -> bool:
        """Trains until a limit is reached, or the user wants to stop.

        Returns:
            Whether the run has come to its end.
        """
        if self.progress.update == 0:
            self._save()
        stream = self._loader.batches(self.progress.position)
        while (limit := progress.reached_limit(self.progress, self._config)) is None:
            # A finished run whose limit was raised is under way again.
            self.progress.finished = False
            self._one_update(stream)
            if self._hooks.stop_requested():
                self._save()
                return False
        logger.info("reached %s after %d updates", limit, self.progress.update)
        self._finish()
        return True

    def _one_update(self, stream: Iterator[batches.Batch]) -> None:
        config, state = self._config, self.progress
        began = time.perf_counter()
        batch = self._next_batch(stream)
        rate = schedules.learning_rate(
            config,
            state.update + 1,
            width=self._model.decoder.embedding_size,
            num_plateaus=state.num_plateaus,
        )
        self._sums.append(self._updater.update(batch.pieces, batch.num_tokens, rate))
        state.update += 1
        state.position = batch.behind
        state.window.tokens += batch.num_tokens
        state.window.padded += batch.num_padded
        state.window.updates += 1
        self._reporter.advance()
        if state.update % config.logging_interval == 0:
            self._fold_sums()
            self._count_time(began)
            self._log(rate)
        else:
            self._count_time(began)
        is_best = False
        if state.update % config.validation_interval == 0:
            is_best = self._validate()
        if is_best or state.update % config.checkpoint_interval == 0:
            self._save()
        if is_best:
            self._publish_best()

    def _next_batch(self, stream: Iterator[batches.Batch]) -> batches.Batch:
        """Returns the next batch; if there is none, nothing that was trained is lost."""
        try:
            return next(stream)
        except errors.NMTError:
            self._save()
            raise

    def _count_time(self, began: float) -> None:
        seconds = time.perf_counter() - began
        self.progress.seconds += seconds
        self.progress.window.seconds += seconds

    def _fold_sums(self) -> None:
        """Adds the device's sums to the window; the one place of an update that waits for it."""
        window = self.progress.window
        for result in self._sums:
            window.loss += float(result.loss)
            window.nll += float(result.nll)
        if self._sums:
            self._last_norm = float(self._sums[-1].grad_norm)
        self._sums.clear()

    def _log(self, rate: float) -> None:
        state, window = self.progress, self.progress.window
        numbers = {
            "update": state.update,
            "epoch": state.position.epoch,
            "loss": window.loss / window.tokens,
            "perplexity": math.exp(min(window.nll / window.tokens, 100.0)),
            "learning_rate": rate,
            "grad_norm": self._last_norm,
            "tokens_per_second": window.tokens / max(window.seconds, 1e-9),
            "padding": 1.0 - window.tokens / window.padded,
            "seconds": state.seconds,
        }
        self._hooks.write_metrics({"event": "train", **numbers})
        share = progress.share_done(state, self._config, self._loader.epoch_batches)
        left = state.seconds * (1.0 - share) / share if share else None
        self._reporter.show(state.update, numbers, left)
        state.window = progress.Window()

    def _validate(self) -> bool:
        """Judges the model; returns whether it is the best so far."""
        state = self.progress
        began = time.perf_counter()
        scores = self._judge()
        is_best = state.take_score(scores["score"], self._config)
        if self._config.average_checkpoints > 1:
            self._hooks.snapshot(state.update, self.weights())
        state.seconds += time.perf_counter() - began
        line = {"event": "validation", "update": state.update, **scores, "is_best": is_best}
        self._hooks.write_metrics({**line, "seconds": state.seconds})
        return is_best

    def _judge(self) -> dict[str, float]:
        """Returns the scores of the model as it is; `score` is what is chosen by."""
        self._model.eval()
        scores = dict(self._hooks.validate(self._model).scores)
        self._model.train()
        metric = self._config.best_metric
        scores["score"] = -scores["loss"] if metric == "loss" else scores[metric]
        return scores

    def _save(self) -> None:
        self._fold_sums()
        self._hooks.save(self.progress, self.tensors())

    def _publish_best(self) -> None:
        state = self.progress
        weights = self._hooks.best_weights(state.best_update)
        score = {str(self._config.best_metric): _as_shown(state.best_score, self._config)}
        self._hooks.publish(state.best_update, weights, score)

    def _finish(self) -> None:
        """Validates, averages, publishes the better of best and average, and marks the end."""
        state = self.progress
        if state.validated_update != state.update:
            self._validate()
        # Saved before anything is chosen: a kill from here on repeats this method alone.
        self._save()
        self._publish_best()
        average = self._hooks.average() if self._config.average_checkpoints > 1 else None
        if average is not None:
            self._try_average(average)
        state.finished = True
        self._save()

    def _try_average(self, average: Tensors) -> None:
        """Publishes the averaged weights if they are as good on the validation set as the best."""
        state = self.progress
        last = {name: tensor.clone() for name, tensor in self.weights().items()}
        self.load_weights(average)
        scores = self._judge()
        self.load_weights(last)
        wins = state.best_score is None or scores["score"] >= state.best_score
        logger.info(
            "average of the last validations: %s %.2f, best single one %.2f: %s",
            self._config.best_metric,
            _as_shown(scores["score"], self._config),
            _as_shown(state.best_score, self._config),
            "taken" if wins else "not taken",
        )
        line = {"event": "average", "update": state.update, **scores, "is_taken": wins}
        self._hooks.write_metrics({**line, "seconds": state.seconds})
        if wins:
            shown = _as_shown(scores["score"], self._config)
            self._hooks.publish(state.update, average, {str(self._config.best_metric): shown})


def _as_shown(score: float | None, config: schema.TrainingConfig) -> float:
    """Returns a score as users know it: a loss is positive again."""
    if score is None:
        return math.nan
    return -score if config.best_metric == "loss" else score
