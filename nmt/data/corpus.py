"""Tokenised sentence pairs: two flat tensors of ids and where each sentence begins.

`Corpus` holds them in memory; `MappedCorpus` maps the files of a token cache, which may still grow.
"""

import dataclasses
import itertools
import logging
import math
import mmap
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from nmt import errors
from nmt.data import cache, filler, readers
from nmt.runtime import files, locations

logger = logging.getLogger(__name__)

# Corpora with no more text than this are tokenised before training: in about the time that a process
# of its own would need to start and to come to the end of the first window.
SMALL_TEXT_BYTES = 8 << 20

# Seconds between two looks at the journal while there is nothing to train on.
POLL_SECONDS = 0.02

_DTYPES = {
    "uint16": torch.uint16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
}


@dataclasses.dataclass(frozen=True)
class Side:
    """One language of a corpus.

    Attributes:
        ids: int32 or uint16, all sentences behind one another, without BOS and EOS.
        begins: int64 [P + 1], where each begins, and the end.
        text: uint8, the UTF-8 of all texts behind one another, or None.
        text_begins: int64 [P + 1], where each begins, and the end, or None.
    """

    ids: torch.Tensor
    begins: torch.Tensor
    text: torch.Tensor | None = None
    text_begins: torch.Tensor | None = None

    def lengths_of(self, indices: torch.Tensor) -> torch.Tensor:
        """Returns the lengths of sentences in tokens, EOS included, as everywhere.

        Args:
            indices: int64, any shape.
        """
        return self.begins[indices + 1] - self.begins[indices] + 1

    def sentence(self, index: int) -> list[int]:
        """Returns the ids of one sentence."""
        ids: list[int] = self.ids[self.begins[index] : self.begins[index + 1]].tolist()
        return ids

    def texts(self, indices: torch.Tensor) -> list[str]:
        """Returns the texts of sentences; there are texts only for subword sampling."""
        assert self.text is not None and self.text_begins is not None, "the cache keeps the texts"
        begins = self.text_begins[indices].tolist()
        ends = self.text_begins[indices + 1].tolist()
        return [
            bytes(self.text[begin:end].tolist()).decode("utf-8")
            for begin, end in zip(begins, ends, strict=True)
        ]


class Data(Protocol):
    """What plans and batches need of a corpus, all of which may not be there yet."""

    @property
    def src(self) -> Side:
        """The source side of the pairs that are there."""

    @property
    def tgt(self) -> Side:
        """The target side of the pairs that are there."""

    @property
    def links(self) -> Side | None:
        """The aligned pieces of the pairs that are there (`cache.link`), or None if nobody asked."""

    @property
    def entry_sizes(self) -> tuple[int, ...]:
        """Pairs from each corpus entry, in order; waits until all are there."""

    def entries_of(self, indices: torch.Tensor) -> list[int]:
        """Returns the number of the corpus entry of each of these pairs, which are there."""

    @property
    def is_complete(self) -> bool:
        """Whether all pairs are there."""

    @property
    def share(self) -> float:
        """About which share of the corpus is there, above 0 and at most 1."""

    def wait(self, end: int) -> int:
        """Returns how many of the first `end` pairs the corpus has, once that is known.

        Args:
            end: a number of pairs.
        """


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Sentence pairs in memory.

    Attributes:
        src: the source side.
        tgt: the target side.
        entry_sizes: pairs from each corpus entry, in order.
        fingerprint: another corpus or tokenizer has another one.
        links: the aligned pieces, or None.
    """

    src: Side
    tgt: Side
    entry_sizes: tuple[int, ...]
    fingerprint: str
    links: Side | None = None

    def __len__(self) -> int:
        return self.src.begins.numel() - 1

    def entries_of(self, indices: torch.Tensor) -> list[int]:
        """Returns the number of the corpus entry of each of these pairs."""
        return _places(list(itertools.accumulate(self.entry_sizes)), indices)

    @property
    def is_complete(self) -> bool:
        """Whether all pairs are there."""
        return True

    @property
    def share(self) -> float:
        """Which share of the corpus is there."""
        return 1.0

    def wait(self, end: int) -> int:
        """Returns how many of the first `end` pairs the corpus has."""
        return min(end, len(self))


class MappedCorpus:
    """The pairs of a token cache, mapped into memory; new ones are found as they are written.

    A copy in another process (through pickle) maps the same files and never fills them.

    Attributes:
        fingerprint: the key of the cache.
    """

    def __init__(self, work: filler.Work, fingerprint: str, process: filler.Filler | None) -> None:
        """Takes a cache.

        Args:
            work: what it is made from.
            fingerprint: its key.
            process: what fills it, or None if it is complete or filled by someone else.
        """
        self.fingerprint = fingerprint
        self._work = work
        self._process = process
        self._text_bytes = 0
        self._offset = 0
        self._last = cache.Block()
        self._entry_ends: list[int] = []
        self._sides: dict[str, Side] = {}
        self._logs = True
        self._refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None, "_sides": {}, "_logs": False}

    def __len__(self) -> int:
        """Returns the number of pairs that are there."""
        return self._last.num_pairs

    @property
    def is_complete(self) -> bool:
        """Whether all pairs are there."""
        return self._last.is_complete

    @property
    def src(self) -> Side:
        """The source side of the pairs that are there."""
        return self._side("src")

    @property
    def tgt(self) -> Side:
        """The target side of the pairs that are there."""
        return self._side("tgt")

    @property
    def links(self) -> Side | None:
        """The aligned pieces of the pairs that are there, or None."""
        return self._side("links") if self._work.layout.has_links else None

    @property
    def entry_sizes(self) -> tuple[int, ...]:
        """Pairs from each corpus entry, in order; waits until all are there."""
        self._wait(math.inf)
        ends = self._entry_ends
        return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))

    def entries_of(self, indices: torch.Tensor) -> list[int]:
        """Returns the number of the corpus entry of each of these pairs, which are there."""
        return _places(self._entry_ends, indices)

    @property
    def share(self) -> float:
        """About which share of the corpus is there, by the size of its files."""
        if self.is_complete:
            return 1.0
        if not self._text_bytes:
            self._text_bytes = sum(
                # A text in one language is both sides.
                (2 if entry.mono is not None else 1) * locations.text_size(path)
                for entry in self._work.entries
                for path in readers.corpus_files(entry)
            )
        return min(max(self._last.characters, 1) / max(self._text_bytes, 1), 1.0)

    def wait(self, end: int) -> int:
        """Returns how many of the first `end` pairs the corpus has, once that is known.

        Raises:
            errors.NMTError: what fills the cache has failed or was killed.
        """
        self._wait(end)
        return min(end, len(self))

    def close(self) -> None:
        """Ends the process that fills the cache; what is there stays."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _wait(self, end: float) -> None:
        while not self.is_complete and len(self) < end:
            has_ended = self._process is not None and self._process.has_ended()
            self._refresh()
            if not self.is_complete and len(self) < end:
                assert not has_ended, "a process that ends well leaves a complete cache"
                time.sleep(POLL_SECONDS)

    def _refresh(self) -> None:
        """Reads what is new in the journal."""
        blocks, self._offset = cache.read_journal(self._work.folder, self._offset)
        for block in blocks:
            if block.ends_entry and not block.is_complete:
                self._entry_ends.append(block.num_pairs)
                if self._logs:
                    name = readers.describe(self._work.entries[block.entry])
                    readers.warn_of_invalid(block.invalid)
                    logger.info(
                        "%s: %s", name, block.filter_counts().describe(self._work.pair_filter)
                    )
        if blocks:
            self._last = blocks[-1]
            self._sides.clear()

    def _side(self, side: str) -> Side:
        if side not in self._sides:
            names = [name for name in self._work.layout.types if name.startswith(f"{side}.")]
            tensors = {name.removeprefix(f"{side}."): self._map(name) for name in names}
            self._sides[side] = Side(**tensors)
        return self._sides[side]

    def _map(self, name: str) -> torch.Tensor:
        """Returns the content of a file as far as the journal knows it, without reading it."""
        dtype = _DTYPES[self._work.layout.types[name]]
        size = self._last.sizes.get(name, 0)
        if not size:
            return torch.empty(0, dtype=dtype)
        path = self._work.folder / name
        try:
            with path.open("rb") as stream:
                content = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise errors.DataError(
                f"{path}: the token cache has gone or was cut. The same command makes it again."
            ) from error
        with warnings.catch_warnings():
            # That it cannot be written to is just as well.
            warnings.filterwarnings("ignore", "The given buffer is not writable")
            return torch.frombuffer(content, dtype=dtype)


def _places(ends: Sequence[int], indices: torch.Tensor) -> list[int]:
    """Returns for each pair how many entries end before it; the last entry need not have ended."""
    found: list[int] = torch.searchsorted(
        torch.tensor(ends, dtype=torch.int64), indices, right=True
    ).tolist()
    return found


def open_cache(work: filler.Work, fingerprint: str, *, fills: bool = True) -> MappedCorpus:
    """Returns the corpus of a cache, and sees to it that the cache gets filled.

    A small corpus is filled before this returns. A cache that is torn or altered is made again.

    Args:
        work: what the cache is made from.
        fingerprint: its key.
        fills: whether this process is the one of its run that has the cache filled.

    Raises:
        errors.DataError: an entry is malformed, or no pair of it is left.
        errors.FileError: a corpus cannot be read, or the cache not be written.
    """
    files.make_dir(work.folder)
    if not fills:
        return MappedCorpus(work, fingerprint, None)
    blocks, _ = cache.read_journal(work.folder)
    if blocks and not cache.is_intact(work.folder, work.layout, blocks):
        logger.warning("%s: the token cache is torn or altered; it is made again", work.folder)
        cache.remove_torn(work.folder, work.layout)
        blocks, _ = cache.read_journal(work.folder)
    if blocks and blocks[-1].is_complete:
        return MappedCorpus(work, fingerprint, None)
    paths = [path for entry in work.entries for path in readers.corpus_files(entry)]
    if sum(locations.text_size(path) for path in paths) <= SMALL_TEXT_BYTES:
        filler.fill(work)
        return MappedCorpus(work, fingerprint, None)
    logger.info("tokenising the corpus into %s while training begins", work.folder)
    return MappedCorpus(work, fingerprint, filler.Filler(work))


def folder_of(cache_dir: Path, fingerprint: str) -> Path:
    """Returns the folder of a cache."""
    return cache_dir / fingerprint[:16]
