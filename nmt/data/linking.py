"""From word alignments in a file to aligned pieces."""

import itertools
import re
from collections.abc import Mapping, Sequence

from nmt import errors
from nmt.data import cache, readers
from nmt.text import tokenizer, words

# What ends a word for the tools that align: others, such as no-break spaces, stand within one.
_SPACES = re.compile(r"[ \t]+")
_LINK = re.compile(r"([0-9]{1,6})-([0-9]{1,6})")


class Alignments:
    """The alignments of a corpus entry, pair by pair; those of an entry without a file are empty."""

    def __init__(
        self,
        entry: readers.Entry,
        tokenizers: Mapping[readers.Side, tokenizer.Tokenizer],
        *,
        first: int = 0,
    ) -> None:
        """Opens the files.

        Args:
            entry: a corpus entry.
            tokenizers: of both sides.
            first: the pair to begin with, from 0.
        """
        self._entry = entry
        self._has_file = bool(readers.alignment_files(entry))
        self._lines = readers.iterate_links(entry)
        self._tokenizers = tokenizers
        for _ in itertools.islice(self._lines, first):
            pass

    def skip(self) -> None:
        """Passes over the alignment of a pair that is not kept."""
        if self._has_file:
            self._next()

    def links(self, texts: tuple[str, str], ids: tuple[Sequence[int], Sequence[int]]) -> list[int]:
        """Returns the aligned pieces of the next pair, each as `cache.link` makes it, sorted.

        All pieces of a word are aligned with all pieces of the words that it is aligned with.

        Args:
            texts: source and target as they stand in the files.
            ids: of each, without EOS.

        Raises:
            errors.DataError: the line is malformed, names a word that is not there, or is missing.
        """
        if not self._has_file:
            return []
        line, place = self._next()
        if not line.strip():
            return []
        src_owned = self._by_word("src", texts[0], ids[0])
        tgt_owned = self._by_word("tgt", texts[1], ids[1])
        if src_owned is None or tgt_owned is None:
            return []
        found = set()
        for src_word, tgt_word in _word_pairs(line, place, (len(src_owned), len(tgt_owned))):
            found |= {
                cache.link(src, tgt) for src in src_owned[src_word] for tgt in tgt_owned[tgt_word]
            }
        return sorted(found)

    def finish(self) -> None:
        """Checks that no line is left.

        Raises:
            errors.DataError: one is.
        """
        left = next(self._lines, None)
        if left is not None:
            raise errors.DataError(
                f"{left[1]}: has no pair in {readers.describe(self._entry)}. Line n aligns pair n."
            )

    def _by_word(self, side: readers.Side, text: str, ids: Sequence[int]) -> list[list[int]] | None:
        """Returns the places of the pieces of each word of a sentence.

        Words are those of the file, as whoever aligned them counted. Normalising may make several of
        one, at a no-break space in it, or none; where that cannot be told, this is None.
        """
        pieces = self._tokenizers[side].vocab.pieces
        owners = words.words_of([pieces[token] for token in ids])
        counts = [self._num_normalised(side, word) for word in _raw_words(text)]
        if sum(counts) != max(owners, default=-1) + 1:
            return None
        word_of = [word for word, count in enumerate(counts) for _ in range(count)]
        found: list[list[int]] = [[] for _ in counts]
        for place, normalised in enumerate(owners[: cache.MAX_LINKED]):
            if normalised >= 0:
                found[word_of[normalised]].append(place)
        return found

    def _num_normalised(self, side: readers.Side, word: str) -> int:
        """Returns how many words the tokenizer makes of what stands between spaces."""
        if word.isascii() and word.isprintable():
            return 1
        return len(self._tokenizers[side].normalize(word).replace(tokenizer.SPACE, " ").split())

    def _next(self) -> tuple[str, str]:
        found = next(self._lines, None)
        if found is None:
            raise errors.DataError(
                f"{getattr(self._entry, 'alignments', None)}: has fewer lines than "
                f"{readers.describe(self._entry)}. Line n aligns pair n; it may be blank."
            )
        return found


def check(texts: tuple[str, str], line: str, place: str) -> None:
    """Finds out whether a line aligns words of a pair, for which no tokenizer is needed.

    Args:
        texts: source and target as they stand in the files.
        line: their alignment as it is written.
        place: of the line, for messages.

    Raises:
        errors.DataError: it is malformed, or names a word that is not there.
    """
    _word_pairs(line, place, (len(_raw_words(texts[0])), len(_raw_words(texts[1]))))


def _word_pairs(line: str, place: str, num_words: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns source and target word of each link of a line.

    Args:
        line: as it is written.
        place: of the line, for messages.
        num_words: of source and target.

    Raises:
        errors.DataError: see `Alignments.links`.
    """
    found = []
    for text in line.split():
        match = _LINK.fullmatch(text)
        if match is None:
            raise errors.DataError(
                f"{place}: wants pairs of words such as 0-0 1-2 (given: {text[:40]!r})."
            )
        linked = int(match[1]), int(match[2])
        for side, word, num in zip(("source", "target"), linked, num_words, strict=True):
            if word >= num:
                raise errors.DataError(
                    f"{place}: {side} word {word}, counted from 0, is not there: the line has "
                    f"{num} (given: {text}). Words are what stands between spaces."
                )
        found.append(linked)
    return found


def _raw_words(text: str) -> list[str]:
    return [word for word in _SPACES.split(text) if word]
