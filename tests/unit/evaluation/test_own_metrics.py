"""Metrics that sacreBLEU does not have, against values worked out by hand or by other programs."""

import os
import sys
import types

import pytest

from nmt import errors
from nmt.evaluation import metrics, sequence_metrics


def score(name, hypotheses, *references, sources=None, **settings):
    own = metrics.MetricSettings(**settings)
    return metrics.score(name, hypotheses, references, own, sources=sources)


def value(name, hypotheses, *references, **settings):
    return score(name, hypotheses, *references, **settings).value


def test_token_accuracy_counts_places_of_the_longer_side():
    # 2 of 3; 1 of 2 (one too many); 0 of 1 (missing): 3 of 6.
    assert value("token_accuracy", ["a b x", "a b", ""], ["a b c", "a", "q"]) == 50.0


def test_token_accuracy_takes_the_best_reference_and_nothing_for_nothing_is_right():
    assert value("token_accuracy", ["a b"], ["x y"], ["a y"]) == 50.0
    assert value("token_accuracy", [""], [""]) == 100.0


def test_sequence_accuracy_does_not_see_blanks_and_exact_match_does():
    hypotheses, references = ["a  b ", "a b", "ab"], ["a b", "a b", "a b"]
    assert value("sequence_accuracy", hypotheses, references) == pytest.approx(200 / 3)
    assert value("exact_match", hypotheses, references) == pytest.approx(100 / 3)


def test_case_counts_unless_it_is_to_be_ignored():
    for name in ("token_accuracy", "sequence_accuracy"):
        assert value(name, ["A b"], ["a b"]) < 100.0
        assert value(name, ["A b"], ["a b"], lowercase=True) == 100.0
        assert "case:lc" in score(name, ["A b"], ["a b"], lowercase=True).signature


def test_word_error_rate_is_edits_over_reference_words():
    pytest.importorskip("rapidfuzz")
    # 1 substitution, 1 insertion, 2 deletions, of 3 + 1 + 4 words.
    found = score("wer", ["a x c", "a b", "a d"], ["a b c", "a", "a b c d"])
    assert found.value == 50.0
    assert found.text() == "WER|nrefs:1|case:mixed|tok:blanks = 50.00"


def test_word_error_rate_takes_the_reference_with_the_lowest_rate():
    pytest.importorskip("rapidfuzz")
    # 1 of 2 words against the first reference, 1 of 4 against the second, which both are 1 edit.
    assert value("wer", ["a b c"], ["a b", "a b c d"][:1], ["a b c d"]) == 25.0
    assert value("wer", ["a b c"], ["a b c d"], ["a b"]) == 25.0


def test_a_blank_reference_beside_another_changes_no_rate():
    long, short = ["x " * 10], ["a b c"]
    assert value("wer", long, short, [" "]) == value("wer", long, [" "], short) == 1000 / 3
    assert value("cer", ["xxxxx"], ["a"], [""]) == 500.0
    assert value("wer", ["x"], [""], [" "]) == 100.0


def test_error_rates_of_blank_references_are_defined():
    pytest.importorskip("rapidfuzz")
    assert value("wer", [""], [""]) == 0.0
    assert value("wer", ["a b"], [""]) == 100.0


def test_character_error_rate_is_over_characters_and_blanks_between_words():
    pytest.importorskip("rapidfuzz")
    # kitten, sitting: 3 edits of 7; the missing blank: 1 edit of 3.
    assert value("cer", ["kitten"], ["sitting"]) == pytest.approx(300 / 7)
    assert value("cer", ["ab"], ["a  b"]) == pytest.approx(100 / 3)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        ("B-PER I-PER O B-LOC", {("PER", 0, 2), ("LOC", 3, 4)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        ("I-PER I-LOC I-LOC", {("PER", 0, 1), ("LOC", 1, 3)}),
        ("B-A-B I-A-B", {("A-B", 0, 2)}),
        ("O junk O", set()),
        ("", set()),
    ],
)
def test_spans_are_those_of_bio_tags(tags, found):
    assert sequence_metrics.spans(tags.split()) == found


def test_span_f1_is_that_of_seqeval():
    """seqeval 1.2.2 gives 0.6667: 3 of 4 spans of the reference are found among 5."""
    references = ["B-PER I-PER O B-LOC", "I-PER I-LOC B-LOC I-LOC O"]
    hypotheses = ["B-PER I-PER O I-LOC", "B-PER I-LOC I-LOC I-LOC O"]
    assert value("span_f1", hypotheses, references) == pytest.approx(66.6667, abs=1e-4)
    assert value("span_f1", ["O O"], ["O O"]) == 100.0
    assert value("span_f1", ["O O"], ["B-X O"]) == 0.0


def test_span_f1_ignores_the_case_of_kinds_alone():
    hypotheses, references = ["B-Loc I-LOC O", "O B-per"], ["B-LOC I-LOC O", "B-PER O"]
    assert value("span_f1", hypotheses, references) == 0.0
    assert value("span_f1", hypotheses, references, lowercase=True) == 50.0
    assert "case:lc" in score("span_f1", hypotheses, references, lowercase=True).signature


def test_a_blank_reference_beside_another_asks_for_nothing():
    # Of the first line nothing was found, of the second all; what is not there makes no line right.
    hypotheses, tags, none = ["O O", "B-X"], ["B-X O", "B-X"], ["", ""]
    assert value("span_f1", hypotheses, tags, none) == pytest.approx(200 / 3)
    assert value("token_accuracy", ["", "a"], ["x y", "a"], ["", ""]) == pytest.approx(100 / 3)
    assert value("sequence_accuracy", [""], ["x"], [""]) == 100.0
    assert value("span_f1", [""], [""]) == 100.0


def test_rouge_is_that_of_its_package_on_ascii():
    """rouge-score 0.1.2 with its own tokenizer gives 0.8333, 0.2 and 0.6667 of these lines."""
    pytest.importorskip("rouge_score")
    lines = (["the brown quick fox jumps"], ["The quick brown fox, jumps over_it."])
    assert value("rouge1", *lines) == pytest.approx(83.3333, abs=1e-4)
    assert value("rouge2", *lines) == pytest.approx(20.0)
    assert value("rougel", *lines) == pytest.approx(66.6667, abs=1e-4)


def test_rouge_knows_letters_beyond_ascii_and_takes_means_and_best_references():
    pytest.importorskip("rouge_score")
    assert value("rouge1", ["Кошка спит"], ["кошка бежит"]) == 50.0
    assert value("rouge1", ["a b", "x"], ["a c", "y"], ["a b", "z"]) == 50.0
    # Signs for vowels, and an accent that is a character of its own.
    assert value("rouge1", ["हिन्दी"], ["हंदा"]) == 0.0
    assert value("rouge1", ["cafe\u0301, ici"], ["cafe_ici"]) == 50.0


@pytest.fixture
def comet(monkeypatch):
    """A stand-in for COMET's package, which notes what it is asked for."""
    asked = types.SimpleNamespace(downloads=[], loaded=[], triples=[])
    module = types.ModuleType("comet")

    class Model:
        def predict(self, triples, *, gpus, progress_bar):
            asked.triples.append(triples)
            scores = [1.0 if one["mt"] == one["ref"] else 0.25 for one in triples]
            return types.SimpleNamespace(scores=scores)

    module.download_model = lambda name: asked.downloads.append(name) or "fetched.ckpt"
    module.load_from_checkpoint = lambda path: asked.loaded.append(path) or Model()
    monkeypatch.setitem(sys.modules, "comet", module)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    yield asked
    os.environ.pop("HF_HUB_OFFLINE", None)


def test_comet_is_the_mean_over_lines_of_the_best_reference(comet, tmp_path):
    path = tmp_path / "model.ckpt"
    path.touch()
    found = score(
        "comet", ["a", "b"], ["a", "x"], ["y", "z"], sources=["A", "B"], comet_model=str(path)
    )
    assert found.value == 0.625
    assert found.text() == f"COMET|nrefs:2|case:mixed|model:{'/'.join(path.parts[-3:])} = 0.6250"
    assert comet.triples[0][0] == {"src": "A", "mt": "a", "ref": "a"}
    own = {"sources": ["A"], "comet_model": str(path), "lowercase": True}
    assert score("comet", ["B"], ["b"], **own).value == 1.0
    assert comet.triples[-1] == [{"src": "a", "mt": "b", "ref": "b"}]
    assert comet.loaded[:1] == [str(path)] and not comet.downloads
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_comet_downloads_only_when_it_is_told_to(comet):
    with pytest.raises(errors.UsageError, match="--download"):
        metrics.build("comet", metrics.MetricSettings(comet_model="org/model"))
    assert not comet.downloads and not comet.loaded
    settings = metrics.MetricSettings(comet_model="org/model", may_download=True)
    os.environ.pop("HF_HUB_OFFLINE")
    metrics.build("comet", settings)
    assert (comet.downloads, comet.loaded) == (["org/model"], ["fetched.ckpt"])
    assert "HF_HUB_OFFLINE" not in os.environ


def test_comet_wants_a_model_and_sources(comet, tmp_path):
    path = tmp_path / "model.ckpt"
    path.touch()
    with pytest.raises(errors.UsageError, match="--comet-model: missing"):
        metrics.build("comet", metrics.MetricSettings())
    with pytest.raises(errors.UsageError, match="wants the sources"):
        score("comet", ["a"], ["a"], comet_model=str(path))


@pytest.mark.parametrize("name", ["model.ckpt", "org/model"])
def test_a_comet_model_that_does_not_load_is_one_line(comet, tmp_path, monkeypatch, name):
    def fail(_):
        raise Exception("no hparams.yaml\nabove it")

    (tmp_path / "model.ckpt").touch()
    module = sys.modules["comet"]
    monkeypatch.setattr(module, "load_from_checkpoint", fail)
    monkeypatch.setattr(module, "download_model", fail)
    monkeypatch.chdir(tmp_path)
    settings = metrics.MetricSettings(comet_model=name, may_download=True)
    with pytest.raises(errors.UsageError, match=f"{name}.*: no hparams.yaml above it"):
        metrics.build("comet", settings)
    # A folder is no model.
    with pytest.raises(errors.UsageError, match="no such file"):
        metrics.build("comet", metrics.MetricSettings(comet_model=str(tmp_path)))
