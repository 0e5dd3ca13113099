"""What `nmt check` finds: a severity, a place, a count, an example, and what to do."""

import dataclasses
from typing import Any, Literal

from nmt import errors

Severity = Literal["error", "warning", "note"]

# A few of these are in every real corpus and harm nothing; from this share on they are a warning.
WARNING_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a user should know before training.

    Attributes:
        severity: `error` keeps a run from starting or makes it worthless, `warning` costs quality or
            time, `note` is there to be known.
        place: a file, a corpus, or a key of the configuration.
        what: what was found, without its count.
        advice: what to do about it.
        count: how many lines or pairs, where they are counted.
        total: out of so many.
        line: an example, counted from 1.
        exit_code: of the command, if this is an error: 1 for data, 2 for the configuration.
    """

    severity: Severity
    place: str
    what: str
    advice: str
    count: int | None = None
    total: int | None = None
    line: int | None = None
    exit_code: int = 1

    def render(self) -> str:
        """Returns the finding as one line that starts with its severity."""
        facts = []
        if self.count is not None:
            facts.append(f"{self.count:,}" + (f" of {self.total:,}" if self.total else ""))
        if self.line is not None:
            facts.append(
                f"line {self.line:,}" if self.count in (None, 1) else f"first: {self.line:,}"
            )
        counted = f" ({', '.join(facts)})" if facts else ""
        end = "" if self.what.endswith(".") else "."
        text = f"{self.severity}: {self.place}: {self.what}{counted}{end} {self.advice}"
        return text.rstrip()

    def to_json(self) -> dict[str, Any]:
        """Returns the finding by name."""
        return dataclasses.asdict(self)


def of_error(place: str, error: errors.NMTError) -> Finding:
    """Returns an error that `nmt train` would stop with as a finding.

    Args:
        place: what it is about; the error's own name of the place is not repeated.
        error: what was raised.
    """
    what = " ".join(str(error).removeprefix(f"{place}: ").split())
    return Finding("error", place, what, "", exit_code=error.exit_code)


def by_share(count: int, total: int, *, limit: float = WARNING_SHARE) -> Severity:
    """Returns `warning` where a share is large enough to matter, `note` below.

    Args:
        count: how many.
        total: out of so many.
        limit: the share from which on it is a warning.
    """
    return "warning" if count >= limit * total else "note"
