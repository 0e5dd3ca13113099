"""Sampled pieces spell the same text, depend on seed and position alone, and fit the model."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt.data import batches, corpus, filler, filters, plan, sampling
from nmt.text import sampling as subwords
from nmt.text import tokenizer

MakeWork = Callable[..., filler.Work]
TEXTS = [f"the red fox number {number} jumps over lazy dogs" for number in range(12)]
PAIRS = list(zip(TEXTS, TEXTS[::-1], strict=True))
ALL = torch.arange(12)
HERE = plan.Position(1, 7, 1, 4)


@pytest.fixture
def pieces(tokenizer_dir: Path) -> subwords.SubwordSampler:
    return subwords.SubwordSampler(tokenizer.Tokenizer.load(tokenizer_dir, "src"), alpha=0.3)


@pytest.fixture
def letters(tokenizer_dir: Path) -> subwords.SubwordSampler:
    """Drops every merge."""
    return subwords.SubwordSampler(tokenizer.Tokenizer.load(tokenizer_dir, "src"), alpha=1.0)


@pytest.fixture
def spoken(tokenizer_dir: Path) -> tokenizer.Tokenizer:
    return tokenizer.Tokenizer.load(tokenizer_dir, "src")


@pytest.fixture
def data(make_work: MakeWork) -> corpus.MappedCorpus:
    return corpus.open_cache(make_work(PAIRS, has_text=True), "")


WIDE = filters.PairFilter(100, 100, 9.0)


def sentences(side: corpus.Side) -> list[list[int]]:
    return [side.sentence(index) for index in range(side.begins.numel() - 1)]


def test_samples_spell_the_same_text_in_other_pieces(
    data: corpus.MappedCorpus, pieces: subwords.SubwordSampler, spoken: tokenizer.Tokenizer
) -> None:
    sampler = sampling.Sampler(pieces, None, WIDE, seed=1)
    src = sentences(sampler.draw(data.src, "src", ALL, HERE))
    assert [spoken.decode(ids) for ids in src] == TEXTS
    assert src != sentences(data.src)
    tgt = sampler.draw(data.tgt, "tgt", ALL, HERE)
    assert sentences(tgt) == sentences(data.tgt), "the other side stays as it is"
    some = sampler.draw(data.tgt, "tgt", torch.tensor([5, 2]), HERE)
    assert sentences(some) == [data.tgt.sentence(5), data.tgt.sentence(2)]


def test_samples_depend_on_seed_position_and_side(
    data: corpus.MappedCorpus, pieces: subwords.SubwordSampler
) -> None:
    def drawn(seed: int, side: str, place: plan.Position) -> list[list[int]]:
        sampler = sampling.Sampler(pieces, pieces, WIDE, seed=seed)
        return sentences(sampler.draw(data.src, side, ALL, place))  # type: ignore[arg-type]

    wanted = drawn(1, "src", HERE)
    others = [
        drawn(2, "src", HERE),
        drawn(1, "tgt", HERE),
        drawn(1, "src", plan.Position(2, 7, 1, 4)),
        drawn(1, "src", plan.Position(1, 8, 1, 4)),
    ]
    assert len({str(found) for found in [wanted, *others]}) == 5
    assert drawn(1, "src", HERE) == wanted, "whatever was drawn before"
    found: list[list[list[int]]] = []
    thread = threading.Thread(target=lambda: found.append(drawn(1, "src", HERE)))
    thread.start()
    thread.join()
    assert found == [wanted], "in any thread"


def test_samples_that_are_too_long_give_way(
    data: corpus.MappedCorpus, letters: subwords.SubwordSampler
) -> None:
    usual = sentences(data.src)
    longest = max(map(len, usual)) + 1
    narrow = filters.PairFilter(longest, longest, 9.0)
    sampler = sampling.Sampler(letters, None, narrow, seed=1)
    assert sentences(sampler.draw(data.src, "src", ALL, HERE)) == usual
    # One token more than the samples have, EOS included, is room enough.
    all_letters = letters.sample_batch(TEXTS, 1)
    fitting = filters.PairFilter(max(map(len, all_letters)) + 1, longest, 9.0)
    sampler = sampling.Sampler(letters, None, fitting, seed=1)
    assert sentences(sampler.draw(data.src, "src", ALL, HERE)) == all_letters


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_sampled_batch_counts_its_real_tokens(
    data: corpus.MappedCorpus,
    pieces: subwords.SubwordSampler,
    spoken: tokenizer.Tokenizer,
    num_ranks: int,
) -> None:
    vocab = spoken.vocab
    sampler = sampling.Sampler(pieces, pieces, WIDE, seed=1)
    collator = batches.Collator(data, vocab, vocab, 150, sampler)
    shares = [
        collator.collate(ALL, HERE, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)
    ]
    found = [piece for share in shares for piece in share.pieces]
    assert len(found) > 2
    assert {share.num_tokens for share in shares} == {sum(len(piece.tgt_out_N) for piece in found)}
    real = sum(int(piece.src_mask_BS.sum()) for piece in found)
    assert {share.num_src_tokens for share in shares} == {real}
    assert shares[0].num_tokens > int(data.tgt.lengths_of(ALL).sum())
    assert all(piece.src_BS.numel() <= 150 for piece in found)
    texts = {
        spoken.decode(row[row_mask].tolist())
        for piece in found
        for row, row_mask in zip(piece.src_BS, piece.src_mask_BS, strict=True)
    }
    assert texts == set(TEXTS)
