"""Lines are put into the classes that their words say, and each class has its own score."""

import json

import pytest

from nmt import errors
from nmt.cli import evaluate_flags
from nmt.evaluation import breakdowns, judging, metrics, score_tables

REFERENCES = ["a b c", "", "d " * 12, "a " * 60]


def classes(kind, hypotheses, references=REFERENCES, **texts):
    return breakdowns.classes(kind, hypotheses, breakdowns.Texts([references], **texts))


def test_lengths_are_those_of_the_reference_and_blank_ones_are_short():
    assert classes("length", ["x"] * 4) == {"1 to 5": [0, 1], "11 to 15": [2], "over 50": [3]}


def test_frequency_is_that_of_the_rarest_word():
    references = ["a b", "a a", "c a", "a a a a"]
    # a occurs 8 times, b and c once.
    assert classes("frequency", [""] * 4, references) == {"1": [0, 2], "5 to 9": [1, 3]}
    counts = {"a": 200, "b": 3}
    found = classes("frequency", [""] * 4, references, counts=counts)
    assert found == {"0": [2], "2 to 4": [0], "over 99": [1, 3]}
    assert classes("frequency", [""] * 2, ["", "a"]) == {"1": [1]}, "nothing is no common word"


def test_copied_are_source_words_that_no_reference_has():
    sources = ["the Paris x", "the Paris x", "the Paris x", "q"]
    hypotheses = ["das Paris y", "the the y z", "the x", ""]
    references = ["das Paris y"] * 4
    found = classes("copy", hypotheses, references, sources=sources)
    assert found == {"none": [0, 3], "up to 50 %": [1], "over 50 %": [2]}
    with pytest.raises(errors.UsageError, match="--by copy: wants the sources"):
        classes("copy", hypotheses, references)


def test_repetition_is_beyond_that_of_the_references():
    hypotheses = ["a a", "a a b", "a b a b", "a a a a a a"]
    references = ["b b", "x", "x", "a a"]
    found = classes("repetition", hypotheses, references)
    # `a a` once; `a b` once more; five doublings less the one of the reference.
    assert found == {"0": [0], "1": [1, 2], "over 3": [3]}


def _judged(systems, by=breakdowns.KINDS, names=("bleu", "exact_match"), **request):
    texts = breakdowns.Texts([["a b", "c d e f g h", "i j"]], ["a b", "x y", "i j"])
    judges = [metrics.build(name, metrics.MetricSettings()) for name in names]
    return judging.judge(systems, texts, judging.Request(judges, by=by, **request))


ONE = {"first": ["a b", "c d x x g h", "i q"]}
TWO = {**ONE, "second": ["a b", "c d e f g h", "i j"]}


def test_parts_have_the_scores_of_their_lines_alone():
    bleu, matches = _judged(ONE)
    assert [(part.name, part.num_lines, part.value) for part in matches.parts["length"]] == [
        ("1 to 5", 2, 50.0),
        ("6 to 10", 1, 0.0),
    ]
    own = metrics.MetricSettings()
    wanted = metrics.score("bleu", [ONE["first"][1]], [["c d e f g h"]], own).value
    assert bleu.parts["length"][1].value == pytest.approx(wanted) and wanted > 0
    for one in (bleu, matches):
        for parts in one.parts.values():
            assert sum(part.num_lines for part in parts) == 3


def test_the_table_of_one_system_is_lines_and_breakdowns():
    text = score_tables.to_text(_judged(ONE, ["length"]))
    first, second, blank, title, header, *rows = text.splitlines()
    assert first.startswith("BLEU|nrefs:1|") and second.startswith("exact match: 33.3 % (")
    assert (blank, title) == ("", "by length: words of the reference")
    assert header.split() == ["lines", "BLEU", "exact", "match"]
    assert rows[1].split()[:4] == ["6", "to", "10", "1"]
    assert len(rows) == 2 and len({len(row) for row in (header, *rows)}) == 1


def test_the_table_of_two_systems_has_tests_and_marks():
    judged = _judged(TWO, [], ["exact_match"], num_resamples=50, num_trials=50)
    title, header, first, second, blank, note = score_tables.to_text(judged).splitlines()
    assert title.startswith("exact match|nrefs:1|bs:50|ar:50|seed:12345|case:mixed")
    assert first.split()[:2] == ["first", "33.33"]
    assert second.split()[:2] == ["second", "100.00"] and "+66.67" in second
    assert header.split()[:2] == ["exact", "match"] and "(randomisation)" in header
    assert blank == "" and note.startswith("3 lines.")


def test_tsv_has_every_score_under_its_column():
    text = score_tables.to_tsv(_judged(TWO, ["length"], num_resamples=50, num_trials=50))
    header, *rows = [line.split("\t") for line in text.splitlines()]
    assert tuple(header) == score_tables.COLUMNS
    assert all(len(row) == len(header) for row in rows)
    found = [dict(zip(header, row, strict=True)) for row in rows]
    whole = [row for row in found if not row["by"]]
    assert [(row["system"], row["metric"]) for row in whole] == [
        ("first", "BLEU"), ("second", "BLEU"), ("first", "exact match"), ("second", "exact match"),
    ]  # fmt: skip
    assert whole[3]["score"] == "100.00" and whole[3]["difference"] == "66.67"
    assert whole[2]["p_bootstrap"] == "" and 0 < float(whole[3]["p_randomisation"]) <= 1
    parts = [row for row in found if row["by"] and row["metric"] == "exact match"]
    assert [(row["class"], row["lines"], row["score"]) for row in parts[:2]] == [
        ("1 to 5", "2", "50.00"), ("6 to 10", "1", "0.00"),
    ]  # fmt: skip


def test_json_has_systems_differences_and_parts_only_where_there_are_any():
    (alone,) = json.loads(score_tables.to_json(_judged(ONE, [], ["exact_match"])))
    assert not {"system", "difference", "by", "confidence"} & set(alone)
    first, second = json.loads(
        score_tables.to_json(
            _judged(TWO, ["length"], ["exact_match"], num_resamples=50, num_trials=50)
        )
    )
    assert (first["system"], second["system"]) == ("first", "second")
    assert "difference" not in first and second["difference"] == 66.67
    assert first["by"]["length"][0] == {"class": "1 to 5", "lines": 2, "score": 50.0}


def test_segments_have_the_figures_of_every_line_of_every_system():
    text = score_tables.to_segments(_judged(TWO, [], num_resamples=2, num_trials=2))
    header, *rows = [line.split("\t") for line in text.splitlines()]
    assert header == ["line", "system", "BLEU", "exact match"]
    assert [row[:2] for row in rows[2:4]] == [["3", "first"], ["1", "second"]]
    assert [row[3] for row in rows] == ["100.00", "0.00", "0.00", "100.00", "100.00", "100.00"]


def test_the_flags_know_every_breakdown():
    assert evaluate_flags.BREAKDOWNS == breakdowns.KINDS
