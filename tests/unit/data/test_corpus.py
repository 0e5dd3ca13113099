"""Corpora are tokenised, filtered and counted, and known by their fingerprint."""

import logging
from collections.abc import Sequence

import pytest
import torch

from nmt import errors
from nmt.data import corpus, filters

WIDE = filters.PairFilter(max_src_length=100, max_tgt_length=100, max_length_ratio=99.0)
PAIRS = [("1 2 3", "4"), ("5", "6 7"), ("8 9", "1 1 1")]


class Numbers:
    """A tokenizer for texts that are numbers; adds to each, so that the sides can be told apart."""

    def __init__(self, added: int = 0) -> None:
        self.added = added
        self.sizes: list[int] = []

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        self.sizes.append(len(texts))
        return [[int(word) + self.added for word in text.split()] for text in texts]


def build(
    *entries: Sequence[tuple[str, str]], pair_filter: filters.PairFilter = WIDE
) -> corpus.Corpus:
    named = [(f"entry {number}", pairs) for number, pairs in enumerate(entries)]
    return corpus.build(named, Numbers(), Numbers(100), pair_filter)


def sentences(data: corpus.Corpus) -> list[tuple[list[int], list[int]]]:
    return [(data.src.sentence(index), data.tgt.sentence(index)) for index in range(len(data))]


def test_pairs_are_kept_in_order_each_side_by_its_tokenizer() -> None:
    data = build(PAIRS[:2], PAIRS[2:])
    assert sentences(data) == [
        ([1, 2, 3], [104]),
        ([5], [106, 107]),
        ([8, 9], [101, 101, 101]),
    ]
    assert len(data) == 3
    assert data.entry_sizes == (2, 1)


def test_ids_take_four_bytes_and_lengths_count_eos() -> None:
    data = build(PAIRS)
    assert data.src.lengths.tolist() == [4, 2, 3]
    assert data.tgt.lengths.tolist() == [2, 3, 4]
    assert (data.src.ids.dtype, data.src.begins.dtype) == (torch.int32, torch.int64)


@pytest.mark.parametrize("chunk_pairs", [1, 2, 3, 4])
def test_chunks_of_any_size_give_the_same_corpus(
    monkeypatch: pytest.MonkeyPatch, chunk_pairs: int
) -> None:
    wanted = build(PAIRS)
    monkeypatch.setattr(corpus, "CHUNK_PAIRS", chunk_pairs)
    src, tgt = Numbers(), Numbers(100)
    found = corpus.build([("toy", iter(PAIRS))], src, tgt, WIDE)
    assert sentences(found) == sentences(wanted)
    assert found.fingerprint == wanted.fingerprint
    assert max(src.sizes) <= chunk_pairs
    assert sum(src.sizes) == sum(tgt.sizes) == 3


def test_the_fingerprint_depends_on_the_ids_alone() -> None:
    wanted = build(PAIRS)
    again = corpus.build([("other name", PAIRS)], Numbers(), Numbers(100), WIDE)
    assert again.fingerprint == wanted.fingerprint
    padded = build([*PAIRS[:1], ("", "5"), *PAIRS[1:]])  # what is filtered away does not count
    assert padded.fingerprint == wanted.fingerprint


@pytest.mark.parametrize(
    "pairs",
    [
        [("1 2 4", "4"), *PAIRS[1:]],  # another source token
        [("1 2 3", "5"), *PAIRS[1:]],  # another target token
        [("1 2", "4"), ("3 5", "6 7"), PAIRS[2]],  # another end of a source sentence
        [PAIRS[0], ("5", "6"), ("8 9", "7 1 1 1")],  # another end of a target sentence
        [PAIRS[1], PAIRS[0], PAIRS[2]],  # another order
        [("1 2 3", "6 7"), ("5", "4"), PAIRS[2]],  # targets crossed
        PAIRS[:2],
        [*PAIRS, PAIRS[0]],
    ],
)
def test_other_content_has_another_fingerprint(pairs: list[tuple[str, str]]) -> None:
    assert build(pairs).fingerprint != build(PAIRS).fingerprint


def test_another_tokenizer_or_direction_has_another_fingerprint() -> None:
    one = corpus.build([("toy", PAIRS)], Numbers(), Numbers(), WIDE)
    turned = corpus.build([("toy", [pair[::-1] for pair in PAIRS])], Numbers(), Numbers(), WIDE)
    assert len({build(PAIRS).fingerprint, one.fingerprint, turned.fingerprint}) == 3


def test_what_each_filter_took_is_logged_for_each_entry(caplog: pytest.LogCaptureFixture) -> None:
    narrow = filters.PairFilter(max_src_length=4, max_tgt_length=4, max_length_ratio=1.5)
    first = [("1", "2"), ("", "2"), ("1 2 3 4", "1 2 3"), ("1 2 3", "1"), ("", "")]
    with caplog.at_level(logging.INFO, logger="nmt.data.corpus"):
        data = build(first, [("3", "4")], pair_filter=narrow)
    assert sentences(data) == [([1], [102]), ([3], [104])]
    assert data.entry_sizes == (1, 1)
    assert [record.getMessage() for record in caplog.records] == [
        "entry 0: 5 pairs read, 1 kept; dropped: 2 empty, 1 longer than 4 tokens, "
        "1 with a length ratio above 1.5",
        "entry 1: 1 pairs read, 1 kept; dropped: 0 empty, 0 longer than 4 tokens, "
        "0 with a length ratio above 1.5",
    ]


@pytest.mark.parametrize("pairs", [[], [("", "1")], [("1 2 3 4 5", "1")]])
def test_an_entry_of_which_nothing_is_left_is_named(pairs: list[tuple[str, str]]) -> None:
    narrow = filters.PairFilter(max_src_length=4, max_tgt_length=4, max_length_ratio=9.0)
    with pytest.raises(errors.DataError) as caught:
        build([("1", "2")], pairs, pair_filter=narrow)
    message = str(caught.value)
    assert message.startswith(f"entry 1: no pair is left ({len(pairs)} pairs read, 0 kept;")
    assert "data.max_length" in message
