"""Exactness of the search, for every pair of families (float64)."""

import itertools
import math

import pytest
import torch

from nmt.models import state as decoder_state
from nmt.search import beam, ensemble, hosting
from nmt.search import settings as search_settings

IDS = beam.SpecialIds(bos=1, eos=2, pad=3)
LENGTHS = [6, 1, 3, 5, 2]
SETTINGS = search_settings.SearchSettings


@torch.no_grad()
def _forced_sum(model, source, tokens) -> float:
    ids, mask = source
    states, _ = model(ids, mask, torch.tensor([[IDS.bos, *tokens]]))
    log_probs = torch.log_softmax(model.logits(states)[0], dim=-1)
    wanted = torch.tensor([*tokens, IDS.eos])
    return float(log_probs[torch.arange(len(wanted)), wanted].sum())


@torch.no_grad()
def _greedy(model, source, max_length) -> list[int]:
    """The reference: the likeliest token each time, until EOS or the limit."""
    ids, mask = source
    tokens: list[int] = []
    while len(tokens) + 1 < max_length:
        states, _ = model(ids, mask, torch.tensor([[IDS.bos, *tokens]]))
        scores = model.logits(states)[0, -1]
        scores[[IDS.bos, IDS.pad]] = -math.inf
        if int(scores.argmax()) == IDS.eos:
            break
        tokens.append(int(scores.argmax()))
    return tokens


def test_beam_of_one_equals_greedy(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=1, max_length=12)
    found = beam.search(model, sources.ids, sources.mask, settings, IDS)
    for row in range(len(LENGTHS)):
        assert list(found[row][0].tokens) == _greedy(model, sources.alone(row), 12)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_beam_as_wide_as_the_search_space_equals_brute_force(
    family, build_model, make_sources, alpha
):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    max_length, num_best = 4, 5
    settings = SETTINGS(
        beam_size=4**3 * 2,
        num_best=num_best,
        length_penalty=alpha,
        max_length=max_length,
        exact_stop=True,
    )
    found = beam.search(model, sources.ids, sources.mask, settings, IDS)
    allowed = [token for token in range(7) if token not in (IDS.bos, IDS.eos, IDS.pad)]
    for row in range(len(LENGTHS)):
        everything = []
        for length in range(max_length):
            for tokens in itertools.product(allowed, repeat=length):
                total = _forced_sum(model, sources.alone(row), tokens)
                everything.append((total / ((5 + length + 1) / 6) ** alpha, tokens))
        everything.sort(reverse=True)
        for (score, tokens), hypothesis in zip(everything[:num_best], found[row], strict=True):
            assert hypothesis.tokens == tokens
            assert hypothesis.score == pytest.approx(score, abs=1e-10)


@pytest.mark.parametrize("exact_stop", [False, True])
def test_search_score_equals_forced_score(variant, build_model, make_sources, exact_stop):
    model, sources = build_model(variant), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=4, num_best=4, max_length=15, exact_stop=exact_stop)
    found = beam.search(model, sources.ids, sources.mask, settings, IDS)
    for row, hypotheses in enumerate(found):
        assert len(hypotheses) == 4
        for hypothesis in hypotheses:
            forced = _forced_sum(model, sources.alone(row), hypothesis.tokens)
            assert hypothesis.log_probability == pytest.approx(forced, abs=1e-9)
            length = len(hypothesis.tokens) + 1
            assert hypothesis.score == pytest.approx(forced / ((5 + length) / 6), abs=1e-9)


@pytest.mark.parametrize("exact_stop", [False, True])
def test_alone_equals_in_any_batch_and_order(variant, build_model, make_sources, exact_stop):
    model, sources = build_model(variant), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=3, num_best=2, max_length=14, exact_stop=exact_stop)
    together = beam.search(model, sources.ids, sources.mask, settings, IDS)
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = beam.search(model, sources.ids[order], sources.mask[order], settings, IDS)
    for place, row in enumerate(order.tolist()):
        alone = beam.search(model, *sources.alone(row), settings, IDS)[0]
        for found in (together[row], turned[place]):
            assert [one.tokens for one in found] == [one.tokens for one in alone]
            assert [one.score for one in found] == pytest.approx([one.score for one in alone])


@pytest.mark.parametrize("exact_stop", [False, True])
@pytest.mark.parametrize("share", [0.0, 2.0])
def test_leaving_the_batch_changes_nothing(
    family, build_model, make_sources, monkeypatch, exact_stop, share
):
    model, sources = build_model(family), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=3, num_best=3, max_length=14, exact_stop=exact_stop)
    expected = beam.search(model, sources.ids, sources.mask, settings, IDS)
    monkeypatch.setattr(beam, "COMPACT_SHARE", share)
    found = beam.search(model, sources.ids, sources.mask, settings, IDS)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]


@torch.no_grad()
def test_two_interleaved_searches_do_not_meet(family, build_model, make_sources, monkeypatch):
    """A second search that runs inside every step of the first changes neither."""
    model = build_model(family)
    first, second = make_sources(LENGTHS, 1), make_sources([4, 2], 2)
    settings = SETTINGS(beam_size=3, max_length=10)
    expected = [beam.search(model, s.ids, s.mask, settings, IDS) for s in (first, second)]
    inner, to_host, running = [], hosting.to_host, []

    def interrupted(tensor):
        if not running:
            running.append(True)
            inner.append(beam.search(model, second.ids, second.mask, settings, IDS))
            running.clear()
        return to_host(tensor)

    monkeypatch.setattr(hosting, "to_host", interrupted)
    outer = beam.search(model, first.ids, first.mask, settings, IDS)
    assert outer == expected[0]
    assert len(inner) > 3
    assert all(result == expected[1] for result in inner)


def test_exact_stop_never_scores_lower(variant, build_model, make_sources):
    model, sources = build_model(variant, seed=3), make_sources(LENGTHS, 3)
    plain = SETTINGS(beam_size=2, max_length=12)
    exact = SETTINGS(beam_size=2, max_length=12, exact_stop=True)
    usual = beam.search(model, sources.ids, sources.mask, plain, IDS)
    best = beam.search(model, sources.ids, sources.mask, exact, IDS)
    for ours, theirs in zip(best, usual, strict=True):
        assert ours[0].score >= theirs[0].score - 1e-12


def test_lengths_stay_within_their_limits(family, build_model, make_sources):
    model, sources = build_model(family), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=4, num_best=4, min_length=6, max_length=8)
    for hypotheses in beam.search(model, sources.ids, sources.mask, settings, IDS):
        assert hypotheses
        assert all(6 <= len(one.tokens) <= 7 for one in hypotheses)


def test_an_ensemble_of_one_model_twice_equals_that_model(build_model, make_sources, family):
    model, sources = build_model(family), make_sources(LENGTHS)
    settings = SETTINGS(beam_size=3, num_best=3, max_length=10)
    expected = beam.search(model, sources.ids, sources.mask, settings, IDS)
    twice = ensemble.Ensemble([model, model])
    found = beam.search(twice, sources.ids, sources.mask, settings, IDS)
    for ours, theirs in zip(found, expected, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs]
        assert [one.score for one in ours] == pytest.approx([one.score for one in theirs])


@torch.no_grad()
def test_an_ensemble_means_the_probabilities_of_its_models(build_model, make_sources, family):
    rnn = {"type": "rnn", "embedding_size": 6, "hidden_size": 8}
    models = [build_model(family, seed=1), build_model((rnn, rnn), seed=2)]
    sources = make_sources(LENGTHS)
    joined = ensemble.Ensemble(models)
    state = decoder_state.expand(joined.start(joined.encode(sources.ids, sources.mask)), 2)
    own = [decoder_state.expand(m.start(m.encode(sources.ids, sources.mask)), 2) for m in models]
    parents = torch.tensor([[1, 1]] * len(LENGTHS))
    for token in (IDS.bos, 5, 6):
        tokens = torch.full((2 * len(LENGTHS),), token)
        states, _, state = joined.step(tokens, state)
        probabilities = []
        for index, model in enumerate(models):
            outputs, _, own[index] = model.step(tokens, own[index])
            probabilities.append(torch.softmax(model.logits(outputs), dim=-1))
            own[index] = decoder_state.reorder(own[index], parents)
        state = decoder_state.reorder(state, parents)
        found = torch.softmax(joined.logits(states), dim=-1)
        torch.testing.assert_close(found, torch.stack(probabilities).mean(0))
