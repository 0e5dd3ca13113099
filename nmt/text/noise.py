"""Damages a sentence in the ways of a denoising autoencoder, which learns to restore it.

Source: Lewis et al. 2020 (BART), section 2.2: token masking, token deletion, text infilling, sentence
permutation and document rotation. Here each is a rate of its own and they can be mixed. A unit is a
word, all of its pieces, or a single piece.
"""

import math
import random
from collections.abc import Sequence
from typing import Protocol

from nmt.text import boundaries, tokenizer, vocab

# What ends a sentence before a space, and what ends it anyway.
_ENDS = (".", "!", "?")
_UNSPACED_ENDS = ("\u3002", "\uff01", "\uff1f")
# What normalisation (NFKC) makes of the last two.
_NARROW_ENDS = ("!", "?")
# What still belongs to a sentence behind its end.
_CLOSERS = ("\u300d", "\u300f", "\uff09", ")", "\u3011", "\u300b", "\u201d", "\u2019", "!", "?")

Units = list[list[int]]


class Settings(Protocol):
    """How much of each kind; see `config.noising.NoiseConfig`, whose names these are."""

    @property
    def permute_rate(self) -> float:
        """Share of texts whose sentences change places."""

    @property
    def rotate_rate(self) -> float:
        """Share of texts that begin elsewhere."""

    @property
    def infill_rate(self) -> float:
        """Share of units in spans of which each is one mask."""

    @property
    def span_length(self) -> float:
        """Mean length of such a span, in units."""

    @property
    def mask_rate(self) -> float:
        """Share of units in whose place a mask stands."""

    @property
    def delete_rate(self) -> float:
        """Share of units that are left out."""

    @property
    def unit(self) -> str:
        """`words` or `pieces`."""


class Noise:
    """Damages ids of one vocabulary; what it draws comes from the generator that it is given."""

    def __init__(self, pieces: vocab.Vocab, mask_id: int, settings: Settings) -> None:
        """Takes the vocabulary.

        Args:
            pieces: of the source side.
            mask_id: the piece that stands for what is masked.
            settings: how much of each kind.
        """
        self._mask = mask_id
        self._settings = settings
        self._begins_word = [piece.startswith(tokenizer.SPACE) for piece in pieces.pieces]
        self._ends = [piece.endswith(_ENDS) for piece in pieces.pieces]
        self._ends_unspaced = [piece.endswith(_UNSPACED_ENDS) for piece in pieces.pieces]
        self._ends_narrow = [piece.endswith(_NARROW_ENDS) for piece in pieces.pieces]
        self._is_unspaced = [boundaries.is_unspaced(piece[:1] or " ") for piece in pieces.pieces]
        self._closes = [piece.startswith(_CLOSERS) for piece in pieces.pieces]

    def apply(self, ids: Sequence[int], generator: random.Random) -> list[int]:
        """Returns a damaged copy of a sentence, at least one piece long.

        Args:
            ids: without BOS, EOS and tags; not empty.
            generator: where all chance comes from.
        """
        settings = self._settings
        if settings.permute_rate and generator.random() < settings.permute_rate:
            ids = self._permuted(ids, generator)
        units = self._units(ids)
        if settings.rotate_rate and generator.random() < settings.rotate_rate:
            begin = generator.randrange(len(units))
            units = units[begin:] + units[:begin]
        if settings.infill_rate:
            units = self._infilled(units, generator)
        if settings.mask_rate:
            units = [
                [self._mask] if generator.random() < settings.mask_rate else unit for unit in units
            ]
        if settings.delete_rate:
            kept = [unit for unit in units if generator.random() >= settings.delete_rate]
            # Something has to be left to read.
            units = kept or [units[generator.randrange(len(units))]]
        return [token for unit in units for token in unit]

    def _units(self, ids: Sequence[int]) -> Units:
        if self._settings.unit == "pieces":
            return [[token] for token in ids]
        units: Units = []
        for token in ids:
            if self._begins_word[token] or not units:
                units.append([token])
            else:
                units[-1].append(token)
        return units

    def _permuted(self, ids: Sequence[int], generator: random.Random) -> list[int]:
        """Returns the sentences of a text in random order."""
        sentences: list[list[int]] = [[]]
        for place, token in enumerate(ids):
            sentences[-1].append(token)
            if place + 1 < len(ids) and self._is_end(token, ids[place + 1]):
                sentences.append([])
        generator.shuffle(sentences)
        return [token for sentence in sentences for token in sentence]

    def _is_end(self, last: int, following: int) -> bool:
        if self._begins_word[following]:
            return self._ends[last] or self._ends_unspaced[last]
        if self._closes[following]:
            return False
        return self._ends_unspaced[last] or (
            self._ends_narrow[last] and self._is_unspaced[following]
        )

    def _infilled(self, units: Units, generator: random.Random) -> Units:
        """Returns units with spans that one mask each stands for, and masks in between.

        Spans are drawn until they cover as many units as the rate asks for; where they lie is any
        arrangement that keeps them apart or side by side, all equally likely.
        """
        left = _rounded(len(units) * self._settings.infill_rate, generator)
        lengths, num_inserted = [], 0
        while left:
            length = min(_poisson(self._settings.span_length, generator), left)
            if length:
                lengths.append(length)
                left -= length
            else:
                num_inserted += 1
        num_places = len(units) - sum(lengths) + len(lengths)
        # Each span takes one place, each other unit one.
        starts = set(generator.sample(range(num_places), len(lengths)))
        generator.shuffle(lengths)  # the last one was cut, and may be anywhere
        found: Units = []
        begin, spans = 0, iter(lengths)
        for place in range(num_places):
            if place in starts:
                found.append([self._mask])
                begin += next(spans)
            else:
                found.append(units[begin])
                begin += 1
        for _ in range(num_inserted):
            found.insert(generator.randrange(len(found) + 1), [self._mask])
        return found


def _rounded(number: float, generator: random.Random) -> int:
    """Returns a whole number beside this one, whose mean it is: 1.2 is 1 four times of five."""
    whole = math.floor(number)
    return whole + (generator.random() < number - whole)


def _poisson(mean: float, generator: random.Random) -> int:
    """Returns a draw from a Poisson distribution (Knuth 1969, section 3.4.1)."""
    limit, product, number = math.exp(-mean), generator.random(), 0
    while product > limit:
        product *= generator.random()
        number += 1
    return number
