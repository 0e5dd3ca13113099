"""What `nmt train` would do with its run folder, and whether the disk has room for it."""

import dataclasses
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nmt import errors
from nmt.checkpoint import folder, manifests, resume
from nmt.config import loading, schema
from nmt.data import filters, findings
from nmt.evaluation import events
from nmt.runtime import locks
from nmt.training import preparation, progress

# Weights, and the two moments of Adam, in the arithmetic of the weights.
TENSORS_OF_STATE = 3

# Beside those that are kept: the best one, and the one that is being written.
EXTRA_STATES = 2

# model.safetensors, and the new one while it replaces it.
MODEL_COPIES = 2


@dataclasses.dataclass(frozen=True)
class RunOutlook:
    """What a run folder means for the next `nmt train`.

    Attributes:
        action: `start`, `resume`, `finished`, or `refused`.
        update: updates that are done.
        found: what stands in the way.
        corpora: fingerprints of the corpora that the run was started with, by what the state calls them.
        way_on: how a finished run may go on.
    """

    action: str
    update: int
    found: list[findings.Finding]
    corpora: Mapping[str, str] = dataclasses.field(default_factory=dict)
    way_on: str = ""

    def describe(self) -> str:
        """Returns the action in words."""
        return {
            "start": "`nmt train` would start there",
            "resume": f"`nmt train` would go on from update {self.update:,}",
            "finished": f"the run there is finished ({self.update:,} updates). {self.way_on}",
            "refused": "`nmt train` would refuse to start there",
        }[self.action]


def look_at_run(config: schema.Config) -> RunOutlook:
    """Finds out what `nmt train` would do; writes nothing.

    Args:
        config: the whole configuration.
    """
    run_dir = Path(config.run_dir)
    found = _access_findings(run_dir)
    if found:
        return RunOutlook("refused", 0, found)
    if (holder := locks.holder(run_dir)) is not None:
        advice = "One process at a time trains there: wait for it, or take another run_dir."
        what = f"another process trains there ({holder})"
        found.append(findings.Finding("warning", config.run_dir, what, advice))
    try:
        stored = resume.latest(run_dir)
        if stored is None:
            return RunOutlook(*_without_state(config, found))
        old = loading.parse(stored.values["config"], f"{config.run_dir} (the run so far)")
    except errors.NMTError as error:
        return RunOutlook("refused", 0, [*found, findings.of_error(config.run_dir, error)])
    if changed := loading.frozen_keys(old, config, stored.update):
        what = f"the run was started with another value of {', '.join(changed)}"
        advice = "Set them back, take another run_dir, or start anew with `nmt train --fresh`."
        found.append(findings.Finding("error", config.run_dir, what, advice, exit_code=2))
        return RunOutlook("refused", stored.update, found)
    state = progress.Progress.from_json(stored.values["progress"])
    is_over = state.finished and progress.reached_limit(state, config.training) is not None
    corpora: dict[str, str] = {
        name: stored.values[name] for name in ("fingerprint", "held_out") if name in stored.values
    }
    return RunOutlook(
        "finished" if is_over else "resume",
        stored.update,
        found,
        corpora,
        way_on(config.training, state) if is_over else "",
    )


def way_on(training: schema.TrainingConfig, state: progress.Progress) -> str:
    """Returns how a finished run may go on, as the beginning of a sentence."""
    reached = progress.reached_limit(state, training) or ""
    is_last = reached.startswith("max_updates") and loading.is_rate_shaped(training, state.update)
    if is_last or reached.startswith("min_learning_rate"):
        return (
            "Its learning rate ends there: to go on, start another run with training.init_from = "
            "this folder"
        )
    return "Raise the limit to go on"


def compare_corpora(
    run: RunOutlook,
    config: schema.Config,
    tokenizer_dir: Path,
    kept: filters.PairFilter,
    num_pieces: int,
) -> RunOutlook:
    """Returns what is left of the outlook once the corpora are compared with those of the run so far.

    Args:
        run: what the folder alone says.
        config: the whole configuration.
        tokenizer_dir: the tokenizers of the run.
        kept: which pairs are.
        num_pieces: of the larger vocabulary.
    """
    if not run.corpora:
        return run
    try:
        preparation.identify(config, tokenizer_dir, kept, num_pieces, run.corpora["fingerprint"])
        preparation.check_held_out(config, run.corpora.get("held_out"))
    except errors.NMTError as error:
        found = [*run.found, findings.of_error(config.run_dir, error)]
        return dataclasses.replace(run, action="refused", found=found)
    return run


def earlier_config(config: schema.Config) -> schema.Config | None:
    """Returns what the run of a configuration was started with; None if there is none to go on with."""
    try:
        stored = resume.latest(Path(config.run_dir))
    except errors.NMTError:
        return None
    if stored is None:
        return None
    return loading.parse(stored.values["config"], f"{config.run_dir} (the run so far)")


def check_foreign(config: schema.Config) -> None:
    """Refuses a folder whose files a new run would overwrite, though no run has written them.

    Raises:
        errors.UsageError: it holds some, or the ready tokenizer of the run.
    """
    run_dir = Path(config.run_dir)
    ours = run_dir / folder.TOKENIZER
    ready = config.tokenizer
    for given in (ready.model, ready.src_model, ready.tgt_model):
        if given is not None and Path(given).resolve().is_relative_to(ours.resolve()):
            raise errors.UsageError(
                f"tokenizer: {given} lies where the run keeps its own copy, {ours}. Move it elsewhere."
            )
    # Every run leaves its lock behind.
    if not run_dir.is_dir() or (run_dir / locks.NAME).exists() or resume.updates(run_dir):
        return
    own = (folder.CONFIG, manifests.NAME, "log.txt", events.NAME, folder.TOKENIZER)
    found = [name for name in own if (run_dir / name).is_file() or (run_dir / name).is_dir()]
    if found:
        raise errors.UsageError(
            f"run_dir: {run_dir} holds what no run has written, and a run would overwrite it "
            f"({', '.join(found)}). Take another run_dir, or move these elsewhere."
        )


def _without_state(
    config: schema.Config, found: list[findings.Finding]
) -> tuple[str, int, list[findings.Finding]]:
    if not (Path(config.run_dir) / folder.WEIGHTS).exists():
        check_foreign(config)
        return "start", 0, found
    what = "holds a model, but no checkpoint to resume from"
    advice = "Take another run_dir, or start anew with `nmt train --fresh`, which moves it aside."
    return "refused", 0, [*found, findings.Finding("error", config.run_dir, what, advice)]


def _access_findings(run_dir: Path) -> list[findings.Finding]:
    place = _nearest(run_dir)
    if not place.is_dir():
        what, advice = (
            f"there is a file where a folder is wanted ({place})",
            "Take another run_dir.",
        )
    elif not os.access(place, os.W_OK | os.X_OK):
        what, advice = f"cannot be written to ({place})", "Check the permissions of the folder."
    else:
        return []
    return [findings.Finding("error", str(run_dir), what, advice)]


def _nearest(run_dir: Path) -> Path:
    """Returns the folder, or the nearest one above it that there is."""
    path = run_dir.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


@dataclasses.dataclass(frozen=True)
class Disk:
    """Room for a run.

    Attributes:
        needed: bytes that the run's checkpoints and models take at most.
        held: bytes that they take already.
        free: bytes that are free.
    """

    needed: int
    held: int
    free: int

    def faults(self, place: str) -> list[findings.Finding]:
        """Returns an error where the rest does not fit."""
        if self.needed - self.held <= self.free:
            return []
        what = (
            f"checkpoints and model take about {self.needed / 2**30:.1f} GiB, "
            f"{self.free / 2**30:.1f} GiB are free"
        )
        advice = "Free space, lower training.keep_checkpoints, or take a run_dir on another disk."
        return [findings.Finding("error", place, what, advice)]


def disk_of(config: schema.Config, num_parameters: int) -> Disk:
    """Returns what a run takes of the disk at most, logs left out, and what is free.

    Args:
        config: the whole configuration.
        num_parameters: of the model.
    """
    run_dir, training = Path(config.run_dir), config.training
    weights = num_parameters * (8 if training.precision == "fp64" else 4)
    tensors = TENSORS_OF_STATE + (training.ema_decay is not None)
    states = (training.keep_checkpoints + EXTRA_STATES) * tensors
    snapshots = 0
    if training.average_checkpoints > 1:
        # Those that would be averaged now, and those that older states would average.
        snapshots = training.average_checkpoints * (training.keep_checkpoints + 1)
        if training.max_updates is not None:
            snapshots = min(snapshots, training.max_updates // training.validation_interval + 1)
    needed = weights * (states + snapshots + MODEL_COPIES)
    held = sum(path.stat().st_size for path in run_dir.rglob("*.safetensors"))
    return Disk(needed, held, shutil.disk_usage(_nearest(run_dir)).free)
