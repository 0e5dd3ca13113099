"""`nmt train`: wires a run together, starts or resumes it, and keeps its folder."""

import argparse
import contextlib
import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from nmt import errors
from nmt.checkpoint import folder, logs, resume
from nmt.cli import jobs
from nmt.config import loading, schema
from nmt.data import readers
from nmt.runtime import device as devices
from nmt.runtime import files, locks, memory
from nmt.training import initial, progress

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
    memory.check_limit(config.training.memory_limit, arithmetic.device)
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
        earlier = None if stored is None else _config_of(run_dir, stored)
        config = initial.completed(config, earlier)
        if stored is not None and earlier is not None:
            _compare(config, earlier)
            if _is_over(config, stored):
                folder.record_last_run(run_dir)
                return 0
        with _Signals() as signals:
            run_files = jobs.Files(run_dir, run_log, metrics)
            job = jobs.Job(config, arithmetic, run_files, lambda: signals.received != 0)
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


def _config_of(run_dir: Path, stored: resume.ResumeState) -> schema.Config:
    return loading.parse(stored.values["config"], f"{run_dir} (the run so far)")


def _compare(config: schema.Config, old: schema.Config) -> None:
    """Checks that the configuration may go on with a stored run.

    Raises:
        errors.ConfigError: a key has changed that shapes the run.
    """
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
