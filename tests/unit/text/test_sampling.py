"""Sampling cuts like SentencePiece, but draws the same from the same seed in every process."""

import collections
import copy
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import errors
from nmt.text import sampling, sentencepiece_training, tokenizer

STEMS = ["low", "new", "wid", "mur", "größ", "fall", "sing", "talk"]
WORDS = [stem + end for stem in STEMS for end in ("", "er", "est", "ing", "ed")]
GENERATOR = random.Random(1)
LINES = [" ".join(GENERATOR.choices(WORDS, k=6)) for _ in range(300)]
ODD = ["lower  b@@c newest", "日本 low", "", "   ", "x", "newestlowest b@@cb@@c"]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[True, False], ids=["bytes", "unk"])
def pieces(request: pytest.FixtureRequest, kind: str) -> tokenizer.Tokenizer:
    settings = sentencepiece_training.TokenizerSettings(
        type=kind,
        vocab_size=300 if request.param else 45,
        byte_fallback=request.param,
        user_defined_symbols=("b@@c",),
    )
    model = sentencepiece_training.train(LINES, settings)
    return tokenizer.Tokenizer(model, "toy", lowercase=False)


def sampler(pieces: tokenizer.Tokenizer, alpha: float, **more: int) -> sampling.SubwordSampler:
    return sampling.SubwordSampler(pieces, alpha=alpha, **more)


def test_without_chance_the_pieces_are_those_of_sentencepiece(
    pieces: tokenizer.Tokenizer, kind: str
) -> None:
    # So few merges are dropped, or the best path has so much of the probability.
    alpha = 1e-12 if kind == "bpe" else 1e4
    texts = LINES + ODD
    found, wanted = sampler(pieces, alpha).sample_batch(texts, 1), pieces.encode_batch(texts)
    if kind == "bpe":
        assert found == wanted
    else:  # of equally good paths SentencePiece takes another one
        for ours, theirs in zip(found, wanted, strict=True):
            scores = [sum(map(pieces.score, ids)) for ids in (ours, theirs)]
            assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def test_samples_spell_the_text_and_never_cut_symbols(pieces: tokenizer.Tokenizer) -> None:
    texts = LINES[:50] + ODD
    found = sampler(pieces, 0.3).sample_batch(texts, 1)
    assert found != pieces.encode_batch(texts)
    for ids, text in zip(found, texts, strict=True):
        assert pieces.decode(ids) == pieces.decode(pieces.encode(text))
        symbol = pieces.vocab.pieces.index("b@@c")
        assert ids.count(symbol) == text.count("b@@c")


def test_the_same_seed_draws_the_same_whatever_was_drawn_before(
    pieces: tokenizer.Tokenizer,
) -> None:
    drawn = sampler(pieces, 0.3)
    wanted = drawn.sample_batch(LINES[:40], 7)
    assert drawn.sample_batch(LINES[:40], 8) != wanted
    assert drawn.sample_batch(LINES[:40], 7) == wanted, "though words are remembered"
    assert copy.deepcopy(drawn).sample_batch(LINES[:40], 7) == wanted


def test_a_full_memory_changes_nothing(
    pieces: tokenizer.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sampler(pieces, 0.3).sample_batch(LINES, 7)
    monkeypatch.setattr(sampling, "MEMORY_SIZE", 20)
    assert sampler(pieces, 0.3).sample_batch(LINES, 7) == wanted


def test_other_processes_draw_the_same(tmp_path: Path) -> None:
    settings = sentencepiece_training.TokenizerSettings(vocab_size=45, byte_fallback=False)
    tokenizer.build_tokenizers(
        tmp_path / "t", settings, lambda: iter(LINES), lambda: iter(LINES), shared=True
    )
    program = (
        "import sys, pathlib; from nmt.text import sampling, tokenizer\n"
        "pieces = tokenizer.Tokenizer.load(pathlib.Path(sys.argv[1]), 'src')\n"
        "drawn = sampling.SubwordSampler(pieces, alpha=0.3)\n"
        "print(drawn.sample_batch(sys.argv[2:], 5))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "t", *LINES[:9]],
        env={"PYTHONPATH": str(Path(sampling.__file__).parents[2]), "PYTHONHASHSEED": "3"},
        check=True,
        capture_output=True,
        text=True,
    )
    here = sampler(tokenizer.Tokenizer.load(tmp_path / "t", "src"), 0.3)
    assert done.stdout == f"{here.sample_batch(LINES[:9], 5)}\n"


@pytest.mark.parametrize("pieces", [False], indirect=True)
@pytest.mark.parametrize("kind", ["bpe"], indirect=True)
def test_bpe_drops_merges_at_the_rate(pieces: tokenizer.Tokenizer) -> None:
    # A word of one piece: with all of its merges kept at (1 - alpha) each, it stays whole at
    # (1 - alpha) ** merges. A dropped merge may come up again beside a new neighbour, which makes up
    # for a little.
    piece = max((p for p in pieces.vocab.pieces if p.startswith(tokenizer.SPACE)), key=len)
    word = piece[1:]
    assert len(word) >= 3
    assert len(pieces.encode(word)) == 1
    drawn = sampler(pieces, 0.2)
    _, num_merges = drawn._merged(piece, ())
    found = drawn.sample_batch([word] * 20_000, 1)
    share = sum(len(ids) == 1 for ids in found) / len(found)
    assert 0.8**num_merges - 0.01 < share < 0.8**num_merges + 0.1
    all_dropped = sampler(pieces, 1.0).sample_batch([word] * 50, 1)
    assert {len(ids) for ids in all_dropped} == {len(piece)}


@pytest.mark.parametrize("nbest", [None, 4])
@pytest.mark.parametrize("pieces", [False], indirect=True)
@pytest.mark.parametrize("kind", ["unigram"], indirect=True)
def test_unigram_draws_each_way_by_its_probability(
    pieces: tokenizer.Tokenizer, nbest: int | None
) -> None:
    alpha = 0.5
    ways = pieces.best("low", 512 if nbest is None else nbest)
    weights = {tuple(ids): math.exp(alpha * sum(map(pieces.score, ids))) for ids in ways}
    total = sum(weights.values())
    drawn = sampling.SubwordSampler(pieces, alpha=alpha, nbest=nbest)
    found = collections.Counter(map(tuple, drawn.sample_batch(["low"] * 20_000, 1)))
    assert set(found) <= set(weights)
    for ids, weight in weights.items():
        assert found[ids] / 20_000 == pytest.approx(weight / total, abs=0.015)


@pytest.mark.parametrize("kind", ["char", "word"], indirect=True)
def test_models_with_one_way_are_refused(kind: str) -> None:
    settings = sentencepiece_training.TokenizerSettings(type=kind, byte_fallback=False)
    model = sentencepiece_training.train(LINES, settings)
    with pytest.raises(errors.ConfigError, match=r"tokenizer\.sampling: .* one way only"):
        sampler(tokenizer.Tokenizer(model, "toy", lowercase=False), 0.1)


def test_best_ways_are_for_unigram_models() -> None:
    settings = sentencepiece_training.TokenizerSettings(vocab_size=45, byte_fallback=False)
    pieces = tokenizer.Tokenizer(
        sentencepiece_training.train(LINES, settings), "toy", lowercase=False
    )
    with pytest.raises(errors.ConfigError, match=r"tokenizer\.sampling_nbest"):
        sampler(pieces, 0.1, nbest=4)


def test_long_words_do_not_fill_the_memory(
    pieces: tokenizer.Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "MEMORY_SIZE", 500)
    drawn = sampler(pieces, 0.3)
    drawn.sample_batch([line.replace(" ", "") * 5 for line in LINES[:40]], 7)
    for memory in (drawn._merges, drawn._lattices):
        assert sum(len(str(key)) for key in memory._known) <= 1000
