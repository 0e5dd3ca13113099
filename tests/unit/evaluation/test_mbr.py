"""Minimum Bayes risk is what its definition says: pair by pair, and over mean n-gram counts."""

import math
import random
from collections import Counter

import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from nmt.evaluation import mbr

WORDS = ["ab", "abc", "b", "ca", "cab,", "(b)", "d.", "1,000", "äb"]


def pool(seed: int, size: int = 7) -> tuple[list[str], list[float]]:
    """Candidates that share words, one of them twice, one empty; and log-probabilities."""
    generator = random.Random(seed)
    texts = [" ".join(generator.choices(WORDS, k=generator.randint(1, 6))) for _ in range(size)]
    texts += [texts[2], ""]
    return texts, [generator.uniform(-9.0, -1.0) for _ in texts]


def shares(log_probabilities: list[float], weights: str) -> list[float]:
    if weights == "uniform":
        return [1 / len(log_probabilities)] * len(log_probabilities)
    total = sum(math.exp(value) for value in log_probabilities)
    return [math.exp(value) / total for value in log_probabilities]


def sacrebleu_sentence(metric: str, hypothesis: str, reference: str) -> float:
    judge = CHRF() if metric == "chrf" else BLEU(effective_order=True)
    return judge.sentence_score(hypothesis, [reference]).score


@pytest.mark.parametrize("metric", mbr.METRICS)
@pytest.mark.parametrize("weights", mbr.WEIGHTS)
def test_exact_utilities_are_sacrebleus_scores_of_all_pairs(metric, weights):
    for seed in range(3):
        texts, log_probabilities = pool(seed)
        probabilities = shares(log_probabilities, weights)
        wanted = [
            sum(
                probability * sacrebleu_sentence(metric, hypothesis, reference)
                for reference, probability in zip(texts, probabilities, strict=True)
            )
            for hypothesis in texts
        ]
        assert len({round(value, 6) for value in wanted}) > 4
        settings = mbr.Settings(metric, weights, is_exact=True)
        found = mbr.expected_utilities(texts, log_probabilities, settings)
        assert found == pytest.approx(wanted, abs=1e-9)


def ngrams(units: list[str] | str, order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(units[i : i + order]) for i in range(len(units) - order + 1))


def naive(metric: str, texts: list[str], probabilities: list[float]) -> list[float]:
    """The formula over mean counts, n-gram by n-gram, without any saving."""
    if metric == "chrf":
        split, orders = [text.replace(" ", "") for text in texts], range(1, 7)
    else:
        tokenize = BLEU().tokenizer
        split, orders = [tokenize(text).split() for text in texts], range(1, 5)
    found = []
    for units in split:
        matches, own, theirs = [], [], []
        for order in orders:
            every = {ngram for other in split for ngram in ngrams(other, order)}
            mean = {
                ngram: sum(
                    probability * ngrams(other, order)[ngram]
                    for other, probability in zip(split, probabilities, strict=True)
                )
                for ngram in every
            }
            mine = ngrams(units, order)
            matches.append(sum(min(mine[ngram], mean[ngram]) for ngram in every))
            own.append(sum(mine.values()))
            theirs.append(sum(mean.values()))
        if metric == "bleu":
            length = sum(p * len(other) for other, p in zip(split, probabilities, strict=True))
            # sacreBLEU prints lengths as whole numbers, so the penalty is put to its figure here.
            score = BLEU.compute_bleu(
                matches, own, len(units), 0, smooth_method="exp", effective_order=True
            ).score
            is_short = 0 < len(units) < length
            found.append(score * (math.exp(1 - length / len(units)) if is_short else 1.0))
            continue
        flat = [x for o, t, m in zip(own, theirs, matches, strict=True) for x in (o, t, m)]
        found.append(CHRF()._compute_f_score(flat))
    return found


@pytest.mark.parametrize("metric", mbr.METRICS)
@pytest.mark.parametrize("weights", mbr.WEIGHTS)
def test_mean_counts_give_what_their_formula_says(metric, weights):
    for seed in range(3):
        texts, log_probabilities = pool(seed)
        wanted = naive(metric, texts, shares(log_probabilities, weights))
        found = mbr.expected_utilities(texts, log_probabilities, mbr.Settings(metric, weights))
        assert found == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("metric", mbr.METRICS)
def test_mean_counts_choose_nearly_as_well_as_the_pairs_do(metric):
    """By the pairs, what is chosen has nearly the utility of the best, and far more than any."""
    lost, spread = 0.0, 0.0
    for seed in range(40):
        texts, log_probabilities = pool(seed)
        fast = mbr.expected_utilities(texts, log_probabilities, mbr.Settings(metric))
        exact = mbr.Settings(metric, is_exact=True)
        utilities = mbr.expected_utilities(texts, log_probabilities, exact)
        lost += max(utilities) - utilities[mbr.ranking(fast)[0]]
        spread += max(utilities) - sum(utilities) / len(utilities)
    assert lost < spread / 3


def test_the_work_grows_with_the_candidates_and_not_with_their_square(monkeypatch):
    calls = []
    original = mbr._chrf
    monkeypatch.setattr(mbr, "_chrf", lambda *both: calls.append(1) or original(*both))
    texts = [f"candidate {number}" for number in range(30)]
    mbr.expected_utilities(texts, [-1.0] * 30, mbr.Settings("chrf"))
    assert len(calls) == 30
    mbr.expected_utilities(texts, [-1.0] * 30, mbr.Settings("chrf", is_exact=True))
    assert len(calls) == 30 + 900


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_repeated_candidate_counts_as_often_as_it_comes(is_exact):
    settings = mbr.Settings("chrf", is_exact=is_exact)
    texts = ["abcd efgh", "abcd efgh", "abcd efgh", "zzzz"]
    utilities = mbr.expected_utilities(texts, [0.0] * 4, settings)
    assert utilities[0] == utilities[1] == utilities[2] > 2 * utilities[3]
    weighted = mbr.expected_utilities(
        texts[2:], [math.log(3.0), 0.0], mbr.Settings("chrf", "model", is_exact)
    )
    assert weighted == pytest.approx(utilities[2:])


@pytest.mark.parametrize("is_exact", [False, True])
@pytest.mark.parametrize("metric", mbr.METRICS)
def test_odd_pools_have_figures(metric, is_exact):
    settings = mbr.Settings(metric, "model", is_exact)
    assert mbr.expected_utilities(["a b c d"], [-3.0], settings) == pytest.approx([100.0])
    assert mbr.expected_utilities(["", ""], [-1.0, -2.0], settings) == [0.0, 0.0]
    nothing = [-math.inf, -math.inf]
    even = mbr.expected_utilities(["a b", "c d"], nothing, settings)
    assert even[0] == pytest.approx(even[1]) and even[0] > 0
    assert mbr.expected_utilities(["a b", "c d"], [0.0, -math.inf], settings)[1] == 0.0
    assert mbr.expected_utilities([], [], mbr.Settings(metric, is_exact=True)) == []


def test_the_first_of_equal_candidates_stays_first():
    assert mbr.ranking([1.0, 3.0, 3.0, 2.0]) == [1, 2, 3, 0]
