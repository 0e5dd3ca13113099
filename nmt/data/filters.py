"""Which training pairs are kept, and how many each filter took."""

import dataclasses
from collections.abc import Sized


@dataclasses.dataclass
class FilterCounts:
    """How many pairs met which fate.

    Attributes:
        kept: pairs that passed.
        empty: a side has no token.
        too_long: a side is longer than its limit.
        ratio: one side is too many times longer than the other.
    """

    kept: int = 0
    empty: int = 0
    too_long: int = 0
    ratio: int = 0

    @property
    def total(self) -> int:
        """All pairs that were counted."""
        return self.kept + self.empty + self.too_long + self.ratio

    def describe(self, pair_filter: "PairFilter") -> str:
        """Returns the counts in one line."""
        longest = f"{pair_filter.max_src_length:,}"
        if pair_filter.max_tgt_length != pair_filter.max_src_length:
            longest += f" (source) or {pair_filter.max_tgt_length:,} (target)"
        return (
            f"{self.total:,} pairs read, {self.kept:,} kept; dropped: {self.empty:,} empty, "
            f"{self.too_long:,} longer than {longest} tokens, "
            f"{self.ratio:,} with a length ratio above {pair_filter.max_length_ratio:g}"
        )


@dataclasses.dataclass(frozen=True)
class PairFilter:
    """Limits on tokenised pairs; lengths in tokens, EOS included.

    Attributes:
        max_src_length: longest source.
        max_tgt_length: longest target.
        max_length_ratio: how many times longer one side may be.
    """

    max_src_length: int
    max_tgt_length: int
    max_length_ratio: float

    def keeps(self, src_ids: Sized, tgt_ids: Sized, counts: FilterCounts) -> bool:
        """Returns whether a pair is kept, and counts it.

        Args:
            src_ids: ids without EOS.
            tgt_ids: ids without EOS.
            counts: where the pair is counted.
        """
        if not len(src_ids) or not len(tgt_ids):
            counts.empty += 1
            return False
        src_length, tgt_length = len(src_ids) + 1, len(tgt_ids) + 1
        if src_length > self.max_src_length or tgt_length > self.max_tgt_length:
            counts.too_long += 1
            return False
        shorter, longer = sorted((src_length, tgt_length))
        if longer > shorter * self.max_length_ratio:
            counts.ratio += 1
            return False
        counts.kept += 1
        return True
