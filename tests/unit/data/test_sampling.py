"""Sampled pieces spell the same text, depend on seed and position alone, and fit the model."""

import dataclasses
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from nmt.data import batches, cache, corpus, filler, filters, plan, sampling
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
    src, tgt = map(sentences, sampler.draw(data, ALL, HERE))
    assert [spoken.decode(ids) for ids in src] == TEXTS
    assert src != sentences(data.src)
    assert tgt == sentences(data.tgt), "the other side stays as it is"
    _, some = sampler.draw(data, torch.tensor([5, 2]), HERE)
    assert sentences(some) == [data.tgt.sentence(5), data.tgt.sentence(2)]


def test_samples_depend_on_seed_position_and_side(
    make_work: MakeWork, pieces: subwords.SubwordSampler
) -> None:
    data = corpus.open_cache(make_work([(text, text) for text in TEXTS], has_text=True), "")

    def drawn(seed: int, side: str, place: plan.Position) -> list[list[int]]:
        sampler = sampling.Sampler(pieces, pieces, WIDE, seed=seed)
        return sentences(sampler.draw(data, ALL, place)[("src", "tgt").index(side)])

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
    assert sentences(sampler.draw(data, ALL, HERE)[0]) == usual
    # One token more than the samples have, EOS included, is room enough.
    all_letters = letters.sample_batch(TEXTS, 1)
    fitting = filters.PairFilter(max(map(len, all_letters)) + 1, longest, 9.0)
    sampler = sampling.Sampler(letters, None, fitting, seed=1)
    assert sentences(sampler.draw(data, ALL, HERE)[0]) == all_letters


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


class Reversed:
    """Damage that can be seen: the text backwards, behind a number that is drawn."""

    def apply(self, ids: Sequence[int], generator: random.Random) -> list[int]:
        return [generator.randrange(1000), *ids[::-1]]


def test_damage_is_for_monolingual_entries_and_spares_tags(
    make_work: MakeWork, letters: subwords.SubwordSampler
) -> None:
    work = make_work(PAIRS[:5], PAIRS[5:], has_text=True)
    found = ("\u2581the", "\u2581fox")
    entries = (work.entries[0], dataclasses.replace(work.entries[1], tags=found))
    work = dataclasses.replace(work, entries=entries, folder=work.folder / "tagged")
    data = corpus.open_cache(work, "")
    tags = tokenizer.Tokenizer.load(work.tokenizer_dir, "src").ids_of(found)
    usual = sentences(data.src)
    assert [ids[:2] == tags for ids in usual] == [False] * 5 + [True] * 7
    assert data.entries_of(torch.tensor([4, 5, 0, 11])) == [0, 1, 0, 1]
    sources = [sampling.Source(), sampling.Source(2, is_mono=True)]

    def drawn(sampled: subwords.SubwordSampler | None, position: plan.Position) -> list[list[int]]:
        sampler = sampling.Sampler(sampled, None, WIDE, seed=1, sources=sources, noise=Reversed())
        src, tgt = sampler.draw(data, ALL, position)
        assert sentences(tgt) == sentences(data.tgt)
        return sentences(src)

    src = drawn(None, HERE)
    assert src[:5] == usual[:5]
    for ids, own in zip(src[5:], usual[5:], strict=True):
        assert ids[:2] + ids[3:] == tags + own[:1:-1]
    assert drawn(None, HERE) == src
    assert drawn(None, plan.Position(1, 8, 1, 4)) != src
    spelled = drawn(letters, HERE)
    assert all(ids[:2] == tags for ids in spelled[5:]), "tags are not cut"
    alone = letters.sample_batch(TEXTS, 1)
    assert [ids[3:] for ids in spelled[5:]] == [ids[::-1] for ids in alone[5:]]


def test_a_text_that_is_still_tokenised_has_its_share_and_its_entry(
    make_work: MakeWork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filler, "BLOCK_PAIRS", 4)
    work = make_work(PAIRS[:4], [])
    path = tmp_path / "mono"
    path.write_text("".join(f"{text}\n" for text in TEXTS[:8]))
    work = dataclasses.replace(work, entries=(work.entries[0], filler.Entry(mono=str(path))))
    filler.fill(work)
    journal = work.folder / cache.JOURNAL
    # Written so far: the pairs, and half of the text.
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:2]))
    data = corpus.MappedCorpus(work, "", None)
    assert len(data) == 8 and not data.is_complete
    assert data.share == pytest.approx(2 / 3, abs=0.05)
    assert data.entries_of(torch.tensor([7, 0, 4, 3])) == [1, 0, 1, 0]
    assert data.src.sentence(5) == data.tgt.sentence(5)
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])
    # While no entry but the first has begun.
    assert corpus.MappedCorpus(work, "", None).entries_of(torch.tensor([2])) == [0]


def test_damage_that_lengthens_is_cut_at_the_limit(make_work: MakeWork) -> None:
    data = corpus.open_cache(make_work(PAIRS), "")
    longest = int(data.src.lengths_of(ALL).max())
    narrow = filters.PairFilter(longest, longest, 9.0)
    sampler = sampling.Sampler(
        None, None, narrow, seed=1, sources=[sampling.Source(0, is_mono=True)], noise=Reversed()
    )
    src, _ = sampler.draw(data, ALL, HERE)
    assert int(src.lengths_of(ALL).max()) == longest


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_have_together_what_one_would_have(
    make_work: MakeWork, spoken: tokenizer.Tokenizer, num_ranks: int
) -> None:
    data = corpus.open_cache(make_work(PAIRS), "")
    sampler = sampling.Sampler(
        None, None, WIDE, seed=1, sources=[sampling.Source(0, is_mono=True)], noise=Reversed()
    )
    collator = batches.Collator(data, spoken.vocab, spoken.vocab, None, sampler)

    def rows(rank: int, number: int) -> list[list[int]]:
        batch = collator.collate(ALL, HERE, rank=rank, num_ranks=number)
        return [
            row[mask].tolist()
            for piece in batch.pieces
            for row, mask in zip(piece.src_BS, piece.src_mask_BS, strict=True)
        ]

    alone = rows(0, 1)
    for rank in range(num_ranks):
        assert rows(rank, num_ranks) == alone[rank::num_ranks]
