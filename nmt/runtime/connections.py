"""What torch raises when another process does not answer, as an error of the run."""

import re

from torch import distributed

from nmt import errors

# What to do when a rank has gone: of training, and of what has nothing to go on from.
RESUME = (
    "Checkpoints are as they were. The same command goes on from the newest one, which torchrun "
    "--max-restarts does by itself."
)
RESTART = "The output is incomplete. Run the same command again."


def lost(
    rank: int,
    size: int,
    error: RuntimeError,
    what: str = "has lost",
    *,
    remedy: str = RESUME,
) -> errors.TrainingError:
    """Returns the error of a process that another one does not answer.

    Args:
        rank: of this process.
        size: processes of the run.
        error: torch's, from where processes were to exchange something.
        what: what this process has done with the other one, or cannot do.
        remedy: what is to be done.
    """
    # torch puts the place in its own code in front, and advice for its developers behind.
    cause = re.sub(r"^\[\S*\] ", "", str(error).strip()).split("\n")[0].split(". ")[0]
    return errors.TrainingError(
        f"rank {rank} of {size}: {what} another process of this run ({cause}). {remedy}"
    )


def is_about_peers(error: RuntimeError) -> bool:
    """Returns whether an error out of a computation with exchanges in it comes from an exchange."""
    # gloo's errors are plain RuntimeErrors that begin with a place in its code.
    return isinstance(error, distributed.DistError) or "gloo" in str(error)
