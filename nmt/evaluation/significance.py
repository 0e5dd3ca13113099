"""Bootstrap intervals and paired tests with sacreBLEU's draws, seed and code.

Its tests count the draws whose difference is larger than the real one, and not those where it is the same.
That is nothing for BLEU, but decides where figures take few values: of two systems that differ in one line,
exact match would be significantly different. For metrics that sacreBLEU does not have, ties count.

Sources: Koehn 2004, "Statistical Significance Tests for Machine Translation Evaluation" (bootstrap);
Riezler and Maxwell 2005, "On Some Pitfalls in Automatic Evaluation" (approximate randomisation).
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from nmt import errors
from nmt.evaluation import metric
from nmt.runtime import host

# sacreBLEU's defaults.
NUM_RESAMPLES = 1_000
NUM_TRIALS = 10_000
_SEED_VARIABLE = "SACREBLEU_SEED"
_SEED = "12345"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A system beside the first one.

    Attributes:
        score: with its interval.
        difference: of its figure from that of the first system; None for that one.
        p_bootstrap: probability of so large a difference by chance, by paired bootstrap resampling.
        p_randomisation: likewise, by paired approximate randomisation.
        num_different: lines whose counts are not those of the first system.
    """

    score: metric.Score
    difference: float | None = None
    p_bootstrap: float | None = None
    p_randomisation: float | None = None
    num_different: int = 0


def score(
    judge: metric.Metric,
    rows: Sequence[metric.Row],
    num_refs: int,
    num_resamples: int | None = None,
) -> metric.Score:
    """Returns the score of a corpus.

    Args:
        judge: the metric.
        rows: its counts of each line.
        num_refs: references of each line.
        num_resamples: for the 95 % bootstrap interval; None for none.

    Raises:
        errors.UsageError: the seed in the environment is no number, or memory is too small.
    """
    if num_resamples is None:
        return _score(judge, rows, judge.signature(num_refs, {}))
    _check_memory(rows, num_resamples, 0)
    signature = judge.signature(num_refs, {"bs": str(num_resamples), "seed": seed()})
    return _with_interval(judge, rows, signature, num_resamples)


def compare(
    judge: metric.Metric,
    systems: Mapping[str, Sequence[metric.Row]],
    num_refs: int,
    num_resamples: int = NUM_RESAMPLES,
    num_trials: int = NUM_TRIALS,
) -> dict[str, Comparison]:
    """Returns how each system does beside the first.

    Args:
        judge: the metric.
        systems: its counts of each line, for two systems or more.
        num_refs: references of each line.
        num_resamples: corpora that the bootstrap draws.
        num_trials: of the approximate randomisation.

    Raises:
        errors.UsageError: the seed in the environment is no number, or memory is too small.
    """
    _check_memory(next(iter(systems.values())), num_resamples, num_trials)
    signature = judge.signature(
        num_refs, {"bs": str(num_resamples), "ar": str(num_trials), "seed": seed()}
    )
    scores = {
        name: _with_interval(judge, rows, signature, num_resamples)
        for name, rows in systems.items()
    }
    first, *others = systems
    find = _own_p_values if isinstance(judge, metric.OwnMetric) else _sacrebleu_p_values
    found = {first: Comparison(scores[first])}
    for name in others:
        difference = scores[name].value - scores[first].value
        p_values = find(judge, systems[first], systems[name], num_resamples, num_trials)
        pairs = zip(systems[first], systems[name], strict=True)
        num_different = sum(tuple(own) != tuple(other) for own, other in pairs)
        found[name] = Comparison(scores[name], difference, *p_values, num_different)
    return found


def seed() -> str:
    """Returns the seed as signatures have it: a number, or `none` for another one each time.

    Raises:
        errors.UsageError: what the environment says is neither, or 0.
    """
    found = os.environ.get(_SEED_VARIABLE, _SEED).lower()
    if found.isdecimal() and not int(found):
        raise errors.UsageError(
            f"${_SEED_VARIABLE}: 0 is another seed each time to the paired tests of sacreBLEU. "
            "Take a number from 1 up, or none."
        )
    if found != "none" and not found.isdecimal():
        raise errors.UsageError(
            f"${_SEED_VARIABLE}: wants a whole number, or none for another seed each time "
            f"(given: {found!r})."
        )
    return found


def _check_memory(rows: Sequence[metric.Row], num_resamples: int, num_trials: int) -> None:
    """Refuses tests that the system would end for want of memory: all draws are made at once."""
    # An index of 8 bytes and the counts in float32; two masks of a byte, one of them in 8 bytes again.
    num_lines = len(rows)
    by_bootstrap = num_resamples * sum(8 + 4 * len(row) for row in rows)
    by_randomisation = num_trials * num_lines * 10
    wanted, total = max(by_bootstrap, by_randomisation), host.total_memory()
    if total is not None and wanted > total:
        raise errors.UsageError(
            f"--resamples, --trials: {num_resamples:,} and {num_trials:,} of {num_lines:,} lines take "
            f"about {wanted / 1e9:,.0f} GB of memory (there are {total / 1e9:,.0f}). Take fewer."
        )


def _score(judge: metric.Metric, rows: Sequence[metric.Row], signature: str) -> metric.Score:
    sums = metric.summed(rows)
    fields = dict(field.split(":", 1) for field in signature.split("|"))
    return metric.Score(
        judge.label,
        judge.figure(sums),
        signature,
        judge.details(sums),
        fields,
        decimals=judge.decimals,
        is_share=judge.is_share,
    )


def _with_interval(
    judge: metric.Metric, rows: Sequence[metric.Row], signature: str, number: int
) -> metric.Score:
    import numpy as np
    from sacrebleu import significance

    _, found = significance._bootstrap_resample(rows, _Resampled(judge), number)  # type: ignore[arg-type]
    mean, interval = significance.estimate_ci(np.array([one.score for one in found]))
    return dataclasses.replace(
        _score(judge, rows, signature), mean=float(mean), interval=float(interval)
    )


def _sacrebleu_p_values(
    judge: metric.Metric,
    first: Sequence[metric.Row],
    other: Sequence[metric.Row],
    num_resamples: int,
    num_trials: int,
) -> tuple[float, float]:
    """Returns the probabilities by bootstrap and randomisation that sacreBLEU finds."""
    from sacrebleu import significance

    found = []
    for kind, number in (("bs", num_resamples), ("ar", num_trials)):
        test = significance.PairedTest(
            # In the place of lines it gets their counts, which `_Resampled` hands back.
            [("first", first), ("other", other)],  # type: ignore[list-item]
            {judge.label: _Resampled(judge)},  # type: ignore[dict-item]
            references=None,
            test_type=kind,
            n_samples=number,
        )
        result: Any = test()[1][judge.label][1]
        found.append(float(result.p_value))
    return found[0], found[1]


def _own_p_values(
    judge: metric.Metric,
    first: Sequence[metric.Row],
    other: Sequence[metric.Row],
    num_resamples: int,
    num_trials: int,
) -> tuple[float, float]:
    """Returns the same from the same draws, where equal differences count as well."""
    import numpy as np

    rows, others = np.array(first, dtype=float), np.array(other, dtype=float)
    number = None if seed() == "none" else int(seed())

    def difference(sums: Any, of_other: Any) -> float:
        return abs(judge.figure(sums) - judge.figure(of_other))

    real = difference(rows.sum(0), others.sum(0))
    draws = np.random.default_rng(number).choice(len(rows), size=(num_resamples, len(rows)))
    drawn = np.array([difference(rows[draw].sum(0), others[draw].sum(0)) for draw in draws])
    swaps = np.random.default_rng(number).integers(2, size=(num_trials, len(rows)), dtype=bool)
    swapped = np.array(
        [difference(a, b) for a, b in zip(swaps @ rows + ~swaps @ others,
                                          swaps @ others + ~swaps @ rows, strict=True)]
    )  # fmt: skip

    def probability(chances: Any) -> float:
        # What is equal may differ by the rounding of its sums.
        return float((np.sum(chances >= real - 1e-9) + 1) / (len(chances) + 1))

    # Draws that are all alike, as those of a single line, say nothing.
    by_bootstrap = probability(drawn - drawn.mean()) if np.ptp(drawn) > 1e-9 else 1.0
    return by_bootstrap, probability(swapped)


@dataclasses.dataclass(frozen=True)
class _Figure:
    name: str
    score: float


class _Signature:
    """Takes what the tests note in signatures; ours are made by the metrics."""

    def update(self, key: str, value: object) -> None:
        """Does nothing."""


class _Resampled:
    """What sacreBLEU's tests ask of a metric, on counts that are there already."""

    def __init__(self, judge: metric.Metric) -> None:
        self._judge = judge

    def _extract_corpus_statistics(
        self, rows: Sequence[metric.Row], references: object
    ) -> Sequence[metric.Row]:
        return rows

    def _aggregate_and_compute(self, rows: Sequence[metric.Row]) -> _Figure:
        return self._compute_score_from_stats(metric.summed(rows))

    def _compute_score_from_stats(self, sums: metric.Row) -> _Figure:
        return _Figure(self._judge.label, self._judge.figure(sums))

    def get_signature(self) -> _Signature:
        return _Signature()
