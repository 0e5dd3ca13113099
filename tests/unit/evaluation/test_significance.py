"""Intervals and paired tests are those that the `sacrebleu` command prints, to the last digit."""

import json
import os
import random
import re
import subprocess
import sys

import pytest

from nmt import errors
from nmt.evaluation import breakdowns, judging, metrics, score_tables, significance

WORDS = [*"the a cat dog sat on mat house red Green runs , . 12 was in".split(), "Käse"]  # noqa: SIM905
NAMES = {"bleu": "BLEU", "chrf": "chrF2", "ter": "TER"}


def _noisy(generator, line, rate):
    words = [
        generator.choice(WORDS) if generator.random() < rate else word for word in line.split()
    ]
    return " ".join(word for word in words if generator.random() > rate / 3)


def _corpus():
    generator = random.Random(3)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(3, 14))) for _ in range(60)]
    rates = {"first": 0.3, "second": 0.22, "third": 0.5}
    systems = {
        name: [_noisy(generator, line, rate) for line in references] for name, rate in rates.items()
    }
    return references, systems


def _tagged(line):
    """Returns BIO tags in the place of words: animals and things are spans, colours may go on."""
    kinds = {
        "cat": "B-ANIMAL",
        "dog": "B-ANIMAL",
        "house": "B-THING",
        "red": "I-THING",
        "mat": "B-THING",
    }
    return " ".join(kinds.get(word, "O") for word in line.split())


REFERENCES, SYSTEMS = _corpus()
TEXTS = breakdowns.Texts([REFERENCES])


@pytest.fixture(scope="module")
def sacrebleu(tmp_path_factory):
    """A function that runs the command on the corpus and returns what it prints."""
    folder = tmp_path_factory.mktemp("sacrebleu")
    for name, lines in {"reference": REFERENCES, **SYSTEMS}.items():
        (folder / name).write_text("".join(f"{line}\n" for line in lines))

    def run(systems, *flags, seed=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SACREBLEU")}
        if seed is not None:
            environment["SACREBLEU_SEED"] = seed
        done = subprocess.run(
            [
                *(sys.executable, "-m", "sacrebleu", "reference", "-i", *systems),
                *("-m", *NAMES, "-w", "2", *flags),
            ],
            capture_output=True,
            check=True,
            encoding="utf-8",
            cwd=folder,
            env=environment | {"NO_COLOR": "1"},
        )
        return done.stdout

    return run


@pytest.fixture(autouse=True)
def _default_seed(monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)


def _judged(names=tuple(NAMES), systems=SYSTEMS, **request):
    judges = [metrics.build(name, metrics.MetricSettings()) for name in names]
    return judging.judge(systems, TEXTS, judging.Request(judges, **request))


def _alone(name, **settings):
    own = metrics.MetricSettings()
    return metrics.score(name, SYSTEMS["first"], [REFERENCES], own, **settings)


@pytest.mark.parametrize(("seed", "number"), [(None, 1000), ("7", 200)])
def test_intervals_are_those_of_the_confidence_flag(sacrebleu, monkeypatch, seed, number):
    if seed is not None:
        monkeypatch.setenv("SACREBLEU_SEED", seed)
    flags = ("--confidence", "--confidence-n", str(number))
    printed = sacrebleu(["first"], *flags, "-f", "text", seed=seed)
    found = [_alone(name, num_resamples=number) for name in NAMES]
    assert [one.text() for one in found] == [line.strip() for line in printed.splitlines()]
    printed = json.loads(sacrebleu(["first"], *flags, "-f", "json", seed=seed))
    assert [one.as_json() for one in found] == printed


def test_another_seed_gives_another_interval(monkeypatch):
    first = _alone("bleu", num_resamples=100)
    monkeypatch.setenv("SACREBLEU_SEED", "99")
    second = _alone("bleu", num_resamples=100)
    assert first.value == second.value and first.mean != second.mean
    assert "seed:12345" in first.signature and "seed:99" in second.signature


def test_paired_bootstrap_is_that_of_the_command(sacrebleu):
    # In its JSON this command cannot print its own numbers, so they are read from its table.
    printed = sacrebleu(SYSTEMS, "--paired-bs", "-f", "text")
    scores = re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)", printed)
    p_values = re.findall(r"\(p = (\d\.\d{4})\)", printed)
    judged = _judged(num_trials=1)
    by_system = sorted(judged, key=lambda one: list(SYSTEMS).index(one.system))
    assert scores == [
        tuple(f"{value:.2f}" for value in (one.score.value, one.score.mean, one.score.interval))
        for one in by_system
    ]
    found = [one.comparison.p_bootstrap for one in by_system]
    assert p_values == [f"{value:.4f}" for value in found if value is not None]
    assert len(p_values) == 6


@pytest.mark.parametrize(("number", "seed"), [(1000, None), (300, "7")])
def test_paired_randomisation_is_that_of_the_command(sacrebleu, monkeypatch, number, seed):
    if seed is not None:
        monkeypatch.setenv("SACREBLEU_SEED", seed)
    flags = ("--paired-ar", "--paired-ar-n", str(number), "-f", "json")
    printed = json.loads(sacrebleu(SYSTEMS, *flags, seed=seed))
    for one in _judged(num_resamples=2, num_trials=number):
        wanted = printed[list(SYSTEMS).index(one.system)][one.score.name]
        assert one.comparison.p_randomisation == wanted["p_value"]
        assert (one.comparison.difference is None) == (one.system == "first")


@pytest.mark.parametrize("name", ["exact_match", "token_accuracy", "span_f1"])
def test_own_metrics_are_tested_too(name):
    systems, texts = SYSTEMS, TEXTS
    if name == "span_f1":
        # A word of capitals is a name.
        systems = {system: list(map(_tagged, lines)) for system, lines in SYSTEMS.items()}
        texts = breakdowns.Texts([list(map(_tagged, REFERENCES))])
    judged = judging.judge(
        systems,
        texts,
        judging.Request([metrics.build(name, metrics.MetricSettings())], 200, num_trials=500),
    )
    first, second, third = judged
    assert first.comparison.p_bootstrap is None
    assert second.comparison.difference == pytest.approx(second.score.value - first.score.value)
    if name != "exact_match":
        assert 0 < third.score.value < 100
        assert third.comparison.p_bootstrap < 0.05 and third.comparison.p_randomisation < 0.05
        assert third.score.interval > 0.0


@pytest.mark.parametrize("name", ["exact_match", "token_accuracy"])
def test_one_line_that_differs_is_no_significant_difference(name):
    """Each swap of the two systems gives the same difference again, which has to count."""
    lines = list(SYSTEMS["first"])
    lines[5] = REFERENCES[5]
    assert lines != SYSTEMS["first"]
    for other in (lines, SYSTEMS["first"]):
        systems = {"first": SYSTEMS["first"], "other": other}
        _, one = _judged([name], systems, num_resamples=200, num_trials=50)
        assert one.comparison.p_randomisation == 1.0
        assert one.comparison.p_bootstrap > 0.1


def test_equal_systems_are_not_marked_as_different():
    systems = {"first": SYSTEMS["first"], "other": SYSTEMS["first"]}
    judged = _judged(["bleu"], systems, num_resamples=50, num_trials=50)
    assert judged[1].comparison.p_bootstrap < 0.05  # sacreBLEU's
    assert "*" not in score_tables.to_text(judged).splitlines()[3]


@pytest.mark.parametrize(("number", "is_marked"), [(1, False), (5, False), (6, True), (60, True)])
def test_few_lines_that_differ_are_not_marked_as_different(number, is_marked):
    """All or none of them are swapped once in 2 ** (number - 1) trials, which sacreBLEU does not count."""
    lines = ["a cat sat on the mat"] * number + SYSTEMS["first"][number:]
    texts = breakdowns.Texts([["a dog ran to the house"] * number + REFERENCES[number:]])
    first = ["a dog ran to the house"] * number + SYSTEMS["first"][number:]
    judges = [metrics.build("bleu", metrics.MetricSettings())]
    judged = judging.judge(
        {"first": first, "other": lines}, texts, judging.Request(judges, 50, num_trials=50)
    )
    assert judged[1].comparison.num_different == number
    assert judged[1].comparison.p_randomisation < 0.05
    assert ("*" in score_tables.to_text(judged).splitlines()[3]) == is_marked


def test_a_seed_that_is_no_number_is_one_line(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "many")
    with pytest.raises(errors.UsageError, match=r"^\$SACREBLEU_SEED: wants a whole number"):
        significance.seed()
    monkeypatch.setenv("SACREBLEU_SEED", "None")
    assert significance.seed() == "none"


def test_a_seed_of_nought_is_refused_since_it_is_none_to_sacrebleu(monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "00")
    with pytest.raises(errors.UsageError, match="SACREBLEU_SEED: 0 is another seed each time"):
        _alone("bleu", num_resamples=10)


def test_figures_of_lines_are_those_of_the_sentence_level_flag(sacrebleu):
    for name in NAMES:
        printed = sacrebleu(["first"], "-sl", "-b", "-m", name)
        (one,) = _judged([name], {"first": SYSTEMS["first"]})
        assert [f"{figure:.2f}" for figure in one.line_figures] == printed.split()
        assert one.score.text() == _alone(name).text()


@pytest.mark.parametrize("num_lines", [1, 2])
def test_draws_that_are_all_alike_are_no_evidence(num_lines):
    lines = ["a b c"] * num_lines
    systems = {"first": ["x y z"] * num_lines, "second": lines}
    judge = metrics.METRICS["exact_match"](metrics.MetricSettings())
    rows = {name: judge.rows(own, [lines]) for name, own in systems.items()}
    tested = significance.compare(judge, rows, 1)["second"]
    assert tested.p_bootstrap == 1.0


def test_tests_that_do_not_fit_in_memory_are_refused_before_they_begin(monkeypatch):
    # The indices and the counts of 200 resamples of 60 lines, or masks for 500 trials.
    for number, trials, size in ((200, 0, 200 * 60 * (8 + 4 * 10)), (1, 500, 500 * 60 * 10)):
        monkeypatch.setattr(significance.host, "total_memory", lambda size=size: size - 1)
        with pytest.raises(errors.UsageError, match="of 60 lines take about"):
            _judged(["bleu"], num_resamples=number, num_trials=trials)
        monkeypatch.setattr(significance.host, "total_memory", lambda size=size: size)
        assert _judged(["bleu"], num_resamples=number, num_trials=trials)
