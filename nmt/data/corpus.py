"""Tokenised sentence pairs in memory: two flat tensors of ids and where each sentence begins."""

import array
import dataclasses
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import torch

from nmt import errors
from nmt.data import filters

logger = logging.getLogger(__name__)

# Pairs that are tokenised in one call: enough for the tokenizer's threads, little enough memory.
CHUNK_PAIRS = 4096


class Tokenizer(Protocol):
    """What a corpus needs of a tokenizer."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each text, without BOS and EOS."""


@dataclasses.dataclass(frozen=True)
class Side:
    """One language of a corpus.

    Attributes:
        ids: int32, all sentences behind one another, without BOS and EOS.
        begins: int64 [P + 1], where each begins, and the end.
    """

    ids: torch.Tensor
    begins: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        """Lengths [P] in tokens, EOS included, as everywhere."""
        return self.begins.diff() + 1

    def sentence(self, index: int) -> list[int]:
        """Returns the ids of one sentence."""
        ids: list[int] = self.ids[self.begins[index] : self.begins[index + 1]].tolist()
        return ids


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentence pairs in ids.

    Attributes:
        src: the source side.
        tgt: the target side.
        entry_sizes: pairs from each corpus entry, in order.
        fingerprint: SHA-256 over all ids and the sizes of the entries; another corpus or tokenizer
            has another one.
    """

    src: Side
    tgt: Side
    entry_sizes: tuple[int, ...]
    fingerprint: str

    def __len__(self) -> int:
        return self.src.begins.numel() - 1


class _SideBuilder:
    def __init__(self) -> None:
        self._ids = array.array("i")
        self._begins = array.array("q", [0])

    def add(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        self._begins.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._begins) - 1

    def digest(self, into: "hashlib._Hash") -> None:
        into.update(self._begins)
        into.update(self._ids)

    def side(self) -> Side:
        ids = torch.frombuffer(self._ids, dtype=torch.int32) if self._ids else torch.empty(0).int()
        return Side(ids, torch.frombuffer(self._begins, dtype=torch.int64))


def build(
    entries: Sequence[tuple[str, Iterable[tuple[str, str]]]],
    src_tokenizer: Tokenizer,
    tgt_tokenizer: Tokenizer,
    pair_filter: filters.PairFilter,
) -> Corpus:
    """Returns the tokenised and filtered pairs, and logs what each filter took.

    Args:
        entries: a name for messages and the text pairs of each corpus entry.
        src_tokenizer: of the source side.
        tgt_tokenizer: of the target side.
        pair_filter: which pairs are kept.

    Raises:
        errors.DataError: no pair of an entry is left.
    """
    src, tgt = _SideBuilder(), _SideBuilder()
    sizes = []
    for name, pairs in entries:
        counts = filters.FilterCounts()
        before = len(src)
        for src_ids, tgt_ids in _encoded(pairs, src_tokenizer, tgt_tokenizer):
            if pair_filter.keeps(src_ids, tgt_ids, counts):
                src.add(src_ids)
                tgt.add(tgt_ids)
        logger.info("%s: %s", name, counts.describe(pair_filter))
        if len(src) == before:
            raise errors.DataError(
                f"{name}: no pair is left ({counts.describe(pair_filter)}). "
                "Check the files, or raise data.max_length and data.max_length_ratio."
            )
        sizes.append(len(src) - before)
    digest = hashlib.sha256()
    src.digest(digest)
    tgt.digest(digest)
    digest.update(repr(sizes).encode())
    return Corpus(src.side(), tgt.side(), tuple(sizes), digest.hexdigest())


def _encoded(
    pairs: Iterable[tuple[str, str]], src_tokenizer: Tokenizer, tgt_tokenizer: Tokenizer
) -> Iterator[tuple[list[int], list[int]]]:
    iterator = iter(pairs)
    while chunk := list(itertools.islice(iterator, CHUNK_PAIRS)):
        src_ids = src_tokenizer.encode_batch([src for src, _ in chunk])
        tgt_ids = tgt_tokenizer.encode_batch([tgt for _, tgt in chunk])
        yield from zip(src_ids, tgt_ids, strict=True)
