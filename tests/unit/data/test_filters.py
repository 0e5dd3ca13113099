"""Pairs that cannot be trained on are dropped for one reason each, and counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmt.data import filters

FILTER = filters.PairFilter(max_src_length=10, max_tgt_length=8, max_length_ratio=2.0)


@pytest.mark.parametrize(
    ("src", "tgt", "reason"),
    [
        (0, 3, "empty"),
        (3, 0, "empty"),
        (0, 99, "empty"),
        (9, 7, "kept"),  # EOS makes it 10 and 8
        (10, 7, "too_long"),
        (9, 8, "too_long"),
        (99, 1, "too_long"),
        (7, 3, "kept"),  # 8 is not more than 2 times 4
        (8, 3, "ratio"),
        (1, 3, "kept"),
        (1, 4, "ratio"),
    ],
)
def test_each_pair_has_one_fate(src: int, tgt: int, reason: str) -> None:
    counts = filters.FilterCounts()
    assert FILTER.keeps([7] * src, [7] * tgt, counts) == (reason == "kept")
    assert counts == filters.FilterCounts(**{reason: 1})


@given(lengths=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12))))
def test_every_pair_is_counted_and_what_is_kept_fits(lengths: list[tuple[int, int]]) -> None:
    counts = filters.FilterCounts()
    kept = [
        (src + 1, tgt + 1) for src, tgt in lengths if FILTER.keeps(range(src), range(tgt), counts)
    ]
    assert counts.total == len(lengths)
    assert counts.kept == len(kept)
    assert all(1 < src <= 10 and 1 < tgt <= 8 for src, tgt in kept)
    assert all(max(pair) <= 2 * min(pair) for pair in kept)


def test_the_counts_are_one_line() -> None:
    counts = filters.FilterCounts(kept=28_990, empty=2, too_long=5, ratio=3)
    assert counts.describe(filters.PairFilter(256, 256, 9.0)) == (
        "29,000 pairs read, 28,990 kept; dropped: 2 empty, 5 longer than 256 tokens, "
        "3 with a length ratio above 9"
    )
    line = counts.describe(filters.PairFilter(1024, 100, 1.5))
    assert "5 longer than 1,024 (source) or 100 (target) tokens" in line
    assert "above 1.5" in line
