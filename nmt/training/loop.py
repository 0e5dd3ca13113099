"""The training loop: updates, and between them metrics, validations and resume states.

What validates, saves, publishes and writes is handed in, so that the loop can be read, and tested,
without files or a search.
"""

import logging
import math
import time
from typing import Any

from nmt import errors
from nmt.config import schema
from nmt.data import batches
from nmt.runtime import device as devices
from nmt.runtime import seeds
from nmt.training import hooks as run_hooks
from nmt.training import progress, reporting, schedules, update
from nmt.training import tensors as state_tensors

logger = logging.getLogger(__name__)

Tensors = state_tensors.Tensors

# A run that cannot be mended by an eighth of its rate will not be by less.
MAX_ROLLBACKS = 3
ROLLBACK_FACTOR = 0.5


class Trainer:
    """A run: model, optimiser, data position and the choices so far."""

    def __init__(
        self,
        updater: update.Updater,
        loader: batches.Loader,
        config: schema.TrainingConfig,
        arithmetic: devices.Arithmetic,
        hooks: run_hooks.Hooks,
        reporter: reporting.Reporter,
        *,
        seed: int = 1,
    ) -> None:
        """Takes the parts of a run that starts anew; `restore` makes it one that goes on.

        Args:
            updater: model and optimiser.
            loader: batches from any position.
            config: intervals and limits.
            arithmetic: device and precision.
            hooks: what is done at the edges.
            reporter: what is shown.
            seed: of the configuration.
        """
        self._updater = updater
        self._model = updater.model
        self._group = updater.group
        self._loader = loader
        self._config = config
        self._arithmetic = arithmetic
        self._hooks = hooks
        self._reporter = reporter
        self._seed = seed
        self.progress = progress.Progress()
        # Updates that the device may still be at work on: number, result, tokens, positions.
        self._under_way: list[tuple[int, update.UpdateResult, int, int]] = []
        self._last_norm = 0.0

    def restore(self, values: dict[str, Any], tensors: dict[str, Tensors]) -> None:
        """Sets the run to a saved state.

        Args:
            values: what `Progress.to_json` returned.
            tensors: what `tensors` returned.
        """
        self.progress = progress.Progress.from_json(values)
        state_tensors.restore(self._updater, tensors, self.progress.update)
        self._updater.device_tokens = self.progress.device_tokens

    def tensors(self) -> dict[str, Tensors]:
        """Returns all tensors that a resumed run needs, on rank 0; all ranks call it."""
        return state_tensors.collect(self._updater)

    def weights(self) -> Tensors:
        """Returns the weights that are validated and published, tied ones once; like `tensors`."""
        return state_tensors.to_validate(self._updater)

    def run(self) -> bool:
        """Trains until a limit is reached, or the user wants to stop.

        Returns:
            Whether the run has come to its end.
        """
        if self.progress.update == 0:
            self._note_device_tokens()
            self._save()
        self._stream = self._loader.batches(self.progress.position)
        if self._owes_validation():
            self._judge_and_keep()
        while (limit := progress.reached_limit(self.progress, self._config)) is None:
            # A finished run whose limit was raised is under way again.
            self.progress.finished = False
            self._one_update()
            if self._is_stopped():
                self._save()
                return False
        logger.info("reached %s after %d updates", limit, self.progress.update)
        self._finish()
        return True

    def _owes_validation(self) -> bool:
        """Returns whether the validation of the last update failed, after which the run was saved."""
        state = self.progress
        is_due = state.update > 0 and state.update % self._config.validation_interval == 0
        return is_due and state.validated_update != state.update

    def _is_stopped(self) -> bool:
        """Returns whether the user wants any rank to stop; from here on rank 0's clock is theirs."""
        goes_on = 0.0 if self._hooks.stop_requested() else 1.0
        seconds = self.progress.seconds if self._group.is_main else math.inf
        goes_on, self.progress.seconds = self._group.meet([goes_on, seconds])
        return not goes_on

    def _one_update(self) -> None:
        config, state = self._config, self.progress
        began = time.perf_counter()
        batch = self._next_batch()
        number = state.update + 1
        rate = state.rate_factor * schedules.learning_rate(
            config,
            number,
            width=self._model.decoder.embedding_size,
            num_plateaus=state.num_plateaus,
        )
        seed = seeds.of_update(
            self._seed, number, rank=self._group.rank, attempt=state.num_rollbacks
        )
        result = self._updated(batch, rate, seed)
        self._under_way.append((number, result, batch.num_tokens, batch.num_padded))
        state.update = number
        state.position = batch.behind
        self._reporter.advance()
        self._note_device_tokens()
        is_logged = number % config.logging_interval == 0
        is_validated = number % config.validation_interval == 0
        is_saved = number % config.checkpoint_interval == 0
        # On the CPU nothing is under way any more, so looking costs nothing.
        if is_logged or is_validated or is_saved or self._arithmetic.device.type == "cpu":
            self._settle()
        self._count_time(began)
        if state.skipped_in_row >= config.max_skipped_updates:
            self._go_back()
            return
        if is_logged:
            self._log(rate)
        self._judge_and_keep()

    def _judge_and_keep(self) -> None:
        """Validates, saves and publishes what is due after an update."""
        state = self.progress
        is_validated = state.update % self._config.validation_interval == 0
        is_best = self._validate() if is_validated else False
        is_due = state.update % self._config.checkpoint_interval == 0
        # Amid skipped updates nothing is new, and the state before them must not be pushed out by others.
        if is_best or (is_due and not state.skipped_in_row):
            self._save()
        if is_best and self.beats_average():
            self._group.on_main(self.publish_best)

    def _updated(self, batch: batches.Batch, rate: float, seed: int) -> update.UpdateResult:
        """Updates the weights; if that cannot be, nothing that was trained is lost."""
        try:
            return self._updater.update(batch.pieces, batch.num_tokens, rate, seed=seed)
        except errors.TrainingError:
            # The weights are as they were, but amid a step. With sharded ones the other ranks are amid
            # a pass.
            if not (self._updater.layout.is_sharded or self._updater.is_amid_step):
                self._save()
            raise

    def _next_batch(self) -> batches.Batch:
        """Returns the next batch; if there is none, nothing that was trained is lost.

        Rank 0 comes first: it alone knows when the corpus, which may still be tokenised, has failed,
        and what it has found the others need not wait for.
        """
        try:
            return self._group.in_turn(lambda: next(self._stream))
        except errors.NMTError:
            self._save()
            raise

    def _count_time(self, began: float) -> None:
        seconds = time.perf_counter() - began
        self.progress.seconds += seconds
        self.progress.window.seconds += seconds

    def _settle(self) -> None:
        """Counts the updates under way; the one place of an update that waits for the device."""
        state = self.progress
        window = state.window
        for number, result, num_tokens, num_padded in self._under_way:
            self._last_norm = float(result.grad_norm)
            if bool(result.is_taken):
                state.skipped_in_row = 0
                window.updates += 1
                window.loss += float(result.loss)
                window.nll += float(result.nll)
                window.tokens += num_tokens
                window.padded += num_padded
                continue
            has_failed = bool(result.has_failed)
            state.count_skipped(has_failed=has_failed)
            if has_failed:
                logger.warning(
                    "update %d: skipped, since loss or gradient is not finite (loss %g, gradient "
                    "norm %g; %d in a row). The weights are as they were.",
                    number,
                    float(result.loss),
                    self._last_norm,
                    state.skipped_in_row,
                )
        self._under_way.clear()

    def _go_back(self) -> None:
        """Takes the run up again where all was well, at a lower rate.

        Raises:
            errors.TrainingError: that was done often enough.
        """
        state = self.progress
        if state.num_rollbacks >= MAX_ROLLBACKS:
            failure = errors.TrainingError(
                f"update {state.update}: loss or gradient is not finite for "
                f"{state.skipped_in_row} updates in a row, also after going back to a checkpoint "
                f"{state.num_rollbacks} times (learning rate now {state.rate_factor:g} of the "
                "configured one). The best model so far, and the checkpoints, are as they were. "
                "Start a run with a lower training.learning_rate or clip_norm, a longer warm-up, or "
                "precision fp32; training.init_from can take over the weights."
            )
            # All ranks know it; brought to a meeting it is said once.
            self._group.meet(failure=failure)
        values, tensors = self._group.in_turn(self._hooks.last_good)
        self.restore(values, tensors)
        back = self.progress
        # What the device has room for has not changed.
        back.device_tokens = self._updater.device_tokens = state.device_tokens
        back.rate_factor = state.rate_factor * ROLLBACK_FACTOR
        back.num_rollbacks, back.skipped = state.num_rollbacks + 1, state.skipped
        back.seconds, back.skipped_in_row = state.seconds, 0
        logger.warning(
            "update %d: %d updates in a row were skipped; back to the checkpoint of update %d, "
            "learning rate now %g of the configured one",
            state.update,
            state.skipped_in_row,
            back.update,
            back.rate_factor,
        )
        line = {"event": "rollback", "update": state.update, "to_update": back.update}
        self._write({**line, "rate_factor": back.rate_factor, "seconds": back.seconds})
        # Saved at once: a kill must not find the old rate again.
        self._save()
        self._stream = self._loader.batches(back.position)

    def _note_device_tokens(self) -> None:
        """Keeps a newly found limit of the device, so that later batches are cut at once."""
        state, found = self.progress, self._updater.device_tokens
        if found == state.device_tokens:
            return
        why = "out of memory" if state.update else "tried out"
        logger.warning("update %d: %s; pieces have %d tokens at most", state.update, why, found)
        line = {"event": "memory", "update": state.update, "device_tokens": found}
        self._write({**line, "seconds": state.seconds})
        state.device_tokens = found

    def _write(self, line: dict[str, Any]) -> None:
        """Appends a line to the metrics, by rank 0."""
        self._group.on_main(lambda: self._hooks.write_metrics(reporting.writable(line)))

    def _log(self, rate: float) -> None:
        state, window = self.progress, self.progress.window
        peak = devices.peak_memory(self._arithmetic.device)
        numbers = {
            "update": state.update,
            "epoch": state.position.epoch,
            "loss": window.loss / window.tokens if window.tokens else math.nan,
            "perplexity": window.perplexity,
            "learning_rate": rate,
            "grad_norm": self._last_norm,
            "tokens_per_second": window.tokens / max(window.seconds, 1e-9),
            "padding": 1.0 - window.tokens / window.padded if window.padded else 0.0,
            "skipped": window.skipped,
            "memory_mib": math.nan if peak is None else round(peak / 2**20),
            "seconds": state.seconds,
        }
        self._write({"event": "train", **numbers})
        share = progress.share_done(state, self._config, self._loader.epoch_batches)
        left = state.seconds * (1.0 - share) / share if share else None
        self._reporter.show(state.update, numbers, left)
        state.window = progress.Window()

    def _validate(self) -> bool:
        """Judges the model; returns whether it is the best so far."""
        state = self.progress
        began = time.perf_counter()
        weights = self.weights()
        try:
            scores = self._group.on_main(lambda: self._judge(weights))
        except errors.NMTError:
            # Nothing that was trained is lost, and the next start validates first.
            self._save()
            raise
        is_best = state.take_score(scores["score"], self._config)
        if self._config.average_checkpoints > 1:
            self._group.on_main(lambda: self._hooks.snapshot(state.update, weights))
        state.seconds += time.perf_counter() - began
        line = {"event": "validation", "update": state.update, **scores, "is_best": is_best}
        self._write({**line, "seconds": state.seconds})
        return is_best

    def _judge(self, weights: Tensors) -> dict[str, float]:
        """Returns the scores of the model with these weights; `score` is what is chosen by."""
        with state_tensors.shown(self._updater, weights) as model:
            scores = dict(self._hooks.validate(model).scores)
        metric = self._config.best_metric
        scores["score"] = -scores["loss"] if metric == "loss" else scores[metric]
        return scores

    def _save(self) -> None:
        self._settle()
        tensors = self.tensors()
        self._group.on_main(lambda: self._hooks.save(self.progress, tensors))

    def publish_best(self) -> None:
        """Makes the best weights so far the model of the folder; rank 0 alone does it."""
        state = self.progress
        weights = self._hooks.best_weights(state.best_update)
        if weights is not None:
            shown = progress.as_shown(state.best_score, self._config)
            self._hooks.publish(state.best_update, weights, {str(self._config.best_metric): shown})

    def _finish(self) -> None:
        """Validates, averages, publishes the better of best and average, and marks the end."""
        state = self.progress
        if state.validated_update != state.update:
            self._validate()
        # Saved before anything is chosen: a kill from here on repeats this method alone.
        self._save()
        self._group.on_main(self._publish_better)
        state.finished = True
        self._save()

    def beats_average(self) -> bool:
        """Returns whether the best weights are better than averaged ones that an earlier end published."""
        best, average = self.progress.best_score, self.progress.average_score
        return average is None or (best is not None and best > average)

    def _publish_better(self) -> None:
        if self.beats_average():
            self.publish_best()
        average = self._hooks.average() if self._config.average_checkpoints > 1 else None
        if average is not None:
            self._try_average(average)

    def _try_average(self, average: Tensors) -> None:
        """Publishes the averaged weights if they are as good on the validation set as the best."""
        state = self.progress
        scores = self._judge(average)
        rivals = [one for one in (state.best_score, state.average_score) if one is not None]
        wins = all(scores["score"] >= rival for rival in rivals)
        logger.info(
            "average of the last validations: %s %.2f, best single one %.2f: %s",
            self._config.best_metric,
            progress.as_shown(scores["score"], self._config),
            progress.as_shown(state.best_score, self._config),
            "taken" if wins else "not taken",
        )
        line = {"event": "average", "update": state.update, **scores, "is_taken": wins}
        self._hooks.write_metrics(reporting.writable({**line, "seconds": state.seconds}))
        if wins:
            state.average_score = scores["score"]
            shown = progress.as_shown(scores["score"], self._config)
            self._hooks.publish(state.update, average, {str(self._config.best_metric): shown})
