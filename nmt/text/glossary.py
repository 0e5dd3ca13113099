"""Terms and how they are to be translated.

A file of lines `source term TAB target term`. An empty target, or the same text, leaves the term as it
is. A term is found where it stands as it is written, case included, and is no part of a longer word.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from nmt import errors
from nmt.runtime import files


class Glossary:
    """Source terms with their translations."""

    def __init__(self, terms: dict[str, str]) -> None:
        """Takes the target term of each source term; at least one."""
        self._terms = dict(terms)
        # Of terms that begin at the same place the longest one counts.
        choices = "|".join(re.escape(term) for term in sorted(terms, key=len, reverse=True))
        self._pattern = re.compile(rf"(?<!\w)(?:{choices})(?!\w)")

    @classmethod
    def read(cls, path: Path) -> "Glossary":
        """Reads a file.

        Raises:
            errors.DataError: a line is malformed, a term has two translations, or there is none.
            errors.FileError: the file cannot be read.
        """
        return cls(_parse(files.read_lines(path), str(path)))

    def targets(self, text: str) -> tuple[str, ...]:
        """Returns the target terms for a source text, in the order of the source, each as often."""
        return tuple(self._terms[match[0]] for match in self._pattern.finditer(text))


def _parse(lines: Iterable[str], place: str) -> dict[str, str]:
    terms: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        src, *rest = (part.strip() for part in line.split("\t"))
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
