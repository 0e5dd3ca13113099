"""The metrics by name, and the score of a corpus with the settings that made it.

A score never travels without them (Post 2018, "A Call for Clarity in Reporting BLEU Scores").
"""

from collections.abc import Mapping, Sequence

from nmt import errors
from nmt.evaluation import (
    learned_metrics,
    metric,
    sequence_metrics,
    significance,
    summary_metrics,
    translation_metrics,
)

MetricSettings = metric.MetricSettings
Score = metric.Score

METRICS: Mapping[str, type[metric.Metric]] = {
    "bleu": translation_metrics.Bleu,
    "chrf": translation_metrics.Chrf,
    "chrf++": translation_metrics.ChrfPlusPlus,
    "ter": translation_metrics.Ter,
    "exact_match": sequence_metrics.ExactMatch,
    "token_accuracy": sequence_metrics.TokenAccuracy,
    "sequence_accuracy": sequence_metrics.SequenceAccuracy,
    "wer": sequence_metrics.WordErrorRate,
    "cer": sequence_metrics.CharacterErrorRate,
    "rouge1": summary_metrics.Rouge1,
    "rouge2": summary_metrics.Rouge2,
    "rougel": summary_metrics.RougeL,
    "span_f1": sequence_metrics.SpanF1,
    "comet": learned_metrics.Comet,
}


def key_of(name: str) -> str:
    """Returns the name as `METRICS` has it: case and `-` for `_` do not matter."""
    return name.lower().replace("-", "_")


def build(name: str, settings: MetricSettings) -> metric.Metric:
    """Returns the metric of that name, whichever way it is written (see `key_of`).

    Raises:
        errors.UsageError: there is none, or it wants a setting or package that is not there.
    """
    key = key_of(name)
    if key not in METRICS:
        raise errors.UsageError(
            f"--metric: unknown metric (given: {name}).{errors.did_you_mean(key, METRICS)} "
            f"Known: {', '.join(METRICS)}."
        )
    return METRICS[key](settings)


def check_lines(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raises `errors.DataError` where line counts differ, or there is no line."""
    for number, reference in enumerate(references, start=1):
        if len(reference) != len(hypotheses):
            raise errors.DataError(
                f"reference {number}: {len(reference)} lines, but {len(hypotheses)} translations. "
                "Each translation wants one line of each reference."
            )
    if not hypotheses:
        raise errors.DataError("evaluation: there is no line to score.")


def score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    settings: MetricSettings,
    *,
    sources: Sequence[str] | None = None,
    num_resamples: int | None = None,
) -> Score:
    """Returns the score of a translation of a whole corpus.

    Args:
        name: one of `METRICS`.
        hypotheses: a line each.
        references: one or more translations of the corpus, as many lines each.
        settings: case and tokenizer.
        sources: as many lines, for metrics that look at them.
        num_resamples: for the 95 % bootstrap interval; None for none.

    Raises:
        errors.DataError: line counts differ, or there is no line.
        errors.UsageError: there is no such metric, the tokenizer is unknown or lacks its package.
    """
    check_lines(hypotheses, references)
    judge = build(name, settings)
    rows = judge.rows(hypotheses, references, sources)
    return significance.score(judge, rows, len(references), num_resamples)
