"""Which lines belong together: by length, rare words, copied words and repetition.

Length and frequency are properties of the references, so that every system has the same lines in a class;
copying and repetition are what a system did, so that its own lines are counted.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from nmt import errors

KINDS = ("length", "frequency", "copy", "repetition")

# Upper ends of the classes; the last one has none.
LENGTHS = (0, 5, 10, 15, 20, 30, 50)
FREQUENCIES = (0, 1, 4, 9, 99)
COPIED_SHARES = (0.0, 0.1, 0.5)
REPETITIONS = (0, 1, 3)

TITLES = {
    "length": "words of the reference",
    "frequency": "occurrences of the rarest word of the reference",
    "copy": "share of words that are copied and in no reference",
    "repetition": "repeated words and pairs of words that no reference repeats so often",
}


@dataclasses.dataclass(frozen=True)
class Texts:
    """What hypotheses are held against.

    Attributes:
        references: one or more translations of the corpus; a line each.
        sources: as many lines; None where nothing wants them.
        counts: how often words occur, for `frequency`; None counts the first references.
    """

    references: Sequence[Sequence[str]]
    sources: Sequence[str] | None = None
    counts: Mapping[str, int] | None = None


def word_counts(lines: Iterable[str]) -> dict[str, int]:
    """Returns how often each word between blanks occurs."""
    return dict(collections.Counter(word for line in lines for word in line.split()))


def classes(kind: str, hypotheses: Sequence[str], texts: Texts) -> dict[str, list[int]]:
    """Returns the places of the lines of each class that has any, lowest class first.

    Args:
        kind: one of `KINDS`.
        hypotheses: a line each.
        texts: references and whatever `kind` wants.

    Raises:
        errors.UsageError: there are no sources, and `copy` wants them.
    """
    if kind == "length":
        lengths = [len(line.split()) for line in texts.references[0]]
        # A blank reference is one of the short ones.
        return _classed([max(length, 1) for length in lengths], LENGTHS)
    if kind == "frequency":
        counts = texts.counts
        counts = word_counts(texts.references[0]) if counts is None else counts
        # A blank reference has no rarest word, and is of no class.
        rarest = [
            min((counts.get(word, 0) for word in line.split()), default=math.nan)
            for line in texts.references[0]
        ]
        return _classed(rarest, FREQUENCIES)
    lines = list(zip(hypotheses, *texts.references, strict=True))
    if kind == "copy":
        if texts.sources is None:
            raise errors.UsageError("--by copy: wants the sources. Give --src.")
        values = [
            _copied(source, hypothesis, wanted)
            for source, (hypothesis, *wanted) in zip(texts.sources, lines, strict=True)
        ]
        return _classed(values, COPIED_SHARES, is_share=True)
    return _classed([_repeated(hypothesis, wanted) for hypothesis, *wanted in lines], REPETITIONS)


def _copied(source: str, hypothesis: str, references: Sequence[str]) -> float:
    """Returns the share of words that the source has and no reference."""
    words = hypothesis.split()
    right = {word for line in references for word in line.split()}
    wrong = set(source.split()) - right
    return sum(word in wrong for word in words) / max(len(words), 1)


def _repeated(hypothesis: str, references: Sequence[str]) -> int:
    """Returns how often words and pairs of words come again, beyond what the references repeat.

    Words count where they follow themselves (`the the`), pairs wherever they come again.
    """

    def repeats(line: str) -> int:
        words = line.split()
        pairs = collections.Counter(itertools.pairwise(words))
        doubled = sum(number for (first, second), number in pairs.items() if first == second)
        return doubled + sum(number - 1 for (a, b), number in pairs.items() if a != b)

    return max(repeats(hypothesis) - max(map(repeats, references)), 0)


def _classed(
    values: Sequence[float], ends: Sequence[float], *, is_share: bool = False
) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for low, high in zip((None, *ends), (*ends, None), strict=True):
        places = [
            place
            for place, value in enumerate(values)
            if (low is None or value > low) and (high is None or value <= high)
        ]
        if places:
            found[_share_name(low, high) if is_share else _name(low, high)] = places
    return found


def _name(low: float | None, high: float | None) -> str:
    """Returns the name of a class of whole numbers above `low` and up to `high`."""
    if high is None:
        return f"over {low:g}"
    first = 0 if low is None else int(low) + 1
    return f"{high:g}" if first >= high else f"{first} to {high:g}"


def _share_name(low: float | None, high: float | None) -> str:
    if low is None:
        return "none"
    return f"over {100 * low:g} %" if high is None else f"up to {100 * high:g} %"
