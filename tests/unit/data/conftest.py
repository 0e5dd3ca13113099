"""Corpora of ids in which every token is its own, and of text with a tokenizer and a cache."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from nmt.data import cache, corpus, filler, filters
from nmt.text import sentencepiece_training, tokenizer

MakeCorpus = Callable[..., corpus.Corpus]
WIDE = filters.PairFilter(max_src_length=100, max_tgt_length=100, max_length_ratio=99.0)


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


def _train_tokenizer(folder: Path, kind: str) -> Path:
    lines = [f"the red fox number {number} jumps over lazy dogs" for number in range(40)]
    settings = sentencepiece_training.TokenizerSettings(
        type=kind, vocab_size=90, byte_fallback=False
    )
    tokenizer.build_tokenizers(
        folder, settings, lambda: iter(lines), lambda: iter(lines), shared=True
    )
    return folder


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small BPE tokenizer of both sides."""
    return _train_tokenizer(tmp_path_factory.mktemp("tokenizer") / "bpe", "bpe")


@pytest.fixture
def make_work(tmp_path: Path, tokenizer_dir: Path) -> Callable[..., filler.Work]:
    """A function from the pairs of each entry to the work of a cache in `tmp_path`."""

    def make(
        *entries: Sequence[tuple[str, str]],
        pair_filter: filters.PairFilter = WIDE,
        has_text: bool = False,
        **changes: object,
    ) -> filler.Work:
        found = []
        for number, pairs in enumerate(entries):
            for side, kind in enumerate(("src", "tgt")):
                text = "".join(f"{pair[side]}\n" for pair in pairs)
                (tmp_path / f"{number}.{kind}").write_text(text)
            found.append(
                filler.Entry(
                    src=str(tmp_path / f"{number}.src"), tgt=str(tmp_path / f"{number}.tgt")
                )
            )
        layout = cache.Layout("uint16", has_text)
        work = filler.Work(tmp_path / "cache", tuple(found), tokenizer_dir, pair_filter, layout)
        return dataclasses.replace(work, **changes)

    return make
