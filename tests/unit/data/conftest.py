"""Corpora of ids in which every token is its own, so that none can be mistaken for another."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch

from nmt.data import corpus

MakeCorpus = Callable[..., corpus.Corpus]


def _side(lengths: Sequence[int], ids: Iterator[int]) -> corpus.Side:
    begins = [0, *itertools.accumulate(length - 1 for length in lengths)]
    tokens = list(itertools.islice(ids, begins[-1]))
    return corpus.Side(torch.tensor(tokens, dtype=torch.int32), torch.tensor(begins))


@pytest.fixture(scope="session")
def make_corpus() -> MakeCorpus:
    """A function from (source, target) lengths, EOS included and at least 2, to a corpus."""

    def make(
        lengths: Sequence[tuple[int, int]], entry_sizes: tuple[int, ...] | None = None
    ) -> corpus.Corpus:
        ids = itertools.count(10)
        src = _side([length for length, _ in lengths], ids)
        tgt = _side([length for _, length in lengths], ids)
        return corpus.Corpus(src, tgt, entry_sizes or (len(lengths),), "")

    return make
