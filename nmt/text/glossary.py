"""Terms and how they are to be translated.

A file of lines `source term TAB target term`. An empty target, or the same text, leaves the term as it
is. A term is found where it stands as it is written, case included, and is no part of a longer word. In
scripts that write no spaces between words, a term is found wherever it stands.
"""

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
        lengths: dict[str, set[int]] = {}
        for term in terms:
            lengths.setdefault(term[0], set()).add(len(term))
        # Of terms that begin at the same place the longest one counts.
        self._lengths = {first: sorted(own, reverse=True) for first, own in lengths.items()}

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
        found = []
        place = 0
        while place < len(text):
            term = self._term_at(text, place)
            if term is not None:
                found.append(self._terms[term])
            place += len(term or text[place])
        return tuple(found)

    def _term_at(self, text: str, begin: int) -> str | None:
        """Returns the longest term that stands at a place and is no part of a longer word."""
        for length in self._lengths.get(text[begin], ()):
            end = begin + length
            term = text[begin:end]
            if term in self._terms and not (
                _is_one_word(text[begin - 1 : begin], term[0])
                or _is_one_word(text[end : end + 1], term[-1])
            ):
                return term
        return None


def _is_one_word(outside: str, inside: str) -> bool:
    """Returns whether a word goes on beyond the end of a term.

    Args:
        outside: the character before or behind the term; empty where the text ends.
        inside: that of the term beside it.
    """
    if not outside or boundaries.is_unspaced(inside):
        return False
    return outside == "_" or boundaries.is_letter(outside)


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
