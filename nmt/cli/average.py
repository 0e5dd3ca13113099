"""`nmt average`: the mean weights of several checkpoints of a run, as a model folder."""

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path

from nmt import errors
from nmt.checkpoint import averaging, folder, resume
from nmt.runtime import files
from nmt.text import tokenizer
from nmt.training import tensors

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace) -> int:
    """Averages the weights of checkpoints into a new folder.

    A checkpoint is a resume state or a snapshot that a validation left; of a run with a moving
    average, that average counts.

    Args:
        args: `model`, `last` or `checkpoints`, `output`.

    Returns:
        0.

    Raises:
        errors.UsageError: there are no such checkpoints; the output is there already.
        errors.TrainingError: a checkpoint is torn or altered.
    """
    run_dir, output = Path(args.model), Path(args.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise errors.UsageError(
            f"--output: is there already (given: {output}). Name a folder that is new or empty."
        )
    # The tokenizer and the configuration come from the model, so it has to be whole.
    config_text = folder.read(run_dir).config_text
    chosen = _chosen(run_dir, args.last, args.checkpoints)
    mean = averaging.mean(_weights(run_dir, chosen))
    files.make_dir(output)
    tokenizer.copy(run_dir / folder.TOKENIZER, output / folder.TOKENIZER)
    folder.publish(output, config_text=config_text, tensors=mean, scores={}, update=chosen[-1])
    logger.info("%s: average of updates %s", output, ", ".join(map(str, chosen)))
    return 0


def _chosen(run_dir: Path, last: int | None, wanted: list[int] | None) -> list[int]:
    """Returns the updates to average, ascending."""
    # Nothing was learnt before the first update.
    found = {*resume.updates(run_dir), *averaging.snapshot_updates(run_dir)} - {0}
    there = f"Checkpoints in {run_dir}: {', '.join(map(str, sorted(found))) or 'none'}."
    if wanted is not None:
        missing = sorted(set(wanted) - found)
        if missing:
            raise errors.UsageError(
                f"--checkpoints: not there (given: {', '.join(map(str, missing))}). {there}"
            )
        return sorted(set(wanted))
    assert last is not None, "the parser wants one of the two"
    if last > len(found):
        raise errors.UsageError(
            f"--last: more than there are (given: {last}). {there} A run keeps as many as "
            "training.keep_checkpoints and training.average_checkpoints say."
        )
    return sorted(found)[-last:]


def _weights(run_dir: Path, updates: list[int]) -> Iterator[tuple[str, tensors.Tensors]]:
    snapshots = averaging.snapshot_updates(run_dir)
    for update in updates:
        if update in snapshots:
            yield f"{run_dir}: snapshot of update {update}", averaging.load(run_dir, update)
        else:
            state = resume.load(run_dir, update)
            yield f"{run_dir}: checkpoint of update {update}", tensors.to_publish(state.tensors)
