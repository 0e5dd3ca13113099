"""Translations beside their references: which words differ, which lines are worst, scores by length."""

import difflib
from collections.abc import Mapping, Sequence

from nmt.evaluation import breakdowns, documents, judging, metrics, score_tables


def marked(line: str, other: str) -> documents.Marked:
    """Returns a line with the words marked that do not stand in the other line at their place."""
    words, others = line.split(), other.split()
    matcher = difflib.SequenceMatcher(None, words, others, autojunk=False)
    runs = []
    for kind, begin, end, _, _ in matcher.get_opcodes():
        if begin < end:
            runs.append((" ".join(words[begin:end]), kind != "equal"))
    return documents.Marked(runs)


def plain(line: str) -> documents.Marked:
    """Returns a line without marks."""
    return documents.Marked([(line, False)] if line else [])


def sentence_scores(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Returns chrF of each line, in percent."""
    settings = metrics.MetricSettings()
    return [
        metrics.score("chrf", [hypothesis], [[reference]], settings).value
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def tables(judgements: Sequence[judging.Judgement]) -> list[documents.Block]:
    """Returns a table for each metric, with intervals and with the tests against the first system.

    Args:
        judgements: of one corpus, with intervals.
    """
    blocks: list[documents.Block] = []
    for group in score_tables.by_metric(judgements):
        name = group[0].score.name
        is_compared = len(group) > 1
        header = ["run", name, "95 % interval"]
        header += ["difference", "p (bootstrap)", "p (randomisation)"] if is_compared else []
        rows = []
        for one in group:
            score, tested = one.score, one.comparison
            assert score.mean is not None and score.interval is not None, "there are intervals"
            low, high = score.mean - score.interval, score.mean + score.interval
            row = [one.system, f"{score.value:.2f}", f"{low:.2f} to {high:.2f}"]
            if is_compared:
                # Tests of systems that do not differ tell of their method alone.
                is_tested = bool(tested.difference)
                chances = (
                    (tested.p_bootstrap, tested.p_randomisation) if is_tested else (None, None)
                )
                figures = (tested.difference, *chances)
                forms = ("+.2f", ".4f", ".4f")
                row += [
                    "" if figure is None else format(figure, form)
                    for figure, form in zip(figures, forms, strict=True)
                ]
            rows.append(row)
        blocks.append(documents.Table(header, rows))
        blocks.append(documents.Text(f"{name}|{group[0].score.signature}"))
    return blocks


def by_length(
    systems: Mapping[str, Sequence[str]], references: Sequence[str], metric: str = "chrf"
) -> documents.Table:
    """Returns the score of each system on the lines of each length of their references.

    Args:
        systems: translations by name.
        references: a line each.
        metric: one of `metrics.METRICS`.
    """
    rows = []
    classes = breakdowns.classes("length", [], breakdowns.Texts([references]))
    for name, places in classes.items():
        own = [references[place] for place in places]
        scores = [
            metrics.score(
                metric, [lines[place] for place in places], [own], metrics.MetricSettings()
            ).value
            for lines in systems.values()
        ]
        rows.append([name, f"{len(places):,}", *(f"{score:.1f}" for score in scores)])
    return documents.Table(["words of the reference", "lines", *systems], rows)


def sentences(
    sources: Sequence[str],
    references: Sequence[str],
    systems: Mapping[str, Sequence[str]],
    number: int,
) -> list[documents.Sentences]:
    """Returns the best and worst lines of the first system, and those on which systems differ most.

    Args:
        sources: a line each.
        references: likewise.
        systems: translations by name, one system at least.
        number: lines of each kind.
    """
    first = next(iter(systems))
    scores = {name: sentence_scores(lines, references) for name, lines in systems.items()}
    order = sorted(range(len(references)), key=lambda place: scores[first][place])

    def shown(title: str, places: Sequence[int]) -> documents.Sentences:
        found = []
        for place in places:
            lines = {
                "source": plain(sources[place]),
                "reference": marked(references[place], systems[first][place]),
            }
            lines |= {
                f"{name} (run)" if name in lines else name: marked(own[place], references[place])
                for name, own in systems.items()
            }
            note = ", ".join(f"chrF {own[place]:.0f} ({name})" for name, own in scores.items())
            found.append(documents.Sentence(place + 1, lines, note))
        return documents.Sentences(title, found)

    blocks = [
        shown(f"Lowest chrF of {first}", order[:number]),
        shown(f"Highest chrF of {first}", order[::-1][:number]),
    ]
    if len(systems) > 1:
        gaps = [max(of_line) - min(of_line) for of_line in zip(*scores.values(), strict=True)]
        differing = sorted(range(len(gaps)), key=lambda place: -gaps[place])
        between = " and ".join(systems) if len(systems) == 2 else f"{len(systems)} systems"
        blocks.append(shown(f"Largest difference between {between}", differing[:number]))
    return blocks
