"""Sentence pairs from text files: two parallel files, a TSV, or a JSONL."""

import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

from nmt import errors
from nmt.runtime import files

logger = logging.getLogger(__name__)

Side = Literal["src", "tgt"]
Counters = dict[Path, files.DecodeCounter]


class Entry(Protocol):
    """Where pairs come from: `src` and `tgt`, or `tsv`, or `jsonl`, as in the configuration."""

    @property
    def src(self) -> str | None:
        """File of source lines."""

    @property
    def tgt(self) -> str | None:
        """File of target lines."""

    @property
    def tsv(self) -> str | None:
        """File of source, tab, target."""

    @property
    def jsonl(self) -> str | None:
        """File of objects with src and tgt."""


def corpus_files(entry: Entry) -> list[Path]:
    """Returns the files of an entry."""
    names = (entry.src, entry.tgt, entry.tsv, entry.jsonl)
    return [Path(name) for name in names if name is not None]


def describe(entry: Entry) -> str:
    """Returns the files of an entry, for messages."""
    return " + ".join(str(path) for path in corpus_files(entry))


def read_pairs(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yields source and target of each pair.

    Raises:
        errors.DataError: unequal line counts, a malformed line, or no line at all.
        errors.FileError: a file cannot be read.
    """
    counters = {path: files.DecodeCounter() for path in corpus_files(entry)}
    is_empty = True
    for pair in _pairs(entry, counters):
        is_empty = False
        yield pair
    for path, counter in counters.items():
        if counter.num_invalid:
            logger.warning(
                "%s: lines that were not valid UTF-8, whose bad bytes were replaced: %d",
                path,
                counter.num_invalid,
            )
    if is_empty:
        raise errors.DataError(
            f"{describe(entry)}: has no line. A corpus has one pair at least. Check the path."
        )


def read_side(entry: Entry, side: Side) -> Iterator[str]:
    """Yields the lines of one side, without warnings.

    Raises:
        errors.DataError: a malformed line.
        errors.FileError: a file cannot be read.
    """
    path = entry.src if side == "src" else entry.tgt
    if path is not None:
        yield from files.read_lines(Path(path))
        return
    for src, tgt in _pairs(entry, {name: files.DecodeCounter() for name in corpus_files(entry)}):
        yield src if side == "src" else tgt


def _pairs(entry: Entry, counters: Counters) -> Iterator[tuple[str, str]]:
    if entry.tsv is not None:
        return _tsv_pairs(Path(entry.tsv), counters)
    if entry.jsonl is not None:
        return _jsonl_pairs(Path(entry.jsonl), counters)
    assert entry.src is not None and entry.tgt is not None, "the schema has checked the entry"
    return _parallel_pairs(Path(entry.src), Path(entry.tgt), counters)


def _parallel_pairs(
    src_path: Path, tgt_path: Path, counters: Counters
) -> Iterator[tuple[str, str]]:
    src_lines = files.read_lines(src_path, counters[src_path])
    tgt_lines = files.read_lines(tgt_path, counters[tgt_path])
    both = itertools.zip_longest(src_lines, tgt_lines)
    for num_pairs, (src, tgt) in enumerate(both):
        if src is None or tgt is None:
            num_src = num_pairs + (src is not None) + sum(1 for _ in src_lines)
            num_tgt = num_pairs + (tgt is not None) + sum(1 for _ in tgt_lines)
            raise errors.DataError(
                f"{src_path} and {tgt_path}: differ in their number of lines "
                f"(given: {num_src} and {num_tgt}). Line n of one file translates line n of the "
                "other. Check that both are complete and belong together."
            )
        yield src, tgt


def _tsv_pairs(path: Path, counters: Counters) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(files.read_lines(path, counters[path]), start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise errors.DataError(
                f"{path}:{number}: wants two columns (given: {len(columns)}). "
                "Each line is source, tab, target. Mend the line or remove it."
            )
        yield columns[0], columns[1]


def _jsonl_pairs(path: Path, counters: Counters) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(files.read_lines(path, counters[path]), start=1):
        try:
            pair = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise errors.DataError(
                f"{path}:{number}: is no JSON ({error}). "
                'Each line is an object {"src": ..., "tgt": ...}.'
            ) from error
        src, tgt = (pair.get("src"), pair.get("tgt")) if isinstance(pair, dict) else (None, None)
        if not isinstance(src, str) or not isinstance(tgt, str):
            raise errors.DataError(
                f"{path}:{number}: lacks a text under src or tgt. "
                'Each line is an object {"src": ..., "tgt": ...}.'
            )
        yield src, tgt
