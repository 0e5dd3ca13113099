"""One invocation of `nmt train`: the run folder on one side, the training loop on the other."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import averaging, folder, logs, resume
from nmt.config import loading, schema
from nmt.inference import held_out, texts, validation
from nmt.models import abilities, seq2seq
from nmt.runtime import device as devices
from nmt.runtime import distributed, files
from nmt.text import tokenizer
from nmt.training import (
    fitting,
    hooks,
    initial,
    layouts,
    loop,
    optimizers,
    preparation,
    progress,
    reporting,
    tensors,
    update,
    watching,
)

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Files:
    """The folder of a run and its logs, open.

    Attributes:
        run_dir: the folder.
        run_log: what this process has to say.
        metrics: of rank 0, which alone writes them; None elsewhere.
    """

    run_dir: Path
    run_log: logs.AppendLog
    metrics: logs.AppendLog | None


class Job:
    """One invocation of `nmt train` on one run folder."""

    def __init__(
        self,
        config: schema.Config,
        arithmetic: devices.Arithmetic,
        run_files: Files,
        stop_requested: Callable[[], bool],
        group: distributed.Group,
    ) -> None:
        """Takes what a run needs besides its data.

        Args:
            config: the whole configuration, completed.
            arithmetic: device and precision.
            run_files: the folder and its logs.
            stop_requested: whether the user wants the run to stop.
            group: the processes that train together.
        """
        self._group = group
        self._config = config
        self._config_text = loading.dump(config)
        self._arithmetic = arithmetic
        self._run_dir = run_files.run_dir
        self._run_log = run_files.run_log
        self._metrics = run_files.metrics
        self._stop_requested = stop_requested
        self._fingerprint = self._held_out = ""
        self._watchers = watching.Watchers((), self._run_dir, {}, 0)

    def train(self, stored: resume.ResumeState | None, *, quiet: bool) -> bool:
        """Goes on from a stored state, or from nothing; returns whether the run is finished."""
        group, tokenizer_dir = self._group, self._run_dir / "tokenizer"
        group.on_main(lambda: self._make_ready(stored, tokenizer_dir))
        group.on_main(lambda: self._watch(stored))
        with self._watchers:
            return self._train(stored, tokenizer_dir, quiet=quiet)

    def _train(
        self, stored: resume.ResumeState | None, tokenizer_dir: Path, *, quiet: bool
    ) -> bool:
        group = self._group
        known = stored.values.get("held_out") if stored is not None else None
        self._held_out = group.on_main(lambda: preparation.check_held_out(self._config, known))
        parts = group.together(
            lambda: preparation.prepare(
                self._config,
                tokenizer_dir,
                self._arithmetic,
                fingerprint=stored.values["fingerprint"] if stored is not None else None,
                group=group,
            )
        )
        self._fingerprint = parts.fingerprint
        if stored is None:
            group.together(lambda: initial.load_weights(self._config, parts.model))
        self._check_equal(parts, stored)
        total, done = self._config.training.max_updates, stored.update if stored else 0
        reporter = reporting.Reporter(sys.stderr, total, done, quiet=quiet or not group.is_main)
        with contextlib.closing(reporter), contextlib.closing(parts):
            trainer = group.together(lambda: self._trainer(parts, stored, reporter))
            if group.on_main(lambda: self._mend_model(trainer)):
                trainer.progress.forget_best()
            logger.info(
                "training on %s in %s, %d threads%s",
                self._arithmetic.device,
                self._arithmetic.name,
                torch.get_num_threads(),
                f", process {group.rank} of {group.size}" if group.size > 1 else "",
            )
            return trainer.run()

    def _make_ready(self, stored: resume.ResumeState | None, tokenizer_dir: Path) -> None:
        """Brings the folder to where the run begins or goes on, tokenizers included."""
        metrics = self._metrics
        assert metrics is not None, "rank 0 writes the metrics"
        if stored is None:
            # Without a resume state, whatever an earlier start left is not of this run for sure.
            self._run_log.cut_back(0)
            metrics.cut_back(0)
            folder.retract(self._run_dir)
            averaging.prune(self._run_dir, 0, keep=self._config.training.average_checkpoints)
            files.remove_tree(tokenizer_dir)
            self._make_tokenizers(tokenizer_dir)
        else:
            self._run_log.cut_back(stored.values["log_bytes"])
            metrics.cut_back(stored.values["metrics_bytes"])
            folder.verify_tokenizer(self._run_dir)
        folder.record_last_run(self._run_dir)

    def _watch(self, stored: resume.ResumeState | None) -> None:
        """Opens the tools that show the run while it goes on."""
        settings = self._config.model_dump(mode="json")
        update = stored.update if stored is not None else 0
        names = self._config.training.loggers
        self._watchers = watching.Watchers(names, self._run_dir, settings, update)

    def _check_equal(self, parts: preparation.Parts, stored: resume.ResumeState | None) -> None:
        """Finds out whether all ranks begin with the same, to the bit, before anything is sharded."""
        if self._group.size == 1:
            return
        kinds, values = {"weights": tensors.weights(parts.model)}, {}
        if stored is not None:
            kinds, values = stored.tensors, stored.values["progress"]
        progress_text = json.dumps(values, sort_keys=True)
        checksum = hashlib.sha256(f"{self._config_text}{self._fingerprint}{progress_text}".encode())
        for _, kind in sorted(kinds.items()):
            for name, tensor in sorted(kind.items()):
                checksum.update(name.encode())
                # Flat first: a number without dimensions has no bytes to be viewed as.
                checksum.update(tensor.cpu().flatten().view(torch.uint8).numpy().data)
        distributed.check_equal(self._group, checksum.hexdigest(), "weights or settings")

    def _make_tokenizers(self, tokenizer_dir: Path) -> None:
        init_from = self._config.training.init_from
        if init_from is None:
            preparation.make_tokenizers(self._config, tokenizer_dir)
        else:
            tokenizer.copy(Path(init_from) / folder.TOKENIZER, tokenizer_dir)

    def _trainer(
        self,
        parts: preparation.Parts,
        stored: resume.ResumeState | None,
        reporter: reporting.Reporter,
    ) -> loop.Trainer:
        training = self._config.training
        if training.guided_alignment_weight and not parts.model.attends:
            raise errors.ConfigError(
                "training.guided_alignment_weight: this decoder has no attention to guide. Set it to 0, "
                "or take a decoder that attends."
            )
        abilities.check(parts.model, self._config.decoding)
        layout = self._layout(parts.model)
        updater = update.Updater(
            parts.model,
            optimizers.build(training, parts.model, self._group),
            self._arithmetic,
            smoothing=training.label_smoothing,
            divergence=training.rdrop_weight,
            guidance=training.guided_alignment_weight,
            clip_norm=training.clip_norm,
            ema_decay=training.ema_decay,
            group=self._group,
        )
        updater.layout = layout
        updater.memory_limit = training.memory_limit
        if stored is None and training.max_device_tokens == "auto":
            longest = preparation.longest_pair(self._config, parts.model)
            found = self._group.together(
                lambda: fitting.find_device_tokens(updater, longest, training.batch_tokens)
            )
            (least,) = self._group.meet([math.inf if found is None else found])
            updater.device_tokens = None if math.isinf(least) else int(least)
        trainer = loop.Trainer(
            updater,
            parts.loader,
            training,
            self._arithmetic,
            self._hooks(parts),
            reporter,
            seed=self._config.seed,
        )
        if stored is not None:
            trainer.restore(stored.values["progress"], stored.tensors)
            # Whoever holds the state does not hold its tensors, which may be far more than a part.
            stored.tensors.clear()
            self._forget_after(stored.update)
            logger.info("resumed from update %d", stored.update)
        return trainer

    def _layout(self, model: seq2seq.Seq2Seq) -> layouts.Layout:
        """Returns where the tensors of the run are, after putting the parameters there."""
        if self._config.training.sharding == "none":
            return layouts.Whole()
        if self._group.size == 1:
            logger.info(
                "training.sharding: full has nothing to shard over in one process; this is as with none"
            )
            return layouts.Whole()
        from nmt.training import sharding  # much of torch, which takes a second

        num_whole = model.num_parameters()
        layout = sharding.Sharded(model, self._group, self._arithmetic.device)
        logger.info(
            "training.sharding: full: this process keeps %.1f %% of the parameters, gradients and moments",
            100.0 * layout.num_kept() / num_whole,
        )
        return layout

    def _hooks(self, parts: preparation.Parts) -> hooks.Hooks:
        config = self._config
        decoding = validation.decoding_of(config)
        both = texts.Texts(
            parts.src_tokenizer,
            parts.tgt_tokenizer,
            config.data.languages,
            damage=preparation.make_noise(config, parts.src_tokenizer),
        )
        validators = {
            one.name: validation.Validator(
                one.sources,
                one.references,
                one.texts_of(both),
                decoding,
                self._arithmetic,
                name=one.name,
            )
            for one in held_out.read(config.data, config.data.valid_corpora)
        }
        validator: validation.Validator | validation.Joint = next(iter(validators.values()))
        if len(validators) > 1:
            validator = validation.Joint(validators)
        return hooks.Hooks(
            validate=validator.validate,
            save=self._save,
            snapshot=self._snapshot,
            publish=self._publish,
            average=self._average,
            best_weights=self._best_weights,
            last_good=self._last_good,
            write_metrics=self._write_metrics,
            stop_requested=self._stop_requested,
        )

    def _write_metrics(self, line: dict[str, Any]) -> None:
        assert self._metrics is not None, "rank 0 writes the metrics"
        self._metrics.write(json.dumps(line) + "\n")
        self._watchers.show(line)

    def _best_weights(self, number: int) -> hooks.Tensors | None:
        """Returns the weights of a checkpoint; None where it is lost, and the model of the folder is it.

        Raises:
            errors.TrainingError: it is lost, and the model is another one.
        """
        try:
            return tensors.to_publish(resume.load(self._run_dir, number).tensors)
        except (errors.TrainingError, errors.ModelError, errors.FileError) as error:
            if self._published() != number:
                raise
            logger.warning("%s The model of that update is in the folder, and stays.", error)
            return None

    def _published(self) -> int | None:
        """Returns the update of the model in the folder, or None if it is damaged or not there."""
        try:
            return folder.verify(self._run_dir).update
        except errors.ModelError:
            return None

    def _mend_model(self, trainer: loop.Trainer) -> bool:
        """Publishes the best model again where a kill, a full disk or damage has left another, or none.

        Returns:
            Whether it is lost.
        """
        number = trainer.progress.best_update
        if number < 0 or not trainer.beats_average() or self._published() == number:
            return False
        try:
            trainer.publish_best()
        except (errors.TrainingError, errors.ModelError) as error:
            logger.warning("%s The next validation counts as the best one.", error)
            return True
        return False

    def _last_good(self) -> tuple[dict[str, Any], dict[str, hooks.Tensors]]:
        """Returns the newest state before the updates that were skipped, or the best one amid them."""

        def is_good(values: dict[str, Any]) -> bool:
            state = values["progress"]
            # Weights that validate as the best ones are whole, whatever was skipped behind them.
            return not state.get("skipped_in_row") or state["best_update"] == state["update"]

        found = resume.latest(self._run_dir, accept=is_good)
        # A run that was stopped amid skipped updates may have saved no other one.
        found = found or resume.latest(self._run_dir)
        assert found is not None, "a run saves a state before its first update"
        self._forget_after(found.update)
        return found.values["progress"], found.tensors

    def _forget_after(self, number: int) -> None:
        if not self._group.is_main:
            return
        averaging.prune(
            self._run_dir,
            number,
            keep=self._config.training.average_checkpoints,
            needed_by=resume.updates(self._run_dir),
        )

    def _save(self, state: progress.Progress, kinds: dict[str, hooks.Tensors]) -> None:
        assert self._metrics is not None, "rank 0 saves"
        self._watchers.flush()
        values = {
            "progress": state.to_json(),
            "config": self._config_text,
            "fingerprint": self._fingerprint,
            "held_out": self._held_out,
            "log_bytes": self._run_log.offset(),
            "metrics_bytes": self._metrics.offset(),
        }
        resume.save(
            self._run_dir,
            resume.ResumeState(state.update, values, kinds),
            keep=self._config.training.keep_checkpoints,
            best_of=lambda values: values["progress"]["best_update"],
        )

    def _snapshot(self, number: int, weights: hooks.Tensors) -> None:
        averaging.save_snapshot(
            self._run_dir,
            number,
            weights,
            keep=self._config.training.average_checkpoints,
            needed_by=resume.updates(self._run_dir),
        )

    def _average(self) -> hooks.Tensors | None:
        newest = averaging.snapshot_updates(self._run_dir)
        newest = newest[-self._config.training.average_checkpoints :]
        newest = averaging.whole(self._run_dir, newest)
        return averaging.average(self._run_dir, newest) if len(newest) > 1 else None

    def _publish(self, number: int, weights: hooks.Tensors, scores: dict[str, float]) -> None:
        folder.publish(
            self._run_dir,
            config_text=self._config_text,
            tensors=weights,
            scores=scores,
            update=number,
        )
