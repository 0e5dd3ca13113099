"""Lines of n-best lists are read as Moses writes them."""

import pytest

from nmt import errors
from nmt.evaluation import nbest


def test_a_line_is_read_and_written_again():
    line = "12 ||| ein Haus . ||| logprob=-1.5 lm=2 ||| -0.75"
    entry = nbest.parse(line, "x:1")
    assert entry == nbest.Entry(12, "ein Haus .", "logprob=-1.5 lm=2", "-0.75")
    assert entry.line() == line
    aligned = f"{line} ||| 0-0 1-1"
    assert nbest.parse(aligned, "x:1").line() == aligned


@pytest.mark.parametrize(
    ("features", "value"),
    [
        ("logprob=-1.5", -1.5),
        ("lm=-3 logprob= -2 tm=1", -2.0),  # Moses itself puts a space there
        ("nologprob=-1.5", None),
        ("logprob=x", None),
        ("logprob=nan", None),
        ("logprob=-inf", float("-inf")),
        ("", None),
    ],
)
def test_a_feature_is_found_by_its_whole_name(features, value):
    assert nbest.Entry(0, "", features).feature("logprob") == value


def test_a_feature_is_added_or_replaced():
    entry = nbest.Entry(0, "a", "lm=1 logprob= -2 tm=3")
    assert entry.with_feature("logprob", -5.0).features == "lm=1 tm=3 logprob=-5.000000"
    assert nbest.Entry(0, "a").with_feature("x", 1.0).features == "x=1.000000"


def test_fields_that_are_missing_are_empty_and_those_behind_the_score_are_kept():
    assert nbest.parse("0 ||| a", "x:1") == nbest.Entry(0, "a")
    assert nbest.parse("0 |||  ||| f=1 ||| -1", "x:1") == nbest.Entry(0, "", "f=1", "-1")
    assert nbest.parse("0|||a|||f=1|||-1|||0-0", "x:1") == nbest.Entry(
        0, "a", "f=1", "-1", ("0-0",)
    )


@pytest.mark.parametrize("line", ["", "just text", "x ||| a", "-1 ||| a", "1_0 ||| a", "² ||| a"])
def test_other_lines_are_refused_with_their_place(line):
    with pytest.raises(errors.DataError, match=r"^list:7: "):
        nbest.parse(line, "list:7")
