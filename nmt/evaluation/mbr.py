"""Minimum Bayes risk: of many candidates, the one that is most like all of them.

The expected utility of a candidate h is the sum over all candidates r of P(r) * metric(h, r), itself
included (Kumar and Byrne 2004; Eikema and Aziz 2020 for samples). Pair by pair that takes as many
comparisons as the square of their number. Both metrics here count n-grams, so that the references can be
put together first: the mean of their n-gram counts, weighted by P, is one reference with fractional
counts, and each candidate is compared with that alone (for chrF Vamvas and Sennrich 2024, section 3.2;
for BLEU DeNero et al. 2009, section 3, with the mean length in the brevity penalty).

    candidates "ab", "ab", "b"; P = 1/3 each: counts a 2/3, b 1, ab 2/3

What is counted, and how it becomes a figure, is sacreBLEU's for sentences: chrF2 without words, and
BLEU-4 by 13a tokens, exponential smoothing and effective order.
"""

import collections
import dataclasses
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

METRICS = ("chrf", "bleu")
WEIGHTS = ("uniform", "model")

CHRF_ORDER = 6
CHRF_BETA = 2
BLEU_ORDER = 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """How candidates are compared.

    Attributes:
        metric: one of `METRICS`.
        weights: one of `WEIGHTS`: P is the same for all, or in proportion to their probability.
        is_exact: compare pair by pair instead of with the mean of all.
        num_candidates: of a line, where a search makes them; None for as many as the beam is wide.
    """

    metric: str = "chrf"
    weights: str = "uniform"
    is_exact: bool = False
    num_candidates: int | None = None


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a metric sees of a text, or of the weighted mean of several.

    Attributes:
        ngrams: how often each n-gram occurs, for each order from 1.
        totals: n-grams of each order.
        length: units (characters or words).
    """

    ngrams: tuple[Mapping[Hashable, float], ...]
    totals: tuple[float, ...]
    length: float


def expected_utilities(
    texts: Sequence[str], log_probabilities: Sequence[float], settings: Settings
) -> list[float]:
    """Returns the expected utility of each candidate, in percent.

    Args:
        texts: candidates of one line.
        log_probabilities: of each; they matter to `weights: model` only.
        settings: metric, weights, and whether pair by pair.
    """
    if not texts:
        return []
    # Equal texts are one candidate with their weights together: samples repeat themselves.
    weights: dict[str, float] = {}
    for text, weight in zip(texts, _weights(log_probabilities, settings.weights), strict=True):
        weights[text] = weights.get(text, 0.0) + weight
    counts = dict(zip(weights, _counter(settings.metric)(list(weights)), strict=True))
    compare = _chrf if settings.metric == "chrf" else _bleu
    if settings.is_exact:
        found = {
            text: math.fsum(
                weight * compare(own, counts[other]) for other, weight in weights.items() if weight
            )
            for text, own in counts.items()
        }
    else:
        mean = _mean(list(counts.values()), list(weights.values()))
        found = {text: compare(own, mean) for text, own in counts.items()}
    return [found[text] for text in texts]


def ranking(utilities: Sequence[float]) -> list[int]:
    """Returns the places of the candidates, best first; of equal ones the first stays first."""
    return sorted(range(len(utilities)), key=lambda place: -utilities[place])


def _weights(log_probabilities: Sequence[float], kind: str) -> list[float]:
    """Returns P of each candidate; they sum to 1."""
    best = max(log_probabilities)
    # Where nothing is probable at all, nothing is more so than the rest.
    if kind == "uniform" or best == -math.inf:
        return [1.0 / len(log_probabilities)] * len(log_probabilities)
    shares = [math.exp(value - best) for value in log_probabilities]
    total = math.fsum(shares)
    return [share / total for share in shares]


def _counter(metric: str) -> Callable[[Sequence[str]], list[Counts]]:
    if metric == "chrf":
        return lambda texts: [_counts("".join(text.split()), CHRF_ORDER) for text in texts]
    # Imported late: it takes a tenth of a second that other commands need not wait.
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    tokenize: Callable[[str], str] = Tokenizer13a()  # type: ignore[no-untyped-call]
    return lambda texts: [_counts(tuple(tokenize(text).split()), BLEU_ORDER) for text in texts]


def _counts(units: Sequence[Any], max_order: int) -> Counts:
    """Returns the n-grams of a text; slices of its units have to be hashable."""
    ngrams: list[Mapping[Hashable, float]] = []
    for order in range(1, max_order + 1):
        begins = range(len(units) - order + 1)
        slices: Iterator[Any] = (units[begin : begin + order] for begin in begins)
        ngrams.append(collections.Counter(slices))
    totals = tuple(float(max(len(units) - order, 0)) for order in range(max_order))
    return Counts(tuple(ngrams), totals, float(len(units)))


def _mean(parts: Sequence[Counts], weights: Sequence[float]) -> Counts:
    """Returns the weighted mean of counts; the weights sum to 1."""
    ngrams: list[dict[Hashable, float]] = [{} for _ in parts[0].ngrams]
    for part, weight in zip(parts, weights, strict=True):
        for sums, counts in zip(ngrams, part.ngrams, strict=True):
            for ngram, count in counts.items():
                sums[ngram] = sums.get(ngram, 0.0) + weight * count
    totals = tuple(
        math.fsum(weight * part.totals[order] for part, weight in zip(parts, weights, strict=True))
        for order in range(len(ngrams))
    )
    length = math.fsum(weight * part.length for part, weight in zip(parts, weights, strict=True))
    return Counts(tuple(ngrams), totals, length)


def _matches(hypothesis: Counts, reference: Counts) -> list[float]:
    """Returns the n-grams in common, order by order, each counted as often as both have it."""
    return [
        sum(min(count, theirs.get(ngram, 0.0)) for ngram, count in ours.items())
        for ours, theirs in zip(hypothesis.ngrams, reference.ngrams, strict=True)
    ]


def _chrf(hypothesis: Counts, reference: Counts) -> float:
    """Returns chrF in percent: the F-score of the mean precision and recall of all orders.

    Source: Popović 2015, over the orders that both texts have, as sacreBLEU takes them.
    """
    precisions, recalls = [], []
    for matches, ours, theirs in zip(
        _matches(hypothesis, reference), hypothesis.totals, reference.totals, strict=True
    ):
        if ours > 0 and theirs > 0:
            precisions.append(matches / ours)
            recalls.append(matches / theirs)
    precision = sum(precisions) / max(len(precisions), 1)
    recall = sum(recalls) / max(len(recalls), 1)
    if precision + recall == 0:
        return 0.0
    factor = CHRF_BETA**2
    return 100.0 * (1 + factor) * precision * recall / (factor * precision + recall)


def _bleu(hypothesis: Counts, reference: Counts) -> float:
    """Returns BLEU of a sentence in percent.

    Source: Papineni et al. 2002; smoothing as in Chen and Cherry 2014, method 3: each order without
    a match counts half as much as the one before would with a single match.
    """
    matches = _matches(hypothesis, reference)
    if not any(matches):
        return 0.0
    logarithms, smoothing = [], 1.0
    for common, total in zip(matches, hypothesis.totals, strict=True):
        if total == 0:
            break
        if common == 0:
            smoothing *= 2.0
            common = 1.0 / smoothing
        logarithms.append(math.log(100.0 * common / total))
    brevity = min(0.0, 1.0 - reference.length / hypothesis.length)
    return math.exp(brevity + sum(logarithms) / len(logarithms))
