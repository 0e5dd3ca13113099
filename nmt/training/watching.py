"""Tools that draw a run while it goes on: TensorBoard, and Weights & Biases.

They get what metrics.jsonl gets. A further one is a subclass of `Watcher`, a line
in `WATCHERS`, and a name more in the type of `training.loggers` (nmt/config/training.py).
A tool that fails costs its pictures and not the run: there is a warning, and training goes on without it.
"""

import abc
import contextlib
import importlib.util
import logging
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

from nmt import errors
from nmt.runtime import files

logger = logging.getLogger(__name__)

Event = Mapping[str, Any]

# W&B knows a run by it, also when it goes on.
WANDB_ID = "wandb-id.txt"


class Watcher(abc.ABC):
    """One tool, watching one run.

    Attributes:
        package: what has to be installed, a module of that name; our extra has that name, too.
    """

    package: ClassVar[str]

    @abc.abstractmethod
    def __init__(self, run_dir: Path, config: Mapping[str, Any], update: int) -> None:
        """Begins, or goes on.

        Args:
            run_dir: folder of the run, in which it keeps its own files.
            config: all settings.
            update: updates done; 0 for a run that begins.
        """

    @abc.abstractmethod
    def show(self, event: Event) -> None:
        """Takes an event of metrics.jsonl: its `event`, its `update`, and numbers by name."""

    def flush(self) -> None:  # noqa: B027 (a tool may have nothing to do)
        """Makes sure that what it was shown outlives a kill: the run goes on from here."""

    @abc.abstractmethod
    def close(self, *, failed: bool) -> None:
        """Ends.

        Args:
            failed: whether the run did, or was stopped by an error.
        """


class TensorBoard(Watcher):
    """Writes into `tensorboard/` of the run, for `tensorboard --logdir`."""

    package = "tensorboard"

    def __init__(self, run_dir: Path, config: Mapping[str, Any], update: int) -> None:
        """Begins; what was written after this update is hidden."""
        from torch.utils import tensorboard

        # Imported by name from a package of torch that has no types for it.
        build: Any = tensorboard.SummaryWriter
        self._writer = build(str(run_dir / "tensorboard"), purge_step=update + 1 if update else 0)

    def show(self, event: Event) -> None:
        """Writes each number under `train/loss` and the like."""
        for name, value in numbers(event).items():
            self._writer.add_scalar(name, value, event["update"])

    def flush(self) -> None:
        """Writes what it holds back."""
        self._writer.flush()

    def close(self, *, failed: bool) -> None:
        """Closes the file."""
        self._writer.close()


class WeightsAndBiases(Watcher):
    """Sends a run to Weights & Biases; with WANDB_MODE=offline it only writes into `wandb/` of the run."""

    package = "wandb"

    def __init__(self, run_dir: Path, config: Mapping[str, Any], update: int) -> None:
        """Begins, or goes on under the same id; WANDB_PROJECT and the like hold."""
        import wandb

        path = run_dir / WANDB_ID
        if not update or not path.exists():
            files.atomic_write_text(path, f"{uuid.uuid4().hex[:12]}\n")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "nmt"),
            name=os.environ.get("WANDB_NAME", run_dir.resolve().name),
            id=path.read_text(encoding="utf-8").strip(),
            resume="allow",
            dir=str(run_dir),
            config=dict(config),
            # It would put itself before stdout and stderr, which are ours.
            settings=wandb.Settings(console="off", silent=True),
        )
        # Steps of its own only grow, and would refuse what a resumed run does again.
        self._run.define_metric("*", step_metric="update")

    def show(self, event: Event) -> None:
        """Sends each number under `train/loss` and the like."""
        self._run.log({**numbers(event), "update": event["update"]})

    def close(self, *, failed: bool) -> None:
        """Waits until all is sent or written."""
        self._run.finish(exit_code=int(failed))


WATCHERS: Mapping[str, type[Watcher]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


def numbers(event: Event) -> dict[str, float]:
    """Returns the numbers of an event, as `train/loss` and the like."""
    return {
        f"{event['event']}/{name}": value
        for name, value in event.items()
        if name != "update" and isinstance(value, int | float) and not isinstance(value, bool)
    }


def check(names: Sequence[str]) -> None:
    """Refuses tools that are not installed, before anything else is done.

    Args:
        names: `training.loggers`.

    Raises:
        errors.ConfigError: one is not installed.
    """
    for name in names:
        spec = importlib.util.find_spec(WATCHERS[name].package)
        # A folder of that name, as W&B makes one, is not the package.
        if spec is None or spec.origin is None:
            raise errors.ConfigError(
                f"training.loggers: {name} is not installed. "
                f"Install it with: pip install 'nmt-toolkit[{name}]'"
            )


class Watchers:
    """All tools that watch a run; a context that ends them."""

    def __init__(
        self, names: Sequence[str], run_dir: Path, config: Mapping[str, Any], update: int
    ) -> None:
        """Begins, or goes on.

        Args:
            names: `training.loggers`; none on a rank that writes nothing.
            run_dir: folder of the run.
            config: all settings.
            update: updates done.

        Raises:
            errors.ConfigError: a tool cannot begin, for lack of an account or a network, say.
        """
        self._open: dict[str, Watcher] = {}
        for name in dict.fromkeys(names):
            try:
                self._open[name] = WATCHERS[name](run_dir, config, update)
            except Exception as error:
                self._end(failed=True)
                raise errors.ConfigError(
                    f"training.loggers: {name} cannot begin ({_told(error)}). "
                    "Mend that, or take it out of the list: a run may go on without it."
                ) from error

    def show(self, event: Event) -> None:
        """Takes an event of metrics.jsonl."""
        for name, watcher in list(self._open.items()):
            with self._forgiven(name):
                watcher.show(event)

    def flush(self) -> None:
        """Makes sure that all that was shown outlives a kill, for a checkpoint."""
        for name, watcher in list(self._open.items()):
            with self._forgiven(name):
                watcher.flush()

    def __enter__(self) -> "Watchers":
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends all."""
        self._end(failed=error is not None)

    def _end(self, *, failed: bool) -> None:
        for name, watcher in list(self._open.items()):
            with self._forgiven(name):
                watcher.close(failed=failed)
        self._open.clear()

    @contextlib.contextmanager
    def _forgiven(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            logger.warning(
                "training.loggers: %s has failed, and watches no more (%s). Training goes on; "
                "metrics.jsonl has all events.",
                name,
                _told(error),
            )


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
