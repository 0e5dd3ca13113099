"""N-best lists in the format of Moses: `number ||| text ||| features ||| score`, a candidate a line.

Numbers count the sources from 0. Of the fields only the first two have to be there. A text in which
`|||` stands cannot be told from two fields; `nmt translate` writes `| | |` for it.
"""

import dataclasses
import math
import re

from nmt import errors

SEPARATOR = "|||"

# The feature under which `nmt translate` writes the sum of log-probabilities.
LOG_PROBABILITY = "logprob"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One candidate.

    Attributes:
        number: of its source, from 0.
        text: the translation.
        features: as they are written: `name=value` apart by spaces.
        score: as it is written; empty where there is none.
        rest: the fields behind it as they are written, such as an alignment.
    """

    number: int
    text: str
    features: str = ""
    score: str = ""
    rest: tuple[str, ...] = ()

    def feature(self, name: str) -> float | None:
        """Returns the value of a feature, `name=-1.5` or `name= -1.5`; None if it is no number."""
        match = re.search(rf"(?:^|\s){re.escape(name)}=\s*(\S+)", self.features)
        return None if match is None else _number(match[1])

    def with_feature(self, name: str, value: float) -> "Entry":
        """Returns the entry with a feature added at the end, or replaced."""
        rest = re.sub(rf"(?:^|\s){re.escape(name)}=\s*\S+", "", self.features)
        return dataclasses.replace(self, features=f"{rest} {name}={value:.6f}".strip())

    def line(self) -> str:
        """Returns the entry as it is written."""
        fields = (str(self.number), self.text, self.features, self.score, *self.rest)
        return f" {SEPARATOR} ".join(fields).rstrip()


def parse(line: str, place: str) -> Entry:
    """Returns the entry of a line.

    Args:
        line: without its end.
        place: file and line number, for messages.

    Raises:
        errors.DataError: the line is not in the format.
    """
    fields = [field.strip(" ") for field in line.split(SEPARATOR)]
    if len(fields) < 2:
        raise errors.DataError(
            f"{place}: is no line of an n-best list (given: {line[:40]!r}). It wants "
            "`number ||| text ||| features ||| score`, as `nmt translate --format moses` writes."
        )
    # Only these digits: int() takes 1_000 and signs, too.
    if not re.fullmatch(r"[0-9]{1,18}", fields[0]):
        raise errors.DataError(
            f"{place}: wants the number of a source first, from 0 (given: {fields[0][:40]!r})."
        )
    number, text, features, score = (*fields, "", "")[:4]
    return Entry(int(number), text, features, score, tuple(fields[4:]))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    # There are no chances above 1, but there may be none.
    return value if value < math.inf else None
