"""Judgements as text for people, as tab-separated values, as JSON, and line by line."""

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nmt.evaluation import breakdowns, judging

# What is less probable by chance is marked. Of so many lines that differ, none and all are swapped once
# in 2 ** (number - 1) times, which gives the same difference: fewer than six prove nothing at that level.
# SacreBLEU's tests do not count it, and find the smallest p there is where a single line differs.
SIGNIFICANT = 0.05
MIN_DIFFERENT = 6

COLUMNS = (
    *("pair", "system", "metric", "by", "class", "lines", "score", "mean", "interval"),
    *("difference", "p_bootstrap", "p_randomisation", "signature"),
)


def to_text(judgements: Sequence[judging.Judgement]) -> str:
    """Returns lines for people: those of sacreBLEU for one system, a table for several.

    Args:
        judgements: pair by pair, metric by metric. Of several pairs each has a heading, and the means
            over them stand at the end.
    """
    pairs = _grouped(judgements, lambda one: one.pair or "")
    blocks = []
    for pair, of_pair in pairs.items():
        own = _corpus(of_pair)
        if pair:
            own[0] = [f"{pair}:", *own[0]]
        blocks += own
    if len(pairs) > 1:
        blocks.append(["mean over pairs:", *_aligned(_mean_rows(judgements))])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _corpus(judgements: Sequence[judging.Judgement]) -> list[list[str]]:
    """Returns blocks of lines about one corpus."""
    groups = by_metric(judgements)
    if all(len(group) == 1 for group in groups):
        blocks = [[one.score.text() for one in judgements]]
    else:
        blocks = [_comparison(group) for group in groups]
        blocks.append(
            [
                f"{judgements[0].num_lines:,} lines. p: probability of so large a difference from the "
                f"first system by chance; * below {SIGNIFICANT} if {MIN_DIFFERENT} lines or more differ."
            ]
        )
    blocks += [_breakdown(kind, groups) for kind in judgements[0].parts]
    return blocks


def to_tsv(judgements: Sequence[judging.Judgement]) -> str:
    """Returns a line for each score under a header; empty cells are what does not apply."""
    rows: list[Sequence[str]] = [COLUMNS]
    for one in judgements:
        score, width = one.score, one.score.decimals
        names = [one.pair or "", one.system, score.name]
        tested = one.comparison
        rows.append(
            [
                *(*names, "", "", str(one.num_lines), f"{score.value:.{width}f}"),
                *(_number(value, width) for value in (score.mean, score.interval)),
                _number(tested.difference, width),
                *(_number(value, 4) for value in (tested.p_bootstrap, tested.p_randomisation)),
                score.signature,
            ]
        )
        for kind, parts in one.parts.items():
            for part in parts:
                cells = [kind, part.name, str(part.num_lines), f"{part.value:.{width}f}"]
                rows.append([*names, *cells, *[""] * 5, score.signature])
    if len(_grouped(judgements, lambda one: one.pair or "")) > 1:
        for one, mean in _means(judgements):
            names = ["mean", one.system, one.score.name]
            rows.append([*names, *[""] * 3, f"{mean:.{one.score.decimals}f}", *[""] * 6])
    return _tsv(rows)


def to_json(judgements: Sequence[judging.Judgement]) -> str:
    """Returns a list of scores under sacreBLEU's keys, with ours behind them where they apply.

    Of several pairs each object has its `pair`, and those of `mean` come last.
    """
    is_alone = len({one.system for one in judgements}) == 1
    found = []
    for one in judgements:
        fields: dict[str, Any] = one.score.as_json()
        if one.pair is not None:
            fields["pair"] = one.pair
        if not is_alone:
            fields["system"] = one.system
        tested = one.comparison
        if tested.difference is not None:
            fields["difference"] = float(f"{tested.difference:.{one.score.decimals}f}")
            fields["p_bootstrap"] = tested.p_bootstrap
            fields["p_randomisation"] = tested.p_randomisation
        if one.parts:
            fields["by"] = {
                kind: [
                    {
                        "class": part.name,
                        "lines": part.num_lines,
                        "score": float(f"{part.value:.{one.score.decimals}f}"),
                    }
                    for part in parts
                ]
                for kind, parts in one.parts.items()
            }
        found.append(fields)
    if len(_grouped(judgements, lambda one: one.pair or "")) > 1:
        for one, mean in _means(judgements):
            value = float(f"{mean:.{one.score.decimals}f}")
            own = {} if is_alone else {"system": one.system}
            found.append({"pair": "mean", "name": one.score.name, "score": value, **own})
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def to_segments(judgements: Sequence[judging.Judgement]) -> str:
    """Returns tab-separated figures of every line (counted from 1) of every system."""
    groups = by_metric(judgements)
    pair = [] if judgements[0].pair is None else ["pair"]
    names = [group[0].score.name for group in groups]
    rows: list[Sequence[str]] = [[*pair, "line", "system", *names]]
    for of_system in zip(*groups, strict=True):
        lines = zip(*(one.line_figures for one in of_system), strict=True)
        pair = [] if of_system[0].pair is None else [of_system[0].pair]
        for number, figures in enumerate(lines, start=1):
            cells = [
                f"{figure:.{one.score.decimals}f}"
                for figure, one in zip(figures, of_system, strict=True)
            ]
            rows.append([*pair, str(number), of_system[0].system, *cells])
    return _tsv(rows)


def _grouped(
    judgements: Sequence[judging.Judgement], key: Callable[[judging.Judgement], str]
) -> dict[str, list[judging.Judgement]]:
    groups: dict[str, list[judging.Judgement]] = {}
    for one in judgements:
        groups.setdefault(key(one), []).append(one)
    return groups


def by_metric(judgements: Sequence[judging.Judgement]) -> list[list[judging.Judgement]]:
    """Returns the judgements of each metric."""
    return list(_grouped(judgements, lambda one: one.score.name).values())


def _means(judgements: Sequence[judging.Judgement]) -> Iterator[tuple[judging.Judgement, float]]:
    """Yields the mean over pairs of each metric of each system, with one of its judgements."""
    for group in by_metric(judgements):
        for of_system in _grouped(group, lambda one: one.system).values():
            values = [one.score.value for one in of_system]
            yield of_system[0], sum(values) / len(values)


def _mean_rows(judgements: Sequence[judging.Judgement]) -> list[list[str]]:
    systems = list(_grouped(judgements, lambda one: one.system))
    names, cells = [""], {system: [system] for system in systems}
    for one, mean in _means(judgements):
        if one.system == systems[0]:
            names.append(one.score.name)
        cells[one.system].append(f"{mean:.{one.score.decimals}f}")
    return [names, *cells.values()]


def _comparison(group: Sequence[judging.Judgement]) -> list[str]:
    """Returns a metric of several systems."""
    first = group[0].score
    rows = [["", first.name, "μ ± 95 %", "difference", "p (bootstrap)", "p (randomisation)"]]
    for one in group:
        score, tested, width = one.score, one.comparison, one.score.decimals
        row = [one.system, f"{score.value:.{width}f}"]
        row.append(f"{score.mean:.{width}f} ± {score.interval:.{width}f}")
        if tested.difference is not None:
            row.append(f"{tested.difference:+.{width}f}")
            is_proof = tested.difference != 0.0 and tested.num_different >= MIN_DIFFERENT
            row += [
                _probability(value, is_proof)
                for value in (tested.p_bootstrap, tested.p_randomisation)
            ]
        rows.append(row)
    return [f"{first.name}|{first.signature}", *_aligned(rows)]


def _breakdown(kind: str, groups: Sequence[Sequence[judging.Judgement]]) -> list[str]:
    """Returns the scores of classes of lines, a line for each class of each system."""
    names = [group[0].score.name for group in groups]
    rows = [["", "lines", *names]]
    for of_system in zip(*groups, strict=True):
        if len(groups[0]) > 1:
            rows.append([of_system[0].system])
        for of_class in zip(*(one.parts[kind] for one in of_system), strict=True):
            figures = [
                f"{part.value:.{one.score.decimals}f}"
                for part, one in zip(of_class, of_system, strict=True)
            ]
            rows.append([of_class[0].name, f"{of_class[0].num_lines:,}", *figures])
    return [f"by {kind}: {breakdowns.TITLES[kind]}", *_aligned(rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns cells in columns: the first on the left, figures on the right."""
    number = max(map(len, rows))
    full = [[*row, *[""] * (number - len(row))] for row in rows]
    # A line of one cell is a heading, for which the first column need not be wide.
    widths = [
        max(len(row[place]) for row in rows if len(row) > max(place, 1)) for place in range(number)
    ]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]


def _probability(value: float | None, is_proof: bool) -> str:
    assert value is not None, "a system that is compared has been tested"
    return f"{value:.4f}{' *' if is_proof and value < SIGNIFICANT else '  '}"


def _number(value: float | None, width: int) -> str:
    return "" if value is None else f"{value:.{width}f}"


def _tsv(rows: Sequence[Sequence[str]]) -> str:
    return "".join("\t".join(cell.replace("\t", " ") for cell in row) + "\n" for row in rows)
