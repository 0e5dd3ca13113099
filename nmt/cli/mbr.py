"""`nmt mbr`: the best of n-best lists by minimum Bayes risk; needs no model."""

import argparse
import itertools
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from nmt import errors
from nmt.evaluation import mbr, nbest
from nmt.runtime import files, lines

logger = logging.getLogger(__name__)

CHUNK_LINES = 4096
# More sources without a candidate between two with some are a mistake in a number.
MAX_GAP = 1_000_000

# The feature under which the expected utility is written, in percent.
UTILITY = "utility"


def run(args: argparse.Namespace) -> int:
    """Chooses from n-best lists of a file or stdin.

    Args:
        args: `input`, `output`, `metric`, `weights`, `exact`, `format`.

    Returns:
        0.
    """
    settings = mbr.Settings(
        metric=args.metric or "chrf", weights=args.weights or "uniform", is_exact=args.exact
    )
    style = args.format or "text"
    if args.input is None:
        _choose(sys.stdin.buffer, "stdin", args.output, settings, style)
    else:
        with files.open_read(args.input) as stream:
            _choose(stream, args.input, args.output, settings, style)
    return 0


def _choose(
    stream: BinaryIO, place: str, output: str | None, settings: mbr.Settings, style: str
) -> None:
    reader = lines.LineReader(stream)
    if output is None:
        _write_all(reader, place, lines.LineWriter(sys.stdout.buffer), settings, style)
    else:
        with files.atomic_write(Path(output)) as target:
            _write_all(reader, place, lines.LineWriter(target), settings, style)
    if reader.num_invalid:
        logger.warning(
            "lines that were not valid UTF-8, whose bad bytes were replaced: %d", reader.num_invalid
        )


def _write_all(
    reader: lines.LineReader,
    place: str,
    writer: lines.LineWriter,
    settings: mbr.Settings,
    style: str,
) -> None:
    """Writes each list as soon as the next one begins."""
    expected = 0
    for found in _lists(reader, place):
        if style == "moses":
            writer.write(entry.line() for entry in _ranked(found, place, settings))
            continue
        # A source without any candidate still has its line.
        gap = found[0].number - expected
        if gap > MAX_GAP:
            raise errors.DataError(
                f"{place}: leaves out {gap:,} sources before source {found[0].number}, which would be as "
                "many blank lines. Number the sources from 0."
            )
        writer.write(itertools.repeat("", gap))
        writer.write([_ranked(found, place, settings)[0].text])
        expected = found[0].number + 1


def _lists(reader: lines.LineReader, place: str) -> Iterator[list[nbest.Entry]]:
    """Yields the candidates of one source after the other.

    Raises:
        errors.DataError: a line is in another format, or sources are not in order.
    """
    current: list[nbest.Entry] = []
    arriving = itertools.chain.from_iterable(reader.chunks(CHUNK_LINES))
    for row, line in enumerate(arriving, start=1):
        entry = nbest.parse(line, f"{place}:{row}")
        if current and entry.number < current[0].number:
            raise errors.DataError(
                f"{place}:{row}: comes after a candidate of source {current[0].number} "
                f"(given: {entry.number}). Sort the list by its first field: sort -s -n -k1,1"
            )
        if current and entry.number != current[0].number:
            yield current
            current = []
        current.append(entry)
    if current:
        yield current


def _ranked(
    entries: Sequence[nbest.Entry], place: str, settings: mbr.Settings
) -> list[nbest.Entry]:
    """Returns the candidates of a source, best first, with their expected utility."""
    log_probabilities = [entry.feature(nbest.LOG_PROBABILITY) for entry in entries]
    if settings.weights == "model" and None in log_probabilities:
        raise errors.DataError(
            f"{place}: a candidate of source {entries[0].number} has no feature "
            f"{nbest.LOG_PROBABILITY}=, by which --weights model weighs. `nmt score --nbest FILE "
            "--src FILE --format moses` adds it."
        )
    known = [-math.inf if value is None else value for value in log_probabilities]
    utilities = mbr.expected_utilities([entry.text for entry in entries], known, settings)
    return [
        entries[index].with_feature(UTILITY, utilities[index]) for index in mbr.ranking(utilities)
    ]
