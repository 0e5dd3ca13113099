"""The errors that a user can cause and read.

    NMTError            a failure of the job (exit status 1)
    ├── DataError       a corpus or an input text that cannot be used
    ├── FileError       a file that cannot be read or written
    ├── ModelError      a model folder that is missing, torn or altered
    ├── TrainingError   a run that cannot go on
    │   └── PeerError   another process of the run has failed, and says so itself
    └── UsageError      the command line is wrong (exit status 2)
        └── ConfigError the configuration is wrong (exit status 2)

Every message has the form *place: what is wrong (what was given). What is allowed. What to do.*
"""

import difflib
from collections.abc import Iterable


class NMTError(Exception):
    """A failure that is the user's to mend; printed as one line, without a traceback."""

    exit_code = 1


class DataError(NMTError):
    """A corpus or an input text cannot be used."""


class FileError(NMTError):
    """A file or folder cannot be read or written."""


class ModelError(NMTError):
    """A model folder is missing, incomplete, torn, altered or of another version."""


class TrainingError(NMTError):
    """A training run cannot start or go on."""


class PeerError(TrainingError):
    """Another process of this run has failed; that one reports it, so this one prints nothing."""

    def __init__(self, message: str, exit_code: int) -> None:
        """Takes what the other one says, and the exit status that it ends with."""
        super().__init__(message)
        self.exit_code = exit_code


class UsageError(NMTError):
    """The command line asks for something that does not exist or does not fit."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration has an unknown key, a wrong type, or settings that do not fit."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Returns `` Did you mean 'x'?`` for the choice nearest to `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
