"""Terms and how they are to be translated.

A file of lines `source term TAB target term`. An empty target, or the same text, leaves the term as it
is. A term is found where it stands as it is written, case included, and is no part of a longer word. In
scripts that write no spaces between words, a term is found wherever it stands.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from nmt import errors
from nmt.runtime import files
from nmt.text import boundaries


class Glossary:
    """Source terms with their translations."""

    def __init__(self, terms: dict[str, str]) -> None:
        """Takes the target term of each source term; at least one."""
        self._terms = dict(terms)
        # Of terms that begin at the same place the longest one counts.
        choices = (_bounded(term) for term in sorted(terms, key=len, reverse=True))
        self._pattern = re.compile("|".join(choices))

    @classmethod
    def read(cls, path: Path) -> "Glossary":
        """Reads a file.

        Raises:
            errors.DataError: a line is malformed, a term has two translations, or there is none.
            errors.FileError: the file cannot be read.
        """
        counter = files.DecodeCounter()
        terms = _parse(files.read_lines(path, counter), str(path))
        if counter.num_invalid:
            raise errors.DataError(
                f"{path}: is not UTF-8 (lines: {counter.num_invalid}), so terms would never be found. "
                "Save it as UTF-8."
            )
        return cls(terms)

    def targets(self, text: str) -> tuple[str, ...]:
        """Returns the target terms for a source text, in the order of the source, each as often."""
        return tuple(self._terms[match[0]] for match in self._pattern.finditer(text))


def _bounded(term: str) -> str:
    """Returns a pattern for a term that is no part of a longer word."""
    before, behind = (
        "" if boundaries.is_unspaced(end) else f"{sign}{_part_of_word()})"
        for end, sign in ((term[0], "(?<!"), (term[-1], "(?!"))
    )
    return before + re.escape(term) + behind


@functools.cache
def _part_of_word() -> str:
    """Returns a pattern for a letter, digit, mark or underscore of a script with spaces."""
    unspaced = "".join(f"{chr(first)}-{chr(last)}" for first, last in boundaries.UNSPACED)
    marks = "".join(
        mark
        for mark in map(chr, range(0x300, 0x1E900))
        if unicodedata.category(mark)[0] == "M" and not boundaries.is_unspaced(mark)
    )
    return f"(?:[^\\W{unspaced}]|[{marks}])"


def _parse(lines: Iterable[str], place: str) -> dict[str, str]:
    terms: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        own = line.removeprefix("\ufeff") if number == 1 else line
        if not own.strip():
            continue
        src, *rest = (part.strip() for part in own.split("\t"))
        if not src or len(rest) != 1:
            raise errors.DataError(
                f"{place}:{number}: wants `source term TAB target term` (given: {line[:60]!r}). "
                "An empty target term keeps the source term."
            )
        target = rest[0] or src
        if terms.get(src, target) != target:
            raise errors.DataError(
                f"{place}:{number}: a second translation of {src!r} (given: {target!r}, before: "
                f"{terms[src]!r}). Keep one."
            )
        terms[src] = target
    if not terms:
        raise errors.DataError(f"{place}: holds no terms. Give a line for each term.")
    return terms
