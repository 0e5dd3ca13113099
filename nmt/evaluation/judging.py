"""What `nmt evaluate` finds: every metric of every system, with intervals, tests and breakdowns."""

import dataclasses
from collections.abc import Mapping, Sequence

from nmt.evaluation import breakdowns, metric, metrics, significance


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
        judges: the metrics.
        num_resamples: for 95 % bootstrap intervals; None for none, if there is nothing to compare.
        num_trials: of paired approximate randomisation.
        by: breakdowns, of `breakdowns.KINDS`.
    """

    judges: Sequence[metric.Metric]
    num_resamples: int | None = None
    num_trials: int = significance.NUM_TRIALS
    by: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Part:
    """The score of some lines.

    Attributes:
        name: of their class.
        num_lines: how many they are.
        value: the figure.
    """

    name: str
    num_lines: int
    value: float


@dataclasses.dataclass(frozen=True)
class Judgement:
    """One metric of one system.

    Attributes:
        system: its name.
        num_lines: of the corpus.
        pair: name of the corpus's language pair, where there are several corpora; else None.
        comparison: the score; with tests, if it is not the first system.
        parts: the scores of classes of lines, by breakdown.
        line_figures: the figure of each line.
    """

    system: str
    num_lines: int
    pair: str | None
    comparison: significance.Comparison
    parts: Mapping[str, Sequence[Part]]
    line_figures: Sequence[float]

    @property
    def score(self) -> metric.Score:
        """The figure of the whole corpus."""
        return self.comparison.score


def judge(
    systems: Mapping[str, Sequence[str]],
    texts: breakdowns.Texts,
    request: Request,
    *,
    pair: str | None = None,
) -> list[Judgement]:
    """Returns the judgements of all metrics, metric by metric, systems in the order given.

    Args:
        systems: translations by name, one system at least; the others are compared with the first.
        texts: references, and sources where a metric or breakdown wants them.
        request: what is asked for.
        pair: name of the corpus's language pair, where there are several corpora.

    Raises:
        errors.DataError: line counts differ, or there is no line.
        errors.UsageError: a metric or breakdown lacks something.
    """
    for lines in systems.values():
        metrics.check_lines(lines, texts.references)
    classes = {
        name: {kind: breakdowns.classes(kind, lines, texts) for kind in request.by}
        for name, lines in systems.items()
    }
    found = []
    for one in request.judges:
        rows = {
            name: one.rows(lines, texts.references, texts.sources)
            for name, lines in systems.items()
        }
        for name, comparison in _comparisons(one, rows, len(texts.references), request).items():
            parts = {
                kind: [_part(one, rows[name], own, places) for own, places in of_kind.items()]
                for kind, of_kind in classes[name].items()
            }
            figures = [one.line_figure(row) for row in rows[name]]
            found.append(Judgement(name, len(figures), pair, comparison, parts, figures))
    return found


def _comparisons(
    one: metric.Metric,
    rows: Mapping[str, Sequence[metric.Row]],
    num_refs: int,
    request: Request,
) -> dict[str, significance.Comparison]:
    if len(rows) > 1:
        number = request.num_resamples or significance.NUM_RESAMPLES
        return significance.compare(one, rows, num_refs, number, request.num_trials)
    return {
        name: significance.Comparison(significance.score(one, own, num_refs, request.num_resamples))
        for name, own in rows.items()
    }


def _part(one: metric.Metric, rows: Sequence[metric.Row], name: str, places: Sequence[int]) -> Part:
    return Part(name, len(places), one.figure(metric.summed([rows[place] for place in places])))
