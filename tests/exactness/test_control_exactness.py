"""Exactness of everything that steers the search, for every family (float64)."""

import itertools
import math
import random

import pytest
import torch

from nmt.search import beam, forced
from nmt.search import settings as search_settings

IDS = beam.SpecialIds(bos=1, eos=2, pad=3)
LENGTHS = [6, 1, 3, 5, 2]
SETTINGS = search_settings.SearchSettings
Request = search_settings.Request
ALLOWED = (0, 4, 5, 6)  # of a vocabulary of seven
MAX_LENGTH = 4
WIDE = {"beam_size": 4**3 * 2, "num_best": 5, "max_length": MAX_LENGTH, "exact_stop": True}


@torch.no_grad()
def _forced(model, source, tokens) -> tuple[float, torch.Tensor | None]:
    """Log-probability and attention [T, S] under teacher forcing."""
    ids, mask = source
    states, attention = model(
        ids, mask, torch.tensor([[IDS.bos, *tokens]]), with_attention=model.attends
    )
    log_probs = torch.log_softmax(model.logits(states)[0], dim=-1)
    wanted = torch.tensor([*tokens, IDS.eos])
    total = float(log_probs[torch.arange(len(wanted)), wanted].sum())
    return total, None if attention is None else attention[0]


def _contains(tokens, phrase) -> bool:
    return any(tuple(tokens[i : i + len(phrase)]) == tuple(phrase) for i in range(len(tokens) + 1))


def _assert_brute_force(model, sources, requests, is_wanted, beta=0.0):
    """Compares the five best with the five best of all sequences that are wanted."""
    found = beam.search(model, sources.ids, sources.mask, requests, IDS)
    for row, request in enumerate(requests):
        alpha = request.settings.length_penalty
        everything = []
        for length in range(MAX_LENGTH):
            for tokens in itertools.product(ALLOWED, repeat=length):
                if not is_wanted(request, tokens):
                    continue
                total, attention = _forced(model, sources.alone(row), tokens)
                score = total / ((5 + length + 1) / 6) ** alpha
                if beta:
                    score += beta * float(attention.sum(0).clamp(max=1.0).log().sum())
                everything.append((score, total, tokens))
        everything.sort(reverse=True)
        assert len(found[row]) == min(5, len(everything)) > 0
        for (score, total, tokens), one in zip(everything[:5], found[row], strict=False):
            assert one.tokens == tokens
            assert one.score == pytest.approx(score, abs=1e-10)
            assert one.log_probability == pytest.approx(total, abs=1e-10)


def test_prefixed_search_equals_brute_force(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    prefixes = [(), (4,), (6, 5), (0, 0, 4), (5,)]
    requests = [Request(SETTINGS(**WIDE), prefix=prefix) for prefix in prefixes]
    _assert_brute_force(
        model, sources, requests, lambda r, tokens: tokens[: len(r.prefix)] == r.prefix
    )


def test_coverage_penalised_search_equals_brute_force(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    requests = [Request(SETTINGS(coverage_penalty=0.4, **WIDE))] * 5
    _assert_brute_force(model, sources, requests, lambda r, tokens: True, beta=0.4)


def test_constrained_search_equals_brute_force(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    constraints = [((4,), (5,)), ((6, 6),), (), ((0, 4), (4, 5)), ((5, 5, 0),)]
    requests = [Request(SETTINGS(**WIDE), constraints=own) for own in constraints]
    _assert_brute_force(
        model,
        sources,
        requests,
        lambda r, tokens: all(_contains(tokens, phrase) for phrase in r.constraints),
    )


def test_avoiding_search_equals_brute_force(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    phrases = [((4,), (5,)), ((6, 6), (4, 5, 6)), (), ((0, 4), (4, 0)), ((5,), (0, 0))]
    requests = [Request(SETTINGS(**WIDE), avoid=own) for own in phrases]
    _assert_brute_force(
        model,
        sources,
        requests,
        lambda r, tokens: not any(_contains(tokens, phrase) for phrase in r.avoid),
    )


def test_search_without_repeated_ngrams_equals_brute_force(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    requests = [Request(SETTINGS(no_repeat_ngram_size=n, **WIDE)) for n in (1, 2, 0, 2, 1)]

    def is_wanted(request, tokens):
        size = request.settings.no_repeat_ngram_size
        grams = [tokens[i : i + size] for i in range(len(tokens) - size + 1)]
        return size == 0 or len(set(grams)) == len(grams)

    _assert_brute_force(model, sources, requests, is_wanted)


# One of each kind, and mixtures; what one sentence asks for must not concern the others.
MIXED = [
    Request(SETTINGS(beam_size=4, num_best=2, max_length=9)),
    Request(
        SETTINGS(beam_size=4, max_length=12, repetition_penalty=1.7, length_penalty=0.2),
        prefix=(4, 5),
        avoid=((6, 7), (8,)),
    ),
    Request(
        SETTINGS(beam_size=4, max_length=11, coverage_penalty=0.3, no_repeat_ngram_size=2),
        constraints=((7, 8), (5,)),
    ),
    Request(SETTINGS(beam_size=4, num_best=3, exact_stop=True, max_length=8, min_length=3)),
    Request(
        SETTINGS(beam_size=4, max_length=10, min_length_ratio=1.0, no_repeat_ngram_size=3),
        constraints=((9,), (9,), (10, 4)),
        avoid=((6,),),
        prefix=(10,),
    ),
]
SAMPLED = [
    Request(SETTINGS(sample=True, num_best=4, max_length=9, seed=5), sample_key=11),
    Request(SETTINGS(sample=True, num_best=4, max_length=9, top_k=3, seed=5), sample_key=2**61),
    Request(SETTINGS(sample=True, num_best=4, max_length=9, top_p=0.6, temperature=2.0)),
    Request(SETTINGS(sample=True, num_best=4, max_length=7, coverage_penalty=0.1), prefix=(5,)),
    Request(SETTINGS(sample=True, num_best=4, min_length=3, top_k=1), avoid=((6,),)),
]
GROUPED = [
    Request(
        SETTINGS(beam_size=6, num_best=n, max_length=9, diversity_groups=3, diversity_penalty=cost),
        prefix=prefix,
    )
    for n, cost, prefix in (
        (6, 0.5, ()),
        (1, 0.0, (4,)),
        (2, 3.0, ()),
        (3, 1.0, (5, 5)),
        (4, 9.0, ()),
    )
]


@pytest.mark.parametrize("requests", [MIXED, SAMPLED, GROUPED], ids=["mixed", "sampled", "grouped"])
def test_alone_equals_in_company_that_asks_for_other_things(
    family, build_model, make_sources, requests
):
    model, sources = build_model(family), make_sources(LENGTHS)
    together = beam.search(model, sources.ids, sources.mask, requests, IDS)
    order = [3, 0, 4, 2, 1]
    turned = beam.search(
        model, sources.ids[order], sources.mask[order], [requests[row] for row in order], IDS
    )
    for place, row in enumerate(order):
        alone = beam.search(model, *sources.alone(row), [requests[row]], IDS)[0]
        assert alone
        for found in (together[row], turned[place]):
            assert [one.tokens for one in found] == [one.tokens for one in alone]
            assert [one.score for one in found] == pytest.approx([one.score for one in alone])
        for one in alone:
            assert one.log_probability == pytest.approx(
                _forced(model, sources.alone(row), one.tokens)[0], abs=1e-9
            )
            assert one.tokens[: len(requests[row].prefix)] == requests[row].prefix


def test_a_trace_is_what_teacher_forcing_says(family, build_model, make_sources):
    model, sources = build_model(family), make_sources(LENGTHS)
    targets = [[(4, 5, 6), ()], [(7,)], [(), (8, 8, 8, 8, 8)], [(4,), (5, 5)], [(9, 10)]]
    found = forced.trace(model, sources.ids, sources.mask, targets, IDS, with_attention=True)
    for row, own in enumerate(targets):
        for place, tokens in enumerate(own):
            total, attention = _forced(model, sources.alone(row), tokens)
            log_probs = found.log_probs_BKT[row, place]
            assert float(log_probs.sum()) == pytest.approx(total, abs=1e-10)
            assert not log_probs[len(tokens) + 1 :].any()
            ours = found.attention_BKTS[row, place, : len(tokens) + 1, : LENGTHS[row]]
            torch.testing.assert_close(ours, attention)


def test_a_thousand_random_constraints_are_met(build_model, make_sources):
    """In batches of mixed constraints, with beams narrower than the constraints are long."""
    generator = random.Random(1)
    side = {"type": "rnn", "embedding_size": 8, "hidden_size": 8}
    model = build_model((side, side), num_tgt=11)
    num_met = 0
    for batch in range(20):
        sources = make_sources([generator.randint(1, 6) for _ in range(50)], batch)
        beam_size = generator.randint(1, 6)
        requests = []
        for _ in range(50):
            phrases = tuple(
                tuple(generator.choices(range(4, 11), k=generator.randint(1, 4)))
                for _ in range(generator.randint(1, 4))
            )
            room = sum(len(phrase) for phrase in phrases) + 1 + generator.choice((0, 0, 3))
            settings = SETTINGS(beam_size=beam_size, max_length=room)
            requests.append(Request(settings, constraints=phrases))
        found = beam.search(model, sources.ids, sources.mask, requests, IDS)
        for request, hypotheses in zip(requests, found, strict=True):
            best = hypotheses[0]
            assert len(best.tokens) < request.settings.max_length
            num_met += all(_contains(best.tokens, phrase) for phrase in request.constraints)
    assert num_met == 1000


def test_words_end_with_their_constraints_as_brute_force_has_it(family, build_model, make_sources):
    """5 and 0 go on with a word, so `4` is not met by `4 5`, and `4 5` not by `4 5 0`."""
    ids = beam.SpecialIds(bos=1, eos=2, pad=3, continuing=frozenset({5, 0}))
    model, sources = build_model(family, num_tgt=7), make_sources(LENGTHS)
    phrases = [(4,), (4, 5), (6,), (6, 4), (4, 0)]
    settings = SETTINGS(**WIDE)
    requests = [Request(settings, constraints=(own,), closed=(True,)) for own in phrases]
    found = beam.search(model, sources.ids, sources.mask, requests, ids)
    for row, (phrase,) in enumerate(request.constraints for request in requests):
        everything = []
        for length in range(MAX_LENGTH):
            for tokens in itertools.product(ALLOWED, repeat=length):
                places = [i for i in range(length) if tokens[i : i + len(phrase)] == phrase]
                if places and tokens[places[0] + len(phrase) :][:1] not in ((5,), (0,)):
                    total, _ = _forced(model, sources.alone(row), tokens)
                    everything.append((total / ((5 + length + 1) / 6), tokens))
        everything.sort(reverse=True)
        assert [one.tokens for one in found[row]] == [tokens for _, tokens in everything[:5]]


@pytest.mark.parametrize("beam_size", [1, 2])
def test_closed_constraints_are_met_in_the_least_room(build_model, make_sources, beam_size):
    """Also where one phrase is the beginning of another one, or its middle ("bank", "the banks")."""
    ids = beam.SpecialIds(bos=1, eos=2, pad=3, continuing=frozenset({5, 6, 7}))
    side = {"type": "rnn", "embedding_size": 8, "hidden_size": 8}
    model, generator = build_model((side, side), num_tgt=11, seed=3), random.Random(2)
    sources = make_sources([3] * 200)
    requests = []
    for number in range(200):
        phrases = tuple(
            (generator.choice((4, 8)), *generator.choices((5, 6, 8), k=generator.randint(0, 2)))
            for _ in range(generator.randint(1, 4))
        )
        if number % 2:
            phrases = ((8,), (4, 8, 5)) if number % 4 == 1 else ((4, 8, 5, 6), (9,), (8, 5))
        room = sum(len(phrase) for phrase in phrases) + 1
        settings = SETTINGS(beam_size=beam_size, max_length=room)
        requests.append(Request(settings, constraints=phrases, closed=(True,) * len(phrases)))
    for request, found in zip(
        requests, beam.search(model, sources.ids, sources.mask, requests, ids), strict=True
    ):
        tokens = found[0].tokens
        for phrase in request.constraints:
            assert any(
                tokens[i : i + len(phrase)] == phrase
                and not {*tokens[i + len(phrase) : i + len(phrase) + 1]} & ids.continuing
                for i in range(len(tokens))
            )


def test_equal_constraints_are_met_as_often_as_they_are_given(build_model, make_sources, family):
    model, sources = build_model(family), make_sources([3])
    request = Request(SETTINGS(beam_size=2, max_length=12), constraints=((7, 8), (7, 8), (7, 8)))
    [[best]] = beam.search(model, sources.ids, sources.mask, [request], IDS)
    text = " ".join(map(str, best.tokens))
    assert text.count("7 8") == 3


def test_samples_follow_the_probabilities_of_the_model(build_model, make_sources):
    """First tokens of 4,000 samples, with and without a temperature, against the softmax."""
    side = {"type": "rnn", "embedding_size": 8, "hidden_size": 8}
    model, sources = build_model((side, side), num_tgt=7), make_sources([4])
    with torch.no_grad():
        states, _ = model(sources.ids, sources.mask, torch.tensor([[IDS.bos]]))
        logits = model.logits(states)[0, 0]
    logits[[IDS.bos, IDS.pad]] = -math.inf
    for temperature in (1.0, 2.0):
        settings = SETTINGS(sample=True, num_best=4000, max_length=2, temperature=temperature)
        found = beam.search(model, sources.ids, sources.mask, settings, IDS)[0]
        counts = torch.zeros(7)
        for one in found:
            counts[one.tokens[0] if one.tokens else IDS.eos] += 1
        expected = torch.softmax(logits / temperature, 0)
        assert (counts / 4000 - expected).abs().max() < 0.03


def test_the_tails_that_are_cut_are_never_drawn(build_model, make_sources):
    side = {"type": "rnn", "embedding_size": 8, "hidden_size": 8}
    model, sources = build_model((side, side), num_tgt=11), make_sources([4])
    with torch.no_grad():
        states, _ = model(sources.ids, sources.mask, torch.tensor([[IDS.bos]]))
        logits = model.logits(states)[0, 0]
    logits[[IDS.bos, IDS.pad]] = -math.inf
    order = logits.argsort(descending=True).tolist()
    probs = torch.softmax(logits, 0)[order].cumsum(0)
    for options, count in (
        ({"top_k": 3}, 3),
        ({"top_p": float(probs[3]) - 1e-6}, 4),
        ({"top_p": float(probs[3]) + 1e-6}, 5),
        ({"top_k": 1, "top_p": 0.99}, 1),
    ):
        settings = SETTINGS(sample=True, num_best=2000, max_length=2, **options)
        found = beam.search(model, sources.ids, sources.mask, settings, IDS)[0]
        drawn = {one.tokens[0] if one.tokens else IDS.eos for one in found}
        assert drawn == set(order[:count])


def test_seeds_keys_and_samples_differ_and_repeat(family, build_model, make_sources):
    model, sources = build_model(family), make_sources([4])

    def drawn(seed, key):
        settings = SETTINGS(sample=True, num_best=5, max_length=12, temperature=9.0, seed=seed)
        request = Request(settings, sample_key=key)
        found = beam.search(model, sources.ids, sources.mask, [request], IDS)[0]
        return [one.tokens for one in found]

    assert drawn(1, 1) == drawn(1, 1)
    assert drawn(1, 1) != drawn(2, 1) != drawn(2, 2)
    assert len(set(drawn(1, 1))) > 1


def test_groups_without_a_penalty_are_equal_and_with_one_differ(family, build_model, make_sources):
    model, sources = build_model(family), make_sources(LENGTHS)
    options = {"beam_size": 6, "num_best": 6, "max_length": 9, "diversity_groups": 3}
    narrow = SETTINGS(beam_size=2, num_best=2, max_length=9)
    equal = beam.search(model, sources.ids, sources.mask, SETTINGS(**options), IDS)
    alone = beam.search(model, sources.ids, sources.mask, narrow, IDS)
    for ours, theirs in zip(equal, alone, strict=True):
        assert [one.tokens for one in ours] == [one.tokens for one in theirs for _ in range(3)]
    diverse = SETTINGS(diversity_penalty=100.0, **options)
    for own in beam.search(model, sources.ids, sources.mask, diverse, IDS):
        assert len({one.tokens[:1] for one in own}) >= 3
