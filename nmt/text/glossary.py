"""Terms and how they are to be translated, and text that is not to be.

A file of lines `source term TAB target term`. An empty target, or the same text, leaves the term as it
is. A term is found where it stands as it is written, case included, and is no part of a longer word. In
scripts that write no spaces between words, a term is found wherever it stands. Text that a pattern
matches, such as placeholders or what is between tags, stays letter by letter.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from nmt import errors
from nmt.runtime import files
from nmt.text import boundaries


class Glossary:
    """Source terms with their translations, and patterns of what is kept."""

    def __init__(self, terms: dict[str, str], keep: Sequence[str] = ()) -> None:
        """Takes what there is to find.

        Args:
            terms: the target term of each source term.
            keep: regular expressions; of one with groups the text of the first group that matched is
                kept, else all that matched.

        Raises:
            errors.UsageError: a pattern is no regular expression.
        """
        self._terms = dict(terms)
        self._keep = [_compiled(pattern) for pattern in keep]
        lengths: dict[str, set[int]] = {}
        for term in terms:
            lengths.setdefault(term[0], set()).add(len(term))
        # Of terms that begin at the same place the longest one counts.
        self._lengths = {first: sorted(own, reverse=True) for first, own in lengths.items()}

    @classmethod
    def read(cls, path: Path, keep: Sequence[str] = ()) -> "Glossary":
        """Reads a file.

        Args:
            path: of the file.
            keep: patterns; see `Glossary`.

        Raises:
            errors.UsageError: a pattern is no regular expression.
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
        return cls(terms, keep)

    def targets(self, text: str) -> tuple[str, ...]:
        """Returns the target terms for a source text, in the order of the source, each as often.

        Terms in what is kept do not count.
        """
        kept = self._kept(text)
        found = []
        place = 0
        while place < len(text):
            if place in kept:
                wanted, place = kept[place]
                found.append(wanted)
                continue
            term = self._term_at(text, place)
            if term is not None:
                found.append(self._terms[term])
            place += len(term or text[place])
        return tuple(found)

    def _kept(self, text: str) -> dict[int, tuple[str, int]]:
        """Returns what is kept of a text: from where each match begins, what it keeps and where it ends.

        What overlaps with an earlier match is found by the place that is read next.
        """
        found: dict[int, tuple[str, int]] = {}
        for pattern in reversed(self._keep):
            for match in pattern.finditer(text):
                wanted = match[_first_group(match)]
                if wanted.strip() and match.end() > match.start():
                    found[match.start()] = (wanted, match.end())
        return found

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


def _compiled(pattern: str) -> "re.Pattern[str]":
    try:
        return re.compile(pattern)
    except re.error as error:
        raise errors.UsageError(
            f"--keep: is no regular expression ({error}) (given: {pattern!r})."
        ) from error


def _first_group(match: "re.Match[str]") -> int:
    """Returns the number of the first group that took part in a match; 0, which is all, if none did."""
    groups = enumerate(match.groups(), start=1)
    return next((number for number, text in groups if text is not None), 0)


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
