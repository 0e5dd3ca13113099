"""Scores pronunciations: word and phoneme error rate, where each word has one or several right ones.

    nmt translate --model runs/cmudict --input data/cmudict/test.words --output test.hyp
    python scripts/score_g2p.py test.hyp data/cmudict/test.*.phones

A word is right if its one output equals any pronunciation. Phoneme errors are insertions, deletions and
substitutions against the pronunciation that is nearest, in percent of the phonemes of those.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from nmt import errors
from nmt.runtime import files


@dataclasses.dataclass(frozen=True)
class Rates:
    """Error rates in percent, and what they are of."""

    words: float
    phones: float
    num_words: int
    num_phones: int


def distance(found: Sequence[str], wanted: Sequence[str]) -> int:
    """Returns the fewest insertions, deletions and substitutions (Levenshtein 1966)."""
    row = list(range(len(wanted) + 1))
    for number, token in enumerate(found, start=1):
        above, row[0] = row[0], number
        for place, other in enumerate(wanted, start=1):
            best = min(row[place] + 1, row[place - 1] + 1, above + (token != other))
            above, row[place] = row[place], best
    return row[-1]


def rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Rates:
    """Returns the error rates.

    Args:
        hypotheses: a line for each word.
        references: files of right lines, each as long.
    """
    num_wrong = num_errors = num_phones = 0
    for hypothesis, *wanted in zip(hypotheses, *references, strict=True):
        found = hypothesis.split()
        # Of pronunciations that are equally near the first one counts.
        nearest = [(distance(found, line.split()), line.split()) for line in dict.fromkeys(wanted)]
        errors_here, phones = min(nearest, key=lambda one: one[0])
        num_wrong += errors_here > 0
        num_errors += errors_here
        num_phones += len(phones)
    return Rates(
        100.0 * num_wrong / max(len(hypotheses), 1),
        100.0 * num_errors / max(num_phones, 1),
        len(hypotheses),
        num_phones,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hypotheses", metavar="HYP", help="a pronunciation a line")
    parser.add_argument("references", metavar="REF", nargs="+", help="files of right ones")
    args = parser.parse_args()
    try:
        lines = [list(files.read_lines(Path(p))) for p in (args.hypotheses, *args.references)]
        if len({len(own) for own in lines}) > 1 or not lines[0]:
            raise errors.DataError(
                f"{args.hypotheses}: wants as many lines as every reference, one at least (given: "
                f"{', '.join(str(len(own)) for own in lines)})."
            )
    except errors.NMTError as error:
        print(f"score_g2p: {error}", file=sys.stderr)
        return 1
    found = rate(lines[0], lines[1:])
    print(f"WER {found.words:.2f} % of {found.num_words:,} words")
    print(f"PER {found.phones:.2f} % of {found.num_phones:,} phonemes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
