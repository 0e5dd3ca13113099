"""What a token cache says about a training corpus: pairs, lengths, vocabulary cover."""

import array
import dataclasses
import itertools
from pathlib import Path

from nmt.data import cache, readers


@dataclasses.dataclass(frozen=True)
class SideStatistics:
    """One language of a corpus.

    Attributes:
        num_tokens: without EOS.
        mean_length: of a sentence.
        longest: sentence in tokens.
        num_used: pieces of the vocabulary that occur.
        unknown: share of the tokens that are the unknown piece.
    """

    num_tokens: int
    mean_length: float
    longest: int
    num_used: int
    unknown: float


@dataclasses.dataclass(frozen=True)
class Statistics:
    """A training corpus as far as it is tokenised.

    Attributes:
        counts: what filters did, by what: read, kept, dropped.
        sides: src and tgt.
        is_complete: whether all of it is there.
    """

    counts: dict[str, int]
    sides: dict[readers.Side, SideStatistics]
    is_complete: bool


def of_cache(folder: Path, unknown: dict[readers.Side, int]) -> Statistics | None:
    """Returns the statistics of a cache; None where there is none that can be read.

    Args:
        folder: of the cache.
        unknown: the id of the unknown piece of each side.
    """
    blocks, _ = cache.read_journal(folder)
    if not blocks:
        return None
    counts: dict[str, int] = {}
    for block in blocks:
        if block.ends_entry and not block.is_complete:
            for name, value in block.counts.items():
                counts[name] = counts.get(name, 0) + value
    try:
        sides = {side: _side(folder, side, blocks[-1], unknown[side]) for side in cache.SIDES}
    except (OSError, ValueError, KeyError):
        return None
    return Statistics(counts, sides, blocks[-1].is_complete)


def _side(folder: Path, side: readers.Side, last: cache.Block, unknown: int) -> SideStatistics:
    begins = _numbers(folder / f"{side}.begins", "q", last.sizes[f"{side}.begins"])
    size = last.sizes[f"{side}.ids"]
    # The type of the ids is the one whose size fits.
    code = "H" if begins[-1] * 2 == size else "i"
    ids = _numbers(folder / f"{side}.ids", code, size)
    lengths = [end - begin for begin, end in itertools.pairwise(begins)]
    return SideStatistics(
        len(ids),
        len(ids) / max(len(lengths), 1),
        max(lengths, default=0),
        len(set(ids)),
        ids.count(unknown) / max(len(ids), 1),
    )


def _numbers(path: Path, code: str, size: int) -> "array.array[int]":
    found = array.array(code)
    with path.open("rb") as stream:
        content = stream.read(size)
    if len(content) < size:
        raise ValueError("it is torn")
    found.frombytes(content)
    return found
