"""Forced decoding gives each pair its own log-probability."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from nmt.config import schema
from nmt.inference import scorer, translator
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.search import ensemble

Make = Callable[..., scorer.Scorer]


@pytest.fixture
def make(texts: translator.Texts, arithmetic: devices.Arithmetic) -> Make:
    """A function that makes a scorer from decoding settings."""

    def build(model: seq2seq.Seq2Seq, **decoding: Any) -> scorer.Scorer:
        return scorer.Scorer(model, texts, schema.DecodingConfig(**decoding), arithmetic)

    return build


@torch.no_grad()
def _by_hand(model: seq2seq.Seq2Seq, src_ids: list[int], tgt_ids: list[int]) -> float:
    """The sum over one pair alone, ids with EOS."""
    source = torch.tensor([src_ids])
    states, _ = model(
        source, torch.ones_like(source, dtype=torch.bool), torch.tensor([[1, *tgt_ids[:-1]]])
    )
    logits = model.logits(states)[0]
    chosen = logits[torch.arange(len(tgt_ids)), tgt_ids]
    return float((chosen - logits.logsumexp(-1)).sum())


def test_a_score_is_the_sum_of_log_probabilities_with_end_of_sentence(model, make, texts, corpus):
    src_lines, tgt_lines = corpus[:10], corpus[30:40]
    found = make(model).score(src_lines, tgt_lines)
    for src, tgt, pair in zip(src_lines, tgt_lines, found, strict=True):
        src_ids, tgt_ids = [*texts.src.encode(src), 2], [*texts.tgt.encode(tgt), 2]
        assert pair.log_probability == pytest.approx(_by_hand(model, src_ids, tgt_ids), abs=1e-9)
        assert pair.num_tokens == len(tgt_ids)


@pytest.mark.parametrize(
    "decoding",
    [
        {"coverage_penalty": 0.7},
        {"repetition_penalty": 1.6, "length_penalty": 0.8},
        {"coverage_penalty": 0.3, "repetition_penalty": 1.3, "length_penalty": 1.4},
    ],
)
def test_penalties_of_the_search_are_in_its_score(model, make, texts, arithmetic, corpus, decoding):
    settings = schema.DecodingConfig(beam_size=3, max_length=30, **decoding)
    machine = translator.Translator(model, texts, settings, arithmetic, num_best=3)
    num_pairs = 0
    for line, found in zip(corpus[:12], machine.translate(corpus[:12]), strict=True):
        source = texts.src.encode(line)
        for one in found:
            (pair,) = make(model, **decoding).score_ids([source], [one.tokens])
            assert pair.score == pytest.approx(one.score, abs=1e-6)
            assert pair.log_probability == pytest.approx(one.log_probability, abs=1e-6)
            num_pairs += pair.score != pytest.approx(pair.log_probability, abs=1e-6)
    assert num_pairs > 20


def test_a_pair_is_scored_as_if_it_were_alone(model, make, corpus):
    """float64, each family: batch size, neighbours and order change nothing."""
    src_lines, tgt_lines = corpus[:25], corpus[25:50]
    machine = make(model)
    alone = [machine.score([s], [t])[0] for s, t in zip(src_lines, tgt_lines, strict=True)]
    expected = [pair.log_probability for pair in alone]
    assert len({round(score, 6) for score in expected}) == 25
    order = list(range(25))
    random.Random(0).shuffle(order)
    for batch_tokens in (1, 60, 4096):
        found = make(model, batch_tokens=batch_tokens).score(src_lines, tgt_lines)
        assert [pair.log_probability for pair in found] == pytest.approx(expected)
        assert [pair.num_tokens for pair in found] == [pair.num_tokens for pair in alone]
        turned = make(model, batch_tokens=batch_tokens).score(
            [src_lines[index] for index in order], [tgt_lines[index] for index in order]
        )
        assert [pair.log_probability for pair in turned] == pytest.approx(
            [expected[index] for index in order]
        )


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_the_score_is_the_sum_over_the_length_penalty(rnn, make, corpus, alpha):
    for pair in make(rnn, length_penalty=alpha).score(corpus[:4], corpus[4:8]):
        expected = pair.log_probability / ((5 + pair.num_tokens) / 6) ** alpha
        assert pair.score == pytest.approx(expected)


def test_blank_lines_are_end_of_sentence_alone(model, make):
    found = make(model).score(["", "   "], ["", ""])
    assert [pair.num_tokens for pair in found] == [1, 1]
    expected = _by_hand(model, [2], [2])
    assert [pair.log_probability for pair in found] == pytest.approx([expected] * 2)


def test_nothing_is_scored_as_nothing(rnn, make):
    assert make(rnn).score([], []) == []


def test_sources_are_cut_at_the_limit_as_for_translation(rnn, make, texts, corpus):
    src, tgt = max(corpus, key=len), corpus[4]
    src_ids, tgt_ids = texts.src.encode(src), [*texts.tgt.encode(tgt), 2]
    found = make(rnn, max_src_tokens=5).score([src], [tgt])[0]
    expected = _by_hand(rnn, [*src_ids[:4], 2], tgt_ids)
    assert found.log_probability == pytest.approx(expected, abs=1e-9)
    assert found.num_tokens == len(tgt_ids)


def test_both_sides_are_cut_where_the_model_has_no_more_positions(make_model, make, texts):
    model, line = make_model("cnn"), "z " * 60
    ids = texts.src.encode(line)
    assert len(ids) > 40
    found = make(model).score([line], [line])[0]
    cut = [*ids[:39], 2]
    assert found.num_tokens == 40
    assert found.log_probability == pytest.approx(_by_hand(model, cut, cut), abs=1e-9)


def test_batches_keep_the_budget_of_tokens_on_both_sides(rnn, make, corpus, monkeypatch):
    shapes = []

    def spy(model, src_BS, src_mask_BS, tgt_in_BT, *, with_attention=False):
        shapes.append((*src_BS.shape, tgt_in_BT.shape[1]))
        return forward(model, src_BS, src_mask_BS, tgt_in_BT, with_attention=with_attention)

    forward = seq2seq.Seq2Seq.forward
    monkeypatch.setattr(seq2seq.Seq2Seq, "forward", spy)
    make(rnn, batch_tokens=90).score(corpus[:40], [*corpus[60:80], *["a"] * 20])
    assert sum(rows for rows, _, _ in shapes) == 40
    assert all(rows * max(src, tgt) <= 90 or rows == 1 for rows, src, tgt in shapes)
    assert any(rows > 2 for rows, _, _ in shapes)


@pytest.fixture
def logits_seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the output layer returned, call by call."""
    seen: list[torch.Tensor] = []
    logits = seq2seq.Seq2Seq.logits

    def spy(model, states, shortlist=None):
        seen.append(logits(model, states, shortlist))
        return seen[-1]

    monkeypatch.setattr(seq2seq.Seq2Seq, "logits", spy)
    return seen


def test_scoring_builds_no_graph(model, make, corpus, logits_seen):
    make(model).score(corpus[:2], corpus[2:4])
    assert logits_seen
    assert not any(logits.requires_grad for logits in logits_seen)


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_bf16_products_are_summed_in_float32(make_model, texts, corpus, logits_seen, family):
    """A hundred numbers of eight bits would be off by whole units."""
    arithmetic = devices.inference_arithmetic("bf16", torch.device("cpu"))
    model = make_model(family, dtype=torch.float32)
    machine = scorer.Scorer(model, texts, schema.DecodingConfig(), arithmetic)
    target = max(corpus, key=len)
    (pair,) = machine.score(corpus[:1], [target])
    (logits,) = logits_seen
    assert logits.dtype == torch.bfloat16
    wanted = torch.tensor([*texts.tgt.encode(target), 2])
    total = torch.nn.functional.cross_entropy(logits[0].double(), wanted, reduction="sum")
    assert pair.log_probability == pytest.approx(-float(total), rel=1e-5)


def test_tokens_come_with_their_shares_of_the_sum(model, make, texts, corpus):
    for pair, line in zip(make(model).score(corpus[:6], corpus[6:12]), corpus[6:12], strict=True):
        assert list(pair.tokens) == [*texts.tgt.encode(line), 2]
        assert len(pair.token_log_probabilities) == pair.num_tokens
        assert sum(pair.token_log_probabilities) == pytest.approx(pair.log_probability)


@pytest.mark.parametrize("shares", [None, [0.7, 0.3]])
def test_outputs_have_the_scores_that_search_reports(
    make_model, make, texts, arithmetic, corpus, shares
):
    """Also those of an ensemble of two families, and of lines that are blank or never found."""
    models = [make_model("rnn", 1), make_model("transformer", 2)]
    joined = ensemble.Ensemble(models, shares)
    settings = {"beam_size": 3, "max_length": 20, "length_penalty": 0.6}
    machine = translator.Translator(
        joined, texts, schema.DecodingConfig(**settings), arithmetic, num_best=3
    )
    sources = [*corpus[:12], "", " \t "]
    pairs = [
        (source, found)
        for source, several in zip(sources, machine.translate(sources), strict=True)
        for found in several
        # What search cuts into other pieces than the tokenizer does has another score.
        if texts.tgt.encode(found.text) == list(found.tokens)
    ]
    assert len(pairs) > 8
    found = make(joined, **settings).score_outputs(
        [source for source, _ in pairs], [wanted.text for _, wanted in pairs]
    )
    assert [pair.score for pair in found] == pytest.approx([wanted.score for _, wanted in pairs])
    assert [pair.log_probability for pair in found] == pytest.approx(
        [wanted.log_probability for _, wanted in pairs]
    )
    assert found[-1] == scorer.BLANK


def test_half_a_blank_pair_is_no_blank_pair(rnn, make, corpus):
    found = make(rnn).score_outputs(["", corpus[0], " "], [corpus[1], "", ""])
    assert [pair.num_tokens > 0 for pair in found] == [True, True, False]
    assert found[:2] == make(rnn).score(["", corpus[0]], [corpus[1], ""])


def test_pairs_that_are_cut_on_either_side_are_counted(make_model, make):
    machine, line = make(make_model("cnn")), "z " * 60
    machine.score(["a", line, "a", line], ["a", "a", line, line])
    assert machine.num_cut == 3
    limited = make(make_model("rnn"), max_src_tokens=5)
    limited.score(["a", line], [line, "a"])
    assert limited.num_cut == 1


def test_an_endless_target_is_cut_where_the_model_would_not_go(make_model, make, texts):
    machine = make(make_model("transformer"), max_src_tokens=20, max_length=30)
    (found, other) = machine.score(["ab", "ab"], ["ab " * 2000, "ab"])
    assert (found.num_tokens, machine.num_cut) == (30, 1)
    assert other.num_tokens == len(texts.tgt.encode("ab")) + 1


def test_a_batch_that_does_not_fit_in_memory_is_scored_in_smaller_ones(
    rnn, make, corpus, monkeypatch
):
    wanted = make(rnn).score(corpus[:9], corpus[9:18])
    forward, sizes, limit = seq2seq.Seq2Seq.forward, [], 2

    def tight(model, src_BS, *rest, **options):
        sizes.append(len(src_BS))
        if len(src_BS) > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(model, src_BS, *rest, **options)

    monkeypatch.setattr(seq2seq.Seq2Seq, "forward", tight)
    found = make(rnn).score(corpus[:9], corpus[9:18])
    assert [one.tokens for one in found] == [one.tokens for one in wanted]
    assert [one.score for one in found] == pytest.approx([one.score for one in wanted])
    assert max(sizes) > limit
    limit = 0
    with pytest.raises(RuntimeError, match="allocate"):
        make(rnn).score(corpus[:2], corpus[2:4])
