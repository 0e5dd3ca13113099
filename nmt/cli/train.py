"""`nmt train`: wires a run together, starts or resumes it, and keeps its folder."""

import argparse
import contextlib
import dataclasses
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from nmt import errors
from nmt.checkpoint import averaging, folder, logs, resume
from nmt.config import loading, schema
from nmt.data import readers
from nmt.inference import translator, validation
from nmt.runtime import device as devices
from nmt.runtime import files, locks
from nmt.training import loop, optimizers, preparation, progress, reporting, update

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Trains the run that a configuration describes; the same command again resumes it.

    Args:
        args: `config`, `set`, `fresh`, `device`, `precision`, `threads`, `quiet`.

    Returns:
        0 at the end of the run, 130 or 143 after SIGINT or SIGTERM.
    """
    overrides = list(args.set or [])
    flags = {"device": args.device, "training.precision": args.precision, "threads": args.threads}
    overrides += [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = loading.load(args.config, overrides)
    run_dir = Path(config.run_dir)
    arithmetic = devices.training_arithmetic(
        config.training.precision, devices.resolve(config.device)
    )
    devices.set_up(arithmetic.device, config.threads)
    _check_corpora(config)
    if args.fresh:
        _move_aside(run_dir)
    files.make_dir(run_dir)
    with (
        locks.RunLock(run_dir),
        _logged(run_dir) as run_log,
        logs.AppendLog(run_dir / "metrics.jsonl") as metrics,
    ):
        stored = _stored_state(run_dir)
        if stored is not None:
            _compare(config, stored)
            if _is_over(config, stored):
                folder.record_last_run(run_dir)
                return 0
        with _Signals() as signals:
            job = _Job(config, arithmetic, _Files(run_dir, run_log, metrics), signals)
            finished = job.train(stored, quiet=args.quiet)
    if finished:
        return 0
    logger.info("stopped; the same command goes on from here")
    return 128 + signals.received


def _check_corpora(config: schema.Config) -> None:
    """Finds missing files of every corpus before any work starts."""
    corpora = [*config.data.train, config.data.valid]
    if config.data.test is not None:
        corpora.append(config.data.test)
    for entry in corpora:
        for path in readers.corpus_files(entry):
            files.check_readable(path)


def _move_aside(run_dir: Path) -> None:
    """Gives an existing run another name, so that nothing trained is ever lost."""
    if not run_dir.is_dir() or not any(run_dir.iterdir()):
        return
    if Path.cwd().is_relative_to(run_dir.resolve()):
        raise errors.UsageError(
            f"--fresh: would move the folder aside that you work in (run_dir: {run_dir}). "
            "Take a run_dir below it."
        )
    with locks.RunLock(run_dir):
        number = 1
        while (aside := run_dir.with_name(f"{run_dir.name}.old-{number}")).exists():
            number += 1
        run_dir.rename(aside)
    logger.info("--fresh: the run that was in %s is now in %s", run_dir, aside)


def _stored_state(run_dir: Path) -> resume.ResumeState | None:
    """Returns the newest good resume state.

    Raises:
        errors.TrainingError: there is a model, but nothing to resume from.
    """
    resume.clean(run_dir)
    stored = resume.latest(run_dir)
    if stored is not None:
        resume.clean(run_dir, after=stored.update)
    elif (run_dir / folder.WEIGHTS).exists():
        raise errors.TrainingError(
            f"{run_dir}: holds a model, but no checkpoint to resume from. "
            "Take another run_dir, or start anew with --fresh, which moves it aside."
        )
    return stored


def _compare(config: schema.Config, stored: resume.ResumeState) -> None:
    """Checks that the configuration may go on with a stored run.

    Raises:
        errors.ConfigError: a key has changed that shapes the run.
    """
    old = loading.parse(stored.values["config"], f"{config.run_dir} (the run so far)")
    changed = loading.frozen_keys(old, config)
    if changed:
        raise errors.ConfigError(
            f"{config.run_dir}: the run was started with another value of {', '.join(changed)}. "
            "These may not change under a run. Set them back to resume it, take another run_dir, "
            "or start anew with --fresh."
        )


def _is_over(config: schema.Config, stored: resume.ResumeState) -> bool:
    """Returns whether the run has finished and no limit was raised, and says so."""
    state = progress.Progress.from_json(stored.values["progress"])
    limit = progress.reached_limit(state, config.training)
    if not state.finished or limit is None:
        return False
    try:
        folder.verify(Path(config.run_dir))
    except errors.ModelError as error:
        logger.warning("%s It is made again from the checkpoints.", error)
        return False
    logger.info(
        "%s: this run is finished: %d updates, it reached %s. "
        "Raise the limit to go on, or start anew with --fresh.",
        config.run_dir,
        state.update,
        limit,
    )
    return True


class _Signals:
    """Turns the first SIGINT or SIGTERM into a request to save and stop; a second SIGINT aborts."""

    def __init__(self) -> None:
        self.received = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        logger.info("%s: saving, then stopping", signal.Signals(number).name)


class _RunLogHandler(logging.StreamHandler[logs.AppendLog]):
    """Writes messages into log.txt; a full disk ends the run like any other failed write."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Lets the error through, which logging would print with a traceback and forget."""
        raise


@contextlib.contextmanager
def _logged(run_dir: Path) -> Iterator[logs.AppendLog]:
    """Copies all messages into log.txt for as long as the run is at work."""
    run_log = logs.AppendLog(run_dir / "log.txt")
    handler = _RunLogHandler(run_log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.setLevel(logging.INFO)
    root = logging.getLogger("nmt")
    root.addHandler(handler)
    try:
        yield run_log
    finally:
        root.removeHandler(handler)
        run_log.close()


@dataclasses.dataclass(frozen=True)
class _Files:
    """The folder of a run and its logs, open."""

    run_dir: Path
    run_log: logs.AppendLog
    metrics: logs.AppendLog


class _Job:
    """One invocation of `nmt train` on one run folder."""

    def __init__(
        self,
        config: schema.Config,
        arithmetic: devices.Arithmetic,
        run_files: _Files,
        signals: _Signals,
    ) -> None:
        self._config = config
        self._config_text = loading.dump(config)
        self._arithmetic = arithmetic
        self._run_dir = run_files.run_dir
        self._run_log = run_files.run_log
        self._metrics = run_files.metrics
        self._signals = signals
        self._fingerprint = ""

    def train(self, stored: resume.ResumeState | None, *, quiet: bool) -> bool:
        """Goes on from a stored state, or from nothing; returns whether the run is finished."""
        tokenizer_dir = self._run_dir / "tokenizer"
        if stored is None:
            # Without a resume state, whatever an earlier start left is not of this run for sure.
            self._run_log.cut_back(0)
            self._metrics.cut_back(0)
            folder.retract(self._run_dir)
            averaging.prune(self._run_dir, 0, keep=self._config.training.average_checkpoints)
            files.remove_tree(tokenizer_dir)
            preparation.make_tokenizers(self._config, tokenizer_dir)
        else:
            self._run_log.cut_back(stored.values["log_bytes"])
            self._metrics.cut_back(stored.values["metrics_bytes"])
            folder.verify_tokenizer(self._run_dir)
        folder.record_last_run(self._run_dir)
        parts = preparation.prepare(
            self._config,
            tokenizer_dir,
            self._arithmetic,
            fingerprint=stored.values["fingerprint"] if stored is not None else None,
        )
        self._fingerprint = parts.fingerprint
        total, done = self._config.training.max_updates, stored.update if stored else 0
        reporter = reporting.Reporter(sys.stderr, total, done, quiet=quiet)
        with contextlib.closing(reporter), contextlib.closing(parts):
            trainer = self._trainer(parts, stored, reporter)
            logger.info(
                "training on %s in %s, %d threads",
                self._arithmetic.device,
                self._arithmetic.name,
                torch.get_num_threads(),
            )
            return trainer.run()

    def _trainer(
        self,
        parts: preparation.Parts,
        stored: resume.ResumeState | None,
        reporter: reporting.Reporter,
    ) -> loop.Trainer:
        training = self._config.training
        updater = update.Updater(
            parts.model,
            optimizers.build(training, parts.model),
            self._arithmetic,
            smoothing=training.label_smoothing,
            clip_norm=training.clip_norm,
        )
        trainer = loop.Trainer(
            updater, parts.loader, training, self._arithmetic, self._hooks(parts), reporter
        )
        if stored is not None:
            trainer.restore(stored.values["progress"], stored.tensors)
            averaging.prune(
                self._run_dir,
                stored.update,
                keep=training.average_checkpoints,
                needed_by=resume.updates(self._run_dir),
            )
            logger.info("resumed from update %d", stored.update)
        return trainer

    def _hooks(self, parts: preparation.Parts) -> loop.Hooks:
        config = self._config
        pairs = list(readers.read_pairs(config.data.valid))
        validator = validation.Validator(
            [src for src, _ in pairs],
            [tgt for _, tgt in pairs],
            translator.Texts(parts.src_tokenizer, parts.tgt_tokenizer),
            config.decoding.model_copy(update={"beam_size": config.training.validation_beam_size}),
            self._arithmetic,
        )
        return loop.Hooks(
            validate=validator.validate,
            save=self._save,
            snapshot=self._snapshot,
            publish=self._publish,
            average=self._average,
            best_weights=lambda number: resume.load(self._run_dir, number).tensors["weights"],
            write_metrics=lambda line: self._metrics.write(json.dumps(line) + "\n"),
            stop_requested=lambda: self._signals.received != 0,
        )

    def _save(self, state: progress.Progress, tensors: dict[str, loop.Tensors]) -> None:
        values = {
            "progress": state.to_json(),
            "config": self._config_text,
            "fingerprint": self._fingerprint,
            "log_bytes": self._run_log.offset(),
            "metrics_bytes": self._metrics.offset(),
        }
        resume.save(
            self._run_dir,
            resume.ResumeState(state.update, values, tensors),
            keep=self._config.training.keep_checkpoints,
            best=state.best_update,
        )

    def _snapshot(self, number: int, weights: loop.Tensors) -> None:
        averaging.save_snapshot(
            self._run_dir,
            number,
            weights,
            keep=self._config.training.average_checkpoints,
            needed_by=resume.updates(self._run_dir),
        )

    def _average(self) -> loop.Tensors | None:
        newest = averaging.snapshot_updates(self._run_dir)
        newest = newest[-self._config.training.average_checkpoints :]
        return averaging.average(self._run_dir, newest) if len(newest) > 1 else None

    def _publish(self, number: int, weights: loop.Tensors, scores: dict[str, float]) -> None:
        folder.publish(
            self._run_dir,
            config_text=self._config_text,
            tensors=weights,
            scores=scores,
            update=number,
        )
