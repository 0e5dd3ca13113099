"""Reports: pictures, pages and sentences side by side."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nmt.evaluation import breakdowns, comparing, documents, judging, metrics, pages, svg

CURVES = {"a <b>": [(0, 1.0), (100, 3.0), (200, 2.0)], "b": [(50, 10.0)]}
HEAT = documents.HeatMap("c & d", ["▁x", "</s>"], ["▁y", "</s>"], [[1.0, 0.0], [0.25, 0.75]])


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def find(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return root.findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def test_a_chart_has_its_points_where_they_belong():
    root = parsed(svg.chart(documents.Chart("t < u", "updates", CURVES)))
    (line, single) = (element.get("points") for element in find(root, "polyline"))
    points = [tuple(map(float, pair.split(","))) for pair in line.split()]
    assert len(points) == 3 and len(single.split()) == 1
    xs, ys = zip(*points, strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2) and xs[0] == svg.LEFT
    # The middle one is the highest, which is the smallest y; 1, 2 and 3 are at equal distances.
    assert ys[1] < ys[2] < ys[0]
    assert ys[0] - ys[2] == pytest.approx(ys[2] - ys[1], abs=0.2)
    texts = [element.text for element in find(root, "text")]
    assert {"t < u", "updates", "a <b>", "b"} <= set(texts)
    styles = {(line.get("stroke"), line.get("stroke-dasharray")) for line in find(root, "polyline")}
    assert len(styles) == 2
    assert root.get("aria-label") == "t < u"


def test_a_logarithmic_axis_has_equal_steps_for_equal_factors():
    chart = documents.Chart("p", "u", {"a": [(0, 10.0), (1, 100.0), (2, 1000.0)]}, True)
    (line,) = find(parsed(svg.chart(chart)), "polyline")
    ys = [float(pair.split(",")[1]) for pair in line.get("points").split()]
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2) and ys[0] > ys[1]


@given(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
@example(0.0, 5e-324)
@example(-3e-11, 2e-11)
@example(1e9, 1e9 + 1e-6)
def test_ticks_are_few_and_hold_the_values_between_them(one, other):
    low, high = sorted((one, other))
    found = svg.ticks(low, high)
    margin = 1e-6 * max(abs(low), abs(high), 1.0)
    assert 2 <= len(set(found)) == len(found) <= 9
    assert found[0] <= low + margin and found[-1] >= high - margin


def test_long_curves_are_thinned_without_moving_their_mean():
    points = [(float(x), math.sin(x)) for x in range(6000)]
    found = svg.thinned(points)
    assert len(found) <= svg.MAX_POINTS
    assert sum(y for _, y in found) / len(found) == pytest.approx(sum(y for _, y in points) / 6000)


def test_a_heat_map_is_darker_where_more_is():
    cells = find(parsed(svg.heat_map(HEAT)), "rect")
    assert [cell.get("fill") for cell in cells][:2] == ["#004278", "#ffffff"]
    assert "</s> to ▁x: 0.25" in [title.text for title in find(parsed(svg.heat_map(HEAT)), "title")]


def test_marks_stand_at_words_that_differ():
    line = comparing.marked("a big red dog", "a small red cat dog")
    assert line.runs == [("a", False), ("big", True), ("red dog", False)] or line.runs == [
        ("a", False), ("big", True), ("red", False), ("dog", False)
    ]  # fmt: skip
    assert comparing.marked("", "a").runs == []


def test_a_logarithmic_axis_has_one_two_five_or_powers_alone():
    def numbers(low, high):
        chart = documents.Chart("c", "updates", {"a": [(1, low), (2, high)]}, True)
        return re.findall(r'class="right">([^<]*)<', svg.chart(chart))

    assert numbers(1.5, 16) == ["1", "2", "5", "10", "20"]
    assert numbers(0.3, 90)[:4] == ["0.2", "0.5", "1", "2"]
    assert numbers(0.03, 9000) == ["0.01", "0.1", "1", "10", "100", "1,000", "10,000"]


def test_tables_of_scores_have_the_interval_around_the_mean_and_the_tests():
    lines = ["a b c d e", "f g h i j", "k l m n o", "p q r s t"]
    systems = {"one": lines, "two": ["a b c d e", "f g x i j", "k l m n x", "p q r s"]}
    judges = [metrics.build("chrf", metrics.MetricSettings())]
    request = judging.Request(judges, num_resamples=50, num_trials=50)
    judged = judging.judge(systems, breakdowns.Texts([lines]), request)
    table, note = comparing.tables(judged)
    assert table.header == ["run", "chrF2", "95 % interval", "difference", "p (bootstrap)",
                            "p (randomisation)"]  # fmt: skip
    score, tested = judged[1].score, judged[1].comparison
    low, high = (float(end) for end in table.rows[1][2].split(" to "))
    assert (low + high) / 2 == pytest.approx(score.mean, abs=0.01)
    assert (high - low) / 2 == pytest.approx(score.interval, abs=0.01) and high > low
    assert table.rows[1][3:] == [
        f"{tested.difference:+.2f}", f"{tested.p_bootstrap:.4f}", f"{tested.p_randomisation:.4f}",
    ]  # fmt: skip
    assert table.rows[0][3:] == ["", "", ""]
    assert note.text.startswith("chrF2|nrefs:1|bs:50|ar:50")
    alone, _ = comparing.tables(judging.judge({"one": lines}, breakdowns.Texts([lines]), request))
    assert [len(row) for row in (alone.header, *alone.rows)] == [3, 3]


def test_scores_by_length_count_each_line_once():
    references = ["a b", "a b c d e f", " ".join("x" * 60), ""]
    lines = ["a b", "z z z z z z", " ".join("x" * 60), ""]
    table = comparing.by_length({"one": lines}, references)
    assert sum(int(row[1]) for row in table.rows) == 4
    assert [row[0] for row in table.rows] == ["1 to 5", "6 to 10", "over 50"]
    assert float(table.rows[1][2]) < 1 < float(table.rows[2][2])


def test_sentences_are_the_worst_the_best_and_the_most_different():
    references = ["the cat sat", "a dog ran", "birds fly high"]
    systems = {"x": ["the cat sat", "q", "birds fly"], "y": ["the cat sat", "a dog ran", "birds"]}
    low, high, apart = comparing.sentences(["1", "2", "3"], references, systems, 1)
    assert [block.sentences[0].number for block in (low, high, apart)] == [2, 1, 2]
    assert apart.sentences[0].lines["x"].runs == [("q", True)]
    assert apart.sentences[0].lines["y"].runs == [("a dog ran", False)]


def test_of_many_systems_the_most_different_lines_are_those_of_all():
    references = ["the cat sat", "a dog ran", "birds fly high"]
    systems = {"source": references, "y": references, "z": ["the cat sat", "a dog ran", "q"]}
    *_, apart = comparing.sentences(["1", "2", "3"], references, systems, 1)
    assert (apart.title, apart.sentences[0].number) == ("Largest difference between 3 systems", 3)
    # A run of that name hides no line.
    assert list(apart.sentences[0].lines) == ["source", "reference", "source (run)", "y", "z"]
    assert apart.sentences[0].lines["source"].runs == [("3", False)]


def test_curves_of_many_runs_can_be_told_apart():
    curves = {str(number): [(1, 1.0), (2, 2.0)] for number in range(40)}
    drawn = svg.chart(documents.Chart("t", "u", curves))
    styles = re.findall(r'<polyline [^>]*stroke="([^"]*)" stroke-dasharray="([^"]*)"', drawn)
    assert len(set(styles)) == len(styles) == 40


def test_wide_letters_have_room():
    def left(text: str) -> int:
        drawn = svg.heat_map(documents.HeatMap("t", ["x"], [text], [[1.0]]))
        return int(re.search(r'<rect x="(\d+)"', drawn).group(1))

    assert left("\u65e5\u672c\u8a9e") == left("sixsix")


DOCUMENT = documents.Document(
    "r <1>",
    [
        documents.Section(
            "one",
            [
                documents.Text("a & b"),
                documents.Table(["k", "v"], [["x|y", "<z>"]], "folded"),
                documents.Chart("t", "u", CURVES),
                HEAT,
                documents.Sentences(
                    "s", [documents.Sentence(3, {"source": documents.Marked([("w", True)])}, "n")]
                ),
            ],
        )
    ],
)


def test_a_page_is_whole_and_loads_nothing():
    page = pages.to_html(DOCUMENT)
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert not re.search(r"(?:src|href)=[\"'](?!#|data:)", page)
    assert "default-src 'none'" in page
    assert "url(" not in page and "@import" not in page and "<script" not in page
    assert "a &amp; b" in page and "&lt;z&gt;" in page and "<mark>w</mark>" in page
    assert page.count("<svg") == 2 and "<summary>folded</summary>" in page


def test_markdown_has_the_same_in_words():
    text = pages.to_markdown(DOCUMENT)
    assert "| x\\|y | \\<z\\> |" in text and "folded:" in text
    assert "| a \\<b\\> | 1 | 1 | 3 | 2 |" in text
    assert "# r \\<1\\>" in text and "a \\& b" in text
    assert "| ▁y | ▁x | 1.00 |" in text
    assert "- line 3 n" in text and "  - source: **w**" in text


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 5e-5, 1e-4, 1.5e-4, 2e-4], ["0", "5e-5", "1e-4", "1.5e-4", "2e-4"]),
        ([2000.0, 2000.2, 2000.4], ["2,000", "2,000.2", "2,000.4"]),
        ([0.0, 2e8, 4e8], ["0", "2e8", "4e8"]),
        ([0.0, 0.5, 1.0], ["0", "0.5", "1"]),
        ([0.01, 0.1, 1.0, 10.0], ["0.01", "0.1", "1", "10"]),
        ([-100.0, 0.0, 100.0], ["-100", "0", "100"]),
    ],
)
def test_labels_have_the_digits_that_tell_them_apart(values, wanted):
    assert svg.labels(values) == wanted


def test_many_powers_are_thinned():
    found = svg._log_ticks(1.0, 1e43)
    assert len(found) < 12 and found[0] == 1.0 and found[-1] >= 1e43
