"""What a shortlist learns, and what it says of itself."""

import random

import pytest
import torch

from nmt.config import schema
from nmt.inference import scorer, shortlists, translator
from nmt.text import vocab

VOCAB = vocab.Vocab(tuple(f"p{i}" for i in range(60)), unk_id=0, bos_id=1, eos_id=2, pad_id=3)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(shortlists, "NUM_ALWAYS", 2)
    monkeypatch.setattr(shortlists, "NUM_CANDIDATES", 3)
    monkeypatch.setattr(shortlists, "CHUNK_PAIRS", 7)


def _pairs(count=200):
    """Token s is translated by s + 20; 55 and 56 stand in every target, which co-occurs with all."""
    generator = random.Random(1)
    pairs = []
    for _ in range(count):
        src = [generator.randrange(10, 30) for _ in range(generator.randint(1, 6))]
        pairs.append((src, [token + 20 for token in reversed(src)] + [55, 56, 55]))
    return pairs


def test_the_right_translation_is_among_the_few(small):
    found = shortlists.learn(_pairs(), VOCAB, VOCAB)
    assert found.always.tolist() == [0, 1, 2, 3, 55, 56]
    assert found.candidates.shape == (60, 3)
    for source in range(10, 30):
        assert source + 20 in found.candidates[source].tolist()
    assert set(found.candidates[40:].flatten().tolist()) == {VOCAB.eos_id}  # never seen


def test_model_1_finds_what_counting_does_not(small):
    """Two tokens that always come together: only pairs in which one is alone tell them apart."""
    pairs = [([10, 11], [30, 31])] * 8 + [([10], [30])] * 2
    keys, probabilities = shortlists._model_1(pairs, 60)
    table = dict(zip(keys.tolist(), probabilities.tolist(), strict=True))
    assert table[11 * 60 + 31] > 0.6 > table[11 * 60 + 30]
    for source in (10, 11):
        total = sum(p for key, p in table.items() if key // 60 == source)
        assert total == pytest.approx(1.0, abs=1e-5)


def test_a_sentence_may_use_what_its_own_tokens_suggest(small):
    found = shortlists.learn(_pairs(), VOCAB, VOCAB)
    allowed = found.allowed(torch.tensor([[10, 11, 2], [12, 2, 3]]))
    assert allowed[:, [0, 1, 2, 3, 55, 56]].all()
    assert allowed[0, 30] and allowed[0, 31] and allowed[1, 32]
    alone = found.allowed(torch.tensor([[12, 2]]))
    assert torch.equal(allowed[1:], alone)
    assert 7 <= int(alone.sum()) <= 9


def test_coverage_is_the_share_of_tokens_that_can_be_produced(small):
    found = shortlists.learn(_pairs(), VOCAB, VOCAB)
    assert found.coverage(_pairs()) == 1.0
    assert found.coverage([([10], [30, 55, 49, 30])]) == pytest.approx(0.75)


def test_long_and_empty_pairs_are_left_out(small):
    odd = [([], [40]), ([12], []), ([13] * 61, [41]), ([13], [42] * 61)]
    found = shortlists.learn(_pairs() + odd, VOCAB, VOCAB)
    assert torch.equal(found.candidates, shortlists.learn(_pairs(), VOCAB, VOCAB).candidates)


def test_nothing_to_learn_from_allows_the_usual_tokens_only(small):
    found = shortlists.learn([], VOCAB, VOCAB)
    assert int(found.allowed(torch.tensor([[10, 2]])).sum()) >= 4


def test_what_is_stored_is_what_comes_back(small):
    found = shortlists.learn(_pairs(), VOCAB, VOCAB)
    again = shortlists.Shortlist.from_tensors(found.tensors())
    src = torch.tensor([[10, 11, 2]])
    assert torch.equal(again.allowed(src), found.allowed(src))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_what_a_shortlist_finds_has_the_scores_of_the_whole_vocabulary(
    make_model, texts, arithmetic, corpus, alpha
):
    model = make_model("transformer")
    decoding = schema.DecodingConfig(beam_size=4, max_length=20, length_penalty=alpha)
    candidates = torch.randint(4, 310, (310, 12), generator=torch.Generator().manual_seed(3))
    few = shortlists.Shortlist(torch.arange(10), candidates, 310)
    machine = translator.Translator(model, texts, decoding, arithmetic, num_best=4, shortlist=few)
    judge = scorer.Scorer(model, texts, decoding, arithmetic)
    for line, found in zip(corpus[:8], machine.translate(corpus[:8]), strict=True):
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
        sources = [texts.src.encode(line)] * len(found)
        whole = judge.score_ids(sources, [one.tokens for one in found])
        assert scores == pytest.approx([pair.score for pair in whole], abs=1e-9)
        assert [one.log_probability for one in found] == pytest.approx(
            [pair.log_probability for pair in whole], abs=1e-9
        )
