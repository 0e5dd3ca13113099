"""Subword sampling: cuts a text into other pieces each time, as a function of a seed.

BPE-dropout (Provilkov et al. 2020) for BPE models, sampling of segmentations (Kudo 2018) for unigram
models. SentencePiece samples, too, but salts its random numbers anew in every process, so that no
run could be resumed bit for bit (docs/decisions.md).
"""

import bisect
import dataclasses
import functools
import heapq
import itertools
import math
import random
import re
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

from nmt import errors
from nmt.text import tokenizer

# SentencePiece's numbers for kinds of models and pieces (sentencepiece_model.proto).
UNIGRAM, BPE = 1, 2
NORMAL, USER_DEFINED = 1, 4

# What an unknown character costs in a unigram model, as in SentencePiece.
UNKNOWN_PENALTY = 10.0

# Characters of words whose results are kept, for when they are met again: about 20 MB of BPE, 150 MB of
# unigram lattices. Without spaces whole sentences are words. When it is full, all are dropped.
MEMORY_SIZE = 1 << 19
MIN_CHARACTERS = 8  # that a word counts as: a short one takes room, too

# For each end of a piece the cumulated probabilities of its begins, and these begins.
_Edges = list[tuple[list[float], list[int]]]

WORD_START = re.compile(f"(?={tokenizer.SPACE})")


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


@dataclasses.dataclass(frozen=True)
class _Model:
    """What a SentencePiece model knows: pieces that text is cut into, with their scores."""

    kind: int
    ids: dict[str, int]
    scores: dict[str, float]
    never_cut: tuple[str, ...]

    @classmethod
    def parse(cls, proto: bytes) -> "_Model":
        kind, ids, scores, never_cut = UNIGRAM, {}, {}, []
        number = 0
        for field, value in _fields(proto):
            if field == 1 and isinstance(value, bytes):
                entry = dict(_fields(value))
                piece, score, role = entry[1], entry.get(2, b"\0\0\0\0"), entry.get(3, NORMAL)
                assert isinstance(piece, bytes) and isinstance(score, bytes), "the proto says so"
                text = piece.decode("utf-8")
                if role in {NORMAL, USER_DEFINED}:
                    ids[text] = number
                    scores[text] = struct.unpack("<f", score)[0]
                if role == USER_DEFINED:
                    never_cut.append(text)
                number += 1
            elif field == 2 and isinstance(value, bytes):
                model_type = dict(_fields(value)).get(3, UNIGRAM)
                assert isinstance(model_type, int), "the proto says so"
                kind = model_type
        return cls(kind, ids, scores, tuple(never_cut))


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yields the fields of a message in protobuf's wire format; fixed-width ones as bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while place < len(message):
        field, wire = divmod(varint(), 8)
        if wire == 0:
            yield field, varint()
            continue
        size = {1: 8, 5: 4}[wire] if wire != 2 else varint()
        yield field, message[place : place + size]
        place += size


class SubwordSampler:
    """Draws pieces for texts with the model of a tokenizer."""

    def __init__(
        self, pieces: tokenizer.Tokenizer, *, alpha: float, nbest: int | None = None
    ) -> None:
        """Takes a tokenizer.

        Args:
            pieces: of one side.
            alpha: BPE: the rate at which merges are dropped; unigram: the exponent of the
                probabilities, 0 being uniform.
            nbest: unigram: how many best segmentations of a text are drawn from; None for all.

        Raises:
            errors.ConfigError: the model cuts a text in one way only, or nbest does not fit it.
        """
        self._tokenizer = pieces
        self._alpha = alpha
        self._nbest = nbest
        self._model = _Model.parse(pieces.model_proto())
        if self._model.kind not in {UNIGRAM, BPE}:
            raise errors.ConfigError(
                "tokenizer.sampling: the ready model cuts a text in one way only (it is one of "
                "characters or words). Allowed with it: none."
            )
        if nbest is not None and self._model.kind == BPE:
            raise errors.ConfigError(
                "tokenizer.sampling_nbest: the ready model is one of BPE, which has no list of best "
                "ways. Remove it."
            )
        inside = any(tokenizer.SPACE in piece[1:] for piece in self._model.ids)
        # Pieces that reach over spaces, which some ready models have, leave nothing to be cut at.
        self._words = (lambda text: [text]) if inside else WORD_START.split
        symbols = sorted(self._model.never_cut, key=len, reverse=True)
        self._never_cut = re.compile("|".join(map(re.escape, symbols))) if symbols else None
        self._longest = max(map(len, self._model.ids))
        lowest = min(self._model.scores.values(), default=0.0)
        self._unknown_score = lowest - UNKNOWN_PENALTY
        self._merges = _Memory[tuple[str, tuple[int, ...]], tuple[list[int], int]]()
        self._lattices = _Memory[str, list[tuple[str, _Edges]]]()

    def sample_batch(self, texts: Sequence[str], seed: int) -> list[list[int]]:
        """Returns ids of each text without BOS and EOS; the same texts and seed give the same ids."""
        generator = random.Random(seed)
        return [self._sample(text, generator) for text in texts]

    def _sample(self, text: str, generator: random.Random) -> list[int]:
        if self._nbest is not None:
            return self._one_of_best(text, self._nbest, generator)
        draw = self._drop_merges if self._model.kind == BPE else self._draw_path
        ids: list[int] = []
        for word in self._words(self._tokenizer.normalize(text)):
            if word:
                ids += draw(word, generator)
        unknown = self._tokenizer.vocab.unk_id
        # As in SentencePiece, unknown characters side by side are one unknown piece.
        return [
            key for key, group in itertools.groupby(ids) for _ in (group if key != unknown else "1")
        ]

    def _one_of_best(self, text: str, number: int, generator: random.Random) -> list[int]:
        best = self._tokenizer.best(text, number)
        scores = [self._alpha * sum(map(self._tokenizer.score, ids)) for ids in best]
        highest = max(scores)
        return generator.choices(best, [math.exp(score - highest) for score in scores])[0]

    def _segments(self, text: str) -> Iterator[tuple[str, bool]]:
        """Yields stretches of text, each with whether it is a symbol that is never cut."""
        end = 0
        for match in self._never_cut.finditer(text) if self._never_cut else ():
            if match.start() > end:
                yield text[end : match.start()], False
            yield match[0], True
            end = match.end()
        if end < len(text):
            yield text[end:], False

    def _spell(self, piece: str) -> list[int]:
        """Returns the id of a piece, or of an unknown character those of its bytes, if there are any."""
        found = self._model.ids.get(piece)
        return [found] if found is not None else self._tokenizer.spell(piece)

    def _drop_merges(self, word: str, generator: random.Random) -> list[int]:
        """Returns a word's pieces by BPE, in which each merge that comes up is dropped by chance.

        Which merges are dropped decides the pieces, so both are remembered: the word with `(2,)` is
        that whose third merge is dropped and no other one. How far it is to the next drop is drawn at
        once, and most words come to their end before.
        """
        dropped: tuple[int, ...] = ()
        following = 0
        while True:
            found = self._merges.get((word, dropped))
            if found is None:
                found = self._merged(word, dropped)
                self._merges.keep((word, dropped), found, len(word))
            ids, num_merges = found
            following += self._until_drop(generator)
            if following >= num_merges:
                return ids
            dropped += (following,)
            following += 1

    def _until_drop(self, generator: random.Random) -> int:
        """Returns how many merges happen before one is dropped."""
        if self._alpha >= 1.0:
            return 0
        return int(math.log(1.0 - generator.random()) / math.log1p(-self._alpha))

    def _merged(self, word: str, dropped: tuple[int, ...]) -> tuple[list[int], int]:
        """Returns a word's pieces if the merges with these numbers do not happen, and their number.

        As in SentencePiece, the candidate with the best score is merged first, of equal ones the
        leftmost, and a dropped candidate comes up again only when a neighbour has changed.
        """
        symbols: list[str] = []
        frozen: list[bool] = []
        for segment, is_symbol in self._segments(word):
            parts = [segment] if is_symbol else list(segment)
            symbols += parts
            frozen += [is_symbol] * len(parts)
        before = list(range(-1, len(symbols) - 1))
        after = [*range(1, len(symbols)), -1]
        agenda: list[tuple[float, int, int, int]] = []

        def propose(left: int, right: int) -> None:
            if left < 0 or right < 0 or frozen[left] or frozen[right]:
                return
            score = self._model.scores.get(symbols[left] + symbols[right])
            if score is not None:
                size = len(symbols[left]) + len(symbols[right])
                heapq.heappush(agenda, (-score, left, right, size))

        for left in range(len(symbols) - 1):
            propose(left, left + 1)
        number = 0
        while agenda:
            _, left, right, size = heapq.heappop(agenda)
            lengths = len(symbols[left]), len(symbols[right])
            if 0 in lengths or sum(lengths) != size:
                continue  # one of the two has been merged with another neighbour
            number += 1
            if number - 1 in dropped:
                continue
            symbols[left] += symbols[right]
            symbols[right] = ""
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            propose(before[left], left)
            propose(left, after[left])
        return [token for symbol in symbols if symbol for token in self._spell(symbol)], number

    def _draw_path(self, word: str, generator: random.Random) -> list[int]:
        """Returns a word's pieces, drawn from all segmentations by their probability to the alpha.

        Source: Kudo 2018, section 3.3; forward filtering and backward sampling on the lattice, which
        falls apart at spaces, so that words can be drawn and remembered one by one.
        """
        lattice = self._lattices.get(word)
        if lattice is None:
            lattice = [
                (segment, [] if is_symbol else self._filtered(segment))
                for segment, is_symbol in self._segments(word)
            ]
            self._lattices.keep(word, lattice, len(word))
        ids: list[int] = []
        for segment, edges in lattice:
            end = len(segment) if edges else 0
            pieces = [] if edges else [segment]
            while end:
                bounds, begins = edges[end]
                place = min(bisect.bisect(bounds, generator.random()), len(begins) - 1)
                pieces.append(segment[begins[place] : end])
                end = begins[place]
            for piece in reversed(pieces):
                ids += self._spell(piece)
        return ids

    def _filtered(self, text: str) -> _Edges:
        """Returns for each end of a piece its possible begins and their cumulated probabilities."""
        totals = [0.0]
        edges: _Edges = [([], [])]
        for end in range(1, len(text) + 1):
            scores, begins = [], []
            for begin in range(max(0, end - self._longest), end):
                score = self._model.scores.get(text[begin:end])
                if score is None and begin == end - 1:
                    score = self._unknown_score
                if score is not None:
                    scores.append(totals[begin] + self._alpha * score)
                    begins.append(begin)
            highest = max(scores)
            weights = [math.exp(score - highest) for score in scores]
            total = sum(weights)
            totals.append(highest + math.log(total))
            edges.append(([bound / total for bound in itertools.accumulate(weights)], begins))
        return edges

    def __reduce__(self) -> tuple[Any, ...]:
        # Neither what is remembered nor what the tokenizer knows goes to other processes.
        make = functools.partial(SubwordSampler, alpha=self._alpha, nbest=self._nbest)
        return make, (self._tokenizer,)


class _Memory(Generic[_Key, _Value]):
    """What was made of words before, within `MEMORY_SIZE`."""

    def __init__(self) -> None:
        self._known: dict[_Key, _Value] = {}
        self._size = 0

    def get(self, key: _Key) -> _Value | None:
        return self._known.get(key)

    def keep(self, key: _Key, value: _Value, num_characters: int) -> None:
        self._size += max(num_characters, MIN_CHARACTERS)
        if self._size > MEMORY_SIZE:
            self._known.clear()
            self._size = 0
            return
        self._known[key] = value
