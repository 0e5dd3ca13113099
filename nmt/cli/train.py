"""`nmt train`: wires a run together, starts or resumes it, and keeps its folder."""

import argparse
import collections
import contextlib
import logging
import os
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
from nmt.inference import validation
from nmt.runtime import device as devices
from nmt.runtime import distributed, files, locks, memory
from nmt.training import initial, outlook, progress, watching

logger = logging.getLogger(__name__)

# Settings of a search that say how fast it is.
_SAME_SCORES = frozenset({"batch_tokens", "precision"})


def run(args: argparse.Namespace) -> int:
    """Trains the run that a configuration describes; the same command again resumes it.

    Args:
        args: `config`, `set`, `fresh`, `device`, `precision`, `threads`, `quiet`.

    Returns:
        0 at the end of the run, 130 or 143 after SIGINT or SIGTERM.
    """
    start = distributed.started()
    with distributed.joined(start) as group:
        config, arithmetic = group.together(lambda: _configured(args, start))
        run_dir = Path(config.run_dir)
        # A run that torchrun starts anew goes on; it was moved aside the first time. Machines count
        # their restarts by themselves, so rank 0 alone decides.
        if args.fresh:
            group.on_main(lambda: None if start.num_restarts else _move_aside(run_dir))
        with contextlib.ExitStack() as stack:
            group.on_main(lambda: outlook.check_foreign(config))
            run_files = group.in_turn(lambda: _opened(stack, run_dir, group))
            return _train(config, arithmetic, run_files, group, quiet=args.quiet)


def _configured(
    args: argparse.Namespace, start: distributed.Start
) -> tuple[schema.Config, devices.Arithmetic]:
    """Returns the configuration and the arithmetic of a run whose files are all there."""
    overrides = list(args.set or [])
    flags = {"device": args.device, "training.precision": args.precision, "threads": args.threads}
    overrides += [f"{key}={value}" for key, value in flags.items() if value is not None]
    config = loading.load(args.config, overrides)
    device = devices.of_rank(devices.resolve(config.device), start.local_rank, start.size)
    arithmetic = devices.training_arithmetic(config.training.precision, device)
    devices.set_up(arithmetic.device, config.threads)
    memory.check_limit(config.training.memory_limit, arithmetic.device)
    if config.training.memory_limit is not None:
        memory.bound_code()
    watching.check(config.training.loggers)
    if config.training.sharding == "full" and start.size > 1:
        from nmt.training import sharding  # much of torch, which takes a second

        sharding.check(arithmetic)
    _check_corpora(config)
    return config, arithmetic


def _opened(stack: contextlib.ExitStack, run_dir: Path, group: distributed.Group) -> jobs.Files:
    """Returns the files of this process, open until the stack is; rank 0 locks the folder."""
    if not group.is_main:
        run_log = stack.enter_context(_logged(run_dir / f"log.rank{group.rank}.txt"))
        stack.enter_context(_quiet_stderr())
        return jobs.Files(run_dir, run_log, None)
    files.make_dir(run_dir)
    stack.enter_context(locks.RunLock(run_dir))
    run_log = stack.enter_context(_logged(run_dir / "log.txt"))
    metrics = stack.enter_context(logs.AppendLog(run_dir / "metrics.jsonl"))
    return jobs.Files(run_dir, run_log, metrics)


def _train(
    config: schema.Config,
    arithmetic: devices.Arithmetic,
    run_files: jobs.Files,
    group: distributed.Group,
    *,
    quiet: bool,
) -> int:
    """Starts or resumes the run in a folder that is open; see `run`."""
    run_dir = run_files.run_dir
    stored = group.in_turn(lambda: _stored_state(run_dir, group))
    if stored is not None:
        _forget_lost_average(run_dir, stored)
    config = group.together(lambda: _completed(config, run_dir, stored))
    if stored is not None and group.on_main(lambda: _is_over(config, stored)):
        group.on_main(lambda: folder.record_last_run(run_dir))
        return 0
    with _Signals() as signals:
        job = jobs.Job(config, arithmetic, run_files, lambda: signals.received != 0, group)
        finished = job.train(stored, quiet=quiet)
    if finished:
        return 0
    logger.info("stopped; the same command goes on from here")
    # The signal may have come to another rank only.
    return 128 + (signals.received or signal.SIGTERM)


def _check_corpora(config: schema.Config) -> None:
    """Finds missing files of every corpus, and mistakes in those of validation, before any work starts."""
    for entry in [*config.data.train, *config.data.valid_corpora, *config.data.test_corpora]:
        for path in [*readers.corpus_files(entry), *readers.alignment_files(entry)]:
            files.check_readable(path)
    for entry in config.data.valid_corpora:
        # A line too few would else be found once all the rest is made. What costs a network, or can be
        # read but once, is left for then.
        if all(os.path.isfile(path) for path in readers.corpus_files(entry)):
            collections.deque(readers.iterate_pairs(entry, readers.new_counters(entry)), maxlen=0)


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


def _stored_state(run_dir: Path, group: distributed.Group) -> resume.ResumeState | None:
    """Returns the newest good resume state, which all ranks read.

    Raises:
        errors.TrainingError: there is a model, but nothing to resume from.
    """
    if not group.is_main:
        return resume.latest(run_dir)
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


def _forget_lost_average(run_dir: Path, stored: resume.ResumeState) -> None:
    """Makes a run publish again where its averaged weights, which it keeps for better ones, are damaged."""
    if stored.values["progress"].get("average_score") is None:
        return
    try:
        folder.verify(run_dir)
    except errors.ModelError:
        stored.values["progress"]["average_score"] = None


def _completed(
    config: schema.Config, run_dir: Path, stored: resume.ResumeState | None
) -> schema.Config:
    """Returns the configuration with all that it takes over from elsewhere, after comparing it."""
    if stored is None:
        return initial.completed(config, None)
    earlier = loading.parse(stored.values["config"], f"{run_dir} (the run so far)")
    config = initial.completed(config, earlier)
    _compare(config, earlier, stored.update)
    return config


def _compare(config: schema.Config, old: schema.Config, update: int) -> None:
    """Checks that the configuration may go on with a stored run.

    Raises:
        errors.ConfigError: a key has changed that shapes the run.
    """
    changed = loading.frozen_keys(old, config, update)
    if changed:
        raise errors.ConfigError(
            f"{config.run_dir}: the run was started with another value of {', '.join(changed)}. "
            "These may not change under a run. Set them back to resume it, take another run_dir, "
            "or start anew with --fresh."
        )
    before, after = (validation.decoding_of(one).model_dump() for one in (old, config))
    others = [key for key in before if before[key] != after[key] and key not in _SAME_SCORES]
    if others:
        logger.warning(
            "decoding (%s) has changed: scores of later validations do not compare with those before",
            ", ".join(others),
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
        "%s: this run is finished: %d updates, it reached %s. %s, or start anew with --fresh.",
        config.run_dir,
        state.update,
        limit,
        outlook.way_on(config.training, state),
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
def _logged(path: Path) -> Iterator[logs.AppendLog]:
    """Copies all messages into a log for as long as the run is at work."""
    run_log = logs.AppendLog(path)
    handler = _RunLogHandler(run_log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    handler.setLevel(logging.INFO)
    root = logging.getLogger("nmt")
    root.addHandler(handler)
    try:
        yield run_log
    except errors.PeerError as error:
        # Nothing else says why this process has ended.
        logger.info("%s", error)
        raise
    finally:
        root.removeHandler(handler)
        run_log.close()


@contextlib.contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Leaves stderr to rank 0: of the others it gets errors only."""
    handlers = [
        handler
        for handler in logging.getLogger("nmt").handlers
        if not isinstance(handler, _RunLogHandler)
    ]
    before = [handler.level for handler in handlers]
    for handler in handlers:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in zip(handlers, before, strict=True):
            handler.setLevel(level)
