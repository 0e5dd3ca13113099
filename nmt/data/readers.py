"""Sentence pairs from text files: two parallel files, a TSV, a JSONL, or a text that is both sides."""

import itertools
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, Protocol

from nmt import errors
from nmt.runtime import files, locations

logger = logging.getLogger(__name__)

Side = Literal["src", "tgt"]
Place = Path | str  # a path, or a URL
Counters = dict[Place, files.DecodeCounter]


class Entry(Protocol):
    """Where pairs come from: `src` and `tgt`, or `tsv`, or `jsonl`, as in the configuration.

    An entry may also have `mono`, a text whose lines are both sides, `alignments`, and `tags`.
    """

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


def files_by_kind(entry: Entry) -> dict[str, list[Place]]:
    """Returns the files of an entry, in the order in which they are read, by `src`, `tgt` and so on.

    Raises:
        errors.DataError: the patterns of both sides match different numbers of files.
        errors.FileError: a pattern matches no file.
    """
    names = {"src": entry.src, "tgt": entry.tgt, "tsv": entry.tsv, "jsonl": entry.jsonl}
    names["mono"] = getattr(entry, "mono", None)
    found = {kind: locations.locations(name) for kind, name in names.items() if name is not None}
    if "src" in found and len(found["src"]) != len(found["tgt"]):
        raise errors.DataError(
            f"{describe(entry)}: match different numbers of files "
            f"(given: {len(found['src'])} and {len(found['tgt'])}). The files of both sides belong "
            "together in the order of their names. Check that all are there."
        )
    return found


def corpus_files(entry: Entry) -> list[Place]:
    """Returns the files of an entry; see `files_by_kind`."""
    return [path for paths in files_by_kind(entry).values() for path in paths]


def alignment_files(entry: Entry) -> list[Place]:
    """Returns the files of word alignments of a training corpus; an empty list if it has none.

    Raises:
        errors.DataError: they are not as many as those of a side.
        errors.FileError: a pattern matches no file.
    """
    name = getattr(entry, "alignments", None)
    if name is None:
        return []
    found = locations.locations(name)
    if len(found) != len(files_by_kind(entry)["src"]):
        raise errors.DataError(
            f"{name}: wants as many files as {describe(entry)} (given: {len(found)})."
        )
    return found


def iterate_links(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yields the alignment of each pair as it is written, and its place for messages.

    Raises:
        errors.FileError: a file cannot be read.
    """
    for path in alignment_files(entry):
        for number, line in enumerate(files.read_lines(path), start=1):
            yield line, f"{path}:{number}"


def describe(entry: Entry) -> str:
    """Returns the files of an entry as the configuration names them, for messages."""
    names = (entry.src, entry.tgt, entry.tsv, entry.jsonl, getattr(entry, "mono", None))
    return " + ".join(str(locations.location(name)) for name in names if name is not None)


def new_counters(entry: Entry) -> Counters:
    """Returns counters of lines that are not valid UTF-8, one for each file of an entry."""
    return {path: files.DecodeCounter() for path in corpus_files(entry)}


def read_pairs(entry: Entry) -> Iterator[tuple[str, str]]:
    """Yields source and target of each pair, and warns of invalid UTF-8 at the end.

    Raises:
        errors.DataError: unequal line counts, a malformed line, or no line at all.
        errors.FileError: a file cannot be read.
    """
    counters = new_counters(entry)
    yield from iterate_pairs(entry, counters)
    warn_of_invalid({str(path): counter.num_invalid for path, counter in counters.items()})


def warn_of_invalid(numbers: Mapping[str, int]) -> None:
    """Logs how many lines of each file were not valid UTF-8."""
    for name, number in numbers.items():
        if number:
            logger.warning(
                "%s: lines that were not valid UTF-8, whose bad bytes were replaced: %d",
                name,
                number,
            )


def iterate_pairs(entry: Entry, counters: Counters) -> Iterator[tuple[str, str]]:
    """Yields source and target of each pair.

    Args:
        entry: where they come from.
        counters: of `new_counters`.

    Raises:
        errors.DataError: unequal line counts, a malformed line, or no line at all.
        errors.FileError: a file cannot be read.
    """
    is_empty = True
    for pair in _pairs(entry, counters):
        is_empty = False
        yield pair
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
    found = files_by_kind(entry)
    if side in found:
        for path in found[side]:
            yield from files.read_lines(path)
        return
    for src, tgt in _pairs(entry, new_counters(entry)):
        yield src if side == "src" else tgt


def _pairs(entry: Entry, counters: Counters) -> Iterator[tuple[str, str]]:
    found = files_by_kind(entry)
    for path in found.get("tsv", []):
        yield from _tsv_pairs(path, counters)
    for path in found.get("jsonl", []):
        yield from _jsonl_pairs(path, counters)
    for path in found.get("mono", []):
        for line in files.read_lines(path, counters[path]):
            yield line, line
    for src, tgt in zip(found.get("src", []), found.get("tgt", []), strict=True):
        yield from _parallel_pairs(src, tgt, counters)


def _parallel_pairs(
    src_path: Place, tgt_path: Place, counters: Counters
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


def _tsv_pairs(path: Place, counters: Counters) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(files.read_lines(path, counters[path]), start=1):
        columns = line.split("\t")
        if len(columns) != 2:
            raise errors.DataError(
                f"{path}:{number}: wants two columns (given: {len(columns)}). "
                "Each line is source, tab, target. Mend the line or remove it."
            )
        yield columns[0], columns[1]


def _jsonl_pairs(path: Place, counters: Counters) -> Iterator[tuple[str, str]]:
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
