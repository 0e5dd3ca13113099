"""Every family learns a toy task, with `train`, `translate`, `evaluate` and hardly an argument."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt import api

FAMILIES = ["rnn", "cnn", "transformer"]
MODEL_FILES = ["config.yaml", "manifest.json", "model.safetensors"]


def read(name: str | Path) -> list[str]:
    return Path(name).read_text().split("\n")[:-1]


def bleu_of(line: str) -> float:
    match = re.match(r"BLEU\|nrefs:1\|case:mixed\|\S*version:\S+ = (\d+\.\d+) ", line)
    assert match, line
    return float(match[1])


@pytest.fixture(params=FAMILIES)
def project(
    request: pytest.FixtureRequest, learned: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The directory of a trained run, and the working directory of the test."""
    folder = learned(request.param)
    monkeypatch.chdir(folder)
    return folder


def copy_model(project: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copy(project / "run" / name, target)
    shutil.copytree(project / "run" / "tokenizer", target / "tokenizer")
    return target


def test_held_out_lines_are_translated_right_without_any_argument(project, nmt):
    assert not set(read("test.src")) & set(read("train.src"))
    done = nmt("translate", stdin=Path("test.src").read_bytes())
    assert done.code == 0
    wanted = read("test.tgt")
    assert sum(map(str.__eq__, done.lines, wanted)) >= 0.85 * len(wanted)
    assert len(done.lines) == len(wanted)
    assert done.messages == ["model: run (the last run of `nmt train` here, see .nmt/last-run)"]


def test_file_on_stdin_of_a_process_is_translated_like_any_input(learned, nmt, start, monkeypatch):
    monkeypatch.chdir(learned("cnn"))
    wanted = nmt("translate", "--input", "test.src")
    with open("test.src", "rb") as source:
        process = start("translate", stdin=source)
        out, err = process.communicate(timeout=60.0)
    assert (process.returncode, out, err.decode()) == (0, wanted.out, wanted.err)


def test_evaluate_scores_the_test_set_as_sacrebleu_scores_the_translations(project, nmt, tmp_path):
    done = nmt("evaluate", "--bleu")
    assert done.code == 0
    [line] = done.lines
    assert bleu_of(line) >= 85.0
    hypotheses = tmp_path / "hypotheses"
    assert nmt("translate", "--input", "test.src", "--output", hypotheses).out == b""
    scored = nmt("evaluate", "--bleu", "--hyp", hypotheses, "--ref", "test.tgt")
    assert (scored.lines, scored.err) == ([line], "")
    given = nmt("evaluate", "--bleu", "--src", "test.src", "--ref", "test.tgt")
    assert given.lines == [line]


def test_evaluate_reports_the_share_of_lines_that_match(project, nmt, tmp_path):
    done = nmt("evaluate", "--exact-match", "--json", "--output", tmp_path / "hypotheses")
    matches = sum(map(str.__eq__, read(tmp_path / "hypotheses"), read("test.tgt")))
    [score] = json.loads(done.text)
    assert score["score"] == pytest.approx(100.0 * matches / 60, abs=0.01)


def test_evaluate_prints_bleu_and_chrf_where_no_metric_is_named(project, nmt):
    names = [line.partition("|")[0] for line in nmt("evaluate").lines]
    assert names == ["BLEU", "chrF2"]


def test_scores_of_the_run_are_those_of_evaluate_on_its_validation_set(project, nmt):
    shown = json.loads(nmt("inspect", "--json").text)
    valid = ["--src", "valid.src", "--ref", "valid.tgt", "--beam-size", "1", "--bleu", "--json"]
    [score] = json.loads(nmt("evaluate", *valid).text)
    assert score["score"] == round(shown["validation"]["bleu"], 2)


def test_model_folder_works_elsewhere_without_corpora_or_checkpoints(
    project, nmt, tmp_path, monkeypatch
):
    source = Path("test.src").read_bytes()
    wanted = nmt("translate", stdin=source).out
    moved = copy_model(project, tmp_path / "other" / "place")
    monkeypatch.chdir(tmp_path)
    done = nmt("translate", "--model", moved, stdin=source)
    assert (done.code, done.out, done.err) == (0, wanted, "")
    monkeypatch.setenv("NMT_MODEL", "other/place")
    done = nmt("translate", stdin=source)
    assert (done.out, done.err) == (wanted, "model: other/place ($NMT_MODEL)\n")


def test_python_face_gives_what_the_command_gives(project, nmt):
    source = read("test.src")[:10]
    model = api.load("run")
    text = "".join(f"{line}\n" for line in source)
    assert model.translate(source) == nmt("translate", stdin=text.encode()).lines
    best = [found[0] for found in model.translate_nbest(source, 2, length_penalty=0)]
    forced = model.score(source, [one.text for one in best])
    assert [one.score for one in best] == pytest.approx(forced, abs=1e-4)


def test_ensemble_of_a_model_with_itself_is_that_model(project, nmt):
    argv = ["translate", "--model", "run", "--precision", "fp64", "--input", "test.src"]
    assert nmt(*argv, "--model", "run").out == nmt(*argv).out


def test_inspect_shows_what_the_folder_is(project, nmt):
    done = nmt("inspect", "run")
    assert (done.code, done.err) == (0, "")
    family = project.name.split("-")[1].rstrip("0123456789")
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert shown["encoder"].startswith(family) and shown["decoder"].startswith(family)
    assert shown["languages"] == "aa -> bb"
    assert [line.split()[0] for line in done.lines] == list(shown)


def test_metrics_show_the_loss_falling(project, open_run):
    losses = [line["loss"] for line in open_run().metrics if line["event"] == "train"]
    assert len(losses) >= 5
    assert losses[-1] < 0.3 * losses[0]


def test_models_of_different_vocabularies_are_no_ensemble(learned, nmt):
    folders = [learned(family) / "run" for family in ("rnn", "cnn")]
    done = nmt("translate", "--model", folders[0], "--model", folders[1], stdin=b"ba\n")
    done.assert_refused(2, f"--model {folders[1]}: its src vocabulary is not that of {folders[0]}")
