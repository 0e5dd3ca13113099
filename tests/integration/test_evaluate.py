"""`nmt evaluate` on ready files and on models: comparisons, forms of output, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import api, errors
from nmt.cli import parser
from nmt.evaluation import judging, metrics

REFERENCES = ["the cat sat on the mat", "a dog ran", "two birds sing in a tree", "it is late"]
FIRST = ["the cat sat on a mat", "a dog runs", "two birds sing in trees", "it is late"]
SECOND = ["cat the on sat", "a dog ran", "birds tree", "late late late"]
SOURCES = ["die Katze sat", "ein Hund", "zwei Vögel", "late"]


def write(name, lines):
    Path(name).write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture(autouse=True)
def _files(_here):
    for name, lines in (("ref", REFERENCES), ("a", FIRST), ("b", SECOND), ("src", SOURCES)):
        write(name, lines)
    write("short", REFERENCES[:3])
    write("nil", [])


def test_one_file_is_not_asked_for_twice(nmt):
    Path("h").write_text("a b\n")
    both = ("--segments", "x", "--output", "x")
    nmt("evaluate", "--hyp", "h", "--ref", "h", *both).assert_refused(
        2, "--segments: is the file of"
    )
    nmt("evaluate", "--hyp", "h", "--ref", "h", "--no-shortlist").assert_refused(2, "--shortlist")
    for flags, text in (
        (
            ["--segments", "./x", "--output", str(Path("x").resolve())],
            "--segments: is the file of --o",
        ),
        (["--segments", "./ref"], "--segments: is the file of --ref, too"),
        (["--segments", "a", "--src", "src"], "--segments: is the file of --hyp, too"),
    ):
        nmt("evaluate", "--hyp", "a", "--ref", "ref", *flags).assert_refused(2, text)
    assert Path("ref").read_text().splitlines() == REFERENCES
    assert nmt("evaluate", "--hyp", "a", "--ref", "ref", "--segments", "/dev/stdout").code == 0


def test_a_byte_order_mark_is_no_part_of_the_first_line(nmt):
    Path("marked").write_text(Path("a").read_text(), encoding="utf-8-sig")
    wanted = nmt("evaluate", "--hyp", "a", "--ref", "ref")
    done = nmt("evaluate", "--hyp", "marked", "--ref", "ref")
    assert done.out == wanted.out


def test_lines_with_intervals_are_those_of_the_sacrebleu_command(nmt, monkeypatch):
    monkeypatch.delenv("SACREBLEU_SEED", raising=False)
    flags = ["-m", "bleu", "chrf", "ter", "-w", "2", "-f", "text", "--confidence"]
    command = [sys.executable, "-m", "sacrebleu", "ref", "-i", "a", *flags]
    printed = subprocess.run(command, capture_output=True, check=True, encoding="utf-8").stdout
    done = nmt(
        "evaluate", "--hyp", "a", "--ref", "ref", "--metric", "bleu,chrf,ter", "--confidence"
    )
    assert (done.code, done.err) == (0, "")
    assert done.lines == [line.strip() for line in printed.splitlines()]


def test_several_files_are_compared_with_the_first(nmt):
    argv = ["evaluate", "--hyp", "a", "--hyp", "b", "--ref", "ref", "--bleu", "--trials", "99"]
    first, second = json.loads(nmt(*argv, "--resamples", "50", "--json").text)
    assert (first["system"], second["system"]) == ("a", "b")
    assert second["difference"] == pytest.approx(second["score"] - first["score"], abs=0.02)
    assert second["difference"] < -10
    assert 0 < second["p_randomisation"] <= 1 and 0 < second["p_bootstrap"] <= 1
    assert (second["bs"], second["ar"]) == ("50", "99")
    turned = [word.translate({97: "b", 98: "a"}) if len(word) == 1 else word for word in argv]
    assert json.loads(nmt(*turned, "--json").text)[1]["difference"] == -second["difference"]


@pytest.mark.parametrize(
    "flags",
    [
        ["--beam-size", "3"], ["--model", "run"], ["--tgt-lang", "de"], ["--mbr", "chrf"],
        ["--precision", "fp32"], ["--threads", "1"], ["--src", "src"],
    ],
)  # fmt: skip
def test_flags_of_a_translation_are_refused_where_there_is_one(flags, nmt):
    done = nmt("evaluate", "--hyp", "a", "--ref", "ref", *flags)
    done.assert_refused(2, f"{flags[0]}: would be ignored, since --hyp is translated already")


def test_breakdowns_and_segments_of_ready_files(nmt):
    argv = ["--by", "length,copy,repetition,frequency", "--src", "src", "--segments", "seg.tsv"]
    done = nmt("evaluate", "--hyp", "b", "--ref", "ref", "--metric", "exact-match", "--json", *argv)
    (score,) = json.loads(done.text)
    assert list(score["by"]) == ["length", "copy", "repetition", "frequency"]
    assert score["by"]["repetition"][-1] == {"class": "2 to 3", "lines": 1, "score": 0.0}
    rows = [line.split("\t") for line in Path("seg.tsv").read_text().splitlines()]
    assert rows[0] == ["line", "system", "exact match"]
    assert rows[2] == ["2", "b", "100.00"] and len(rows) == 5


def test_words_are_counted_in_the_text_that_is_given(nmt):
    write("train", ["the cat sat on the mat"] * 3)
    argv = ["evaluate", "--hyp", "a", "--ref", "ref", "--bleu", "--json", "--by", "frequency"]
    (score,) = json.loads(nmt(*argv, "--frequency-text", "train").text)
    found = [(one["class"], one["lines"]) for one in score["by"]["frequency"]]
    assert found == [("0", 3), ("2 to 4", 1)]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        ("evaluate --hyp a --ref ref --bleu --confidence --resamples 9", "μ = "),
        ("runs .", "größe"),
    ],
)
def test_output_is_utf_8_whatever_the_terminal_is_set_to(argv, text):
    Path("größe").mkdir()
    Path("größe/metrics.jsonl").touch()
    command = [sys.executable, "-m", "nmt", *argv.split()]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = subprocess.run(command, check=True, capture_output=True, env=environment)
    assert text in done.stdout.decode("utf-8")


def test_a_place_that_cannot_be_written_to_is_found_before_anything_is_translated(nmt):
    for flag in ("--segments", "--output"):
        done = nmt("evaluate", "--model", "none", flag, "no/file")
        done.assert_refused(1, "no/file: cannot be written")


def test_ready_files_need_no_torch():
    program = (
        "import sys\nfrom nmt.cli import main\n"
        "assert main.main(sys.argv[1:]) == 0\nassert 'torch' not in sys.modules\n"
    )
    argv = [
        "evaluate",
        "--hyp",
        "a",
        "--hyp",
        "b",
        "--ref",
        "ref",
        "--trials",
        "9",
        "--by",
        "length",
    ]
    subprocess.run([sys.executable, "-c", program, *argv], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("argv", "code", "parts"),
    [
        (["--hyp", "a", "--ref", "short"], 1, ["short: 3 lines, but 4 translations in a."]),
        (["--hyp", "a", "--ref", "ref", "--ref", "short"], 1, ["short: 3 lines, but 4"]),
        (["--hyp", "a", "--hyp", "short", "--ref", "ref"], 1, ["short: 3 lines, but 4"]),
        (["--hyp", "nil", "--ref", "ref"], 1, ["nil: is empty: there is no line to score"]),
        (["--hyp", "a", "--ref", "nil"], 1, ["nil: is empty"]),
        (["--hyp", "a", "--ref", "ref", "--metric", "blue"], 2,
            ["nmt evaluate: --metric: unknown metric (given: blue). Did you mean 'bleu'?"]),
        (["--hyp", "a", "--ref", "ref", "--metric", ""], 2, ["unknown metric (given: )"]),
        (["--hyp", "a", "--ref", "ref", "--by", "lenght"], 2, ["Did you mean 'length'?"]),
        (["--hyp", "a", "--ref", "ref", "--by", "copy"], 2, ["--by copy: wants the sources"]),
        (["--hyp", "a", "--ref", "ref", "--by", "copy", "--src", "short"], 1, ["short: 3 lines"]),
        (["--hyp", "a", "--ref", "ref", "--by", "length", "--src", "src"], 2,
            ["--src: would be ignored"]),
        (["--hyp", "a", "--hyp", "a", "--ref", "ref"], 2, ["--hyp: the same system twice"]),
        (["--hyp", "a", "--ref", "ref", "--resamples", "9"], 2, ["--resamples: would be ignored"]),
        (["--hyp", "a", "--ref", "ref", "--trials", "9"], 2, ["--trials: would be ignored"]),
        (["--hyp", "a", "--ref", "ref", "--frequency-text", "a"], 2, ["--frequency-text: would be"]),
        (["--hyp", "a", "--ref", "ref", "--chrf", "--tokenize", "intl"], 2,
            ["--tokenize: would be ignored without BLEU"]),
        (["--hyp", "a", "--ref", "ref", "--download"], 2, ["--download: would be ignored"]),
        (["--hyp", "a", "--hyp", "b", "--ref", "ref", "--output", "o"], 2,
            ["--output: takes the translations of one system (given: 2)"]),
        (["--hyp", "a", "--ref", "ref", "--json", "--tsv"], 2, ["does not go with"]),
        (["--hyp", "a", "--ref", "ref", "--confidence", "--resamples", "0"], 2,
            ["--resamples: wants at least 1"]),
        (["--model", "m", "--model", "n", "--ensemble-weights", "1,2"], 2,
            ["--ensemble-weights: belong to one ensemble (given: 2 systems)"]),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(argv, code, parts, nmt):
    nmt("evaluate", *argv).assert_refused(code, *parts)
    assert not Path("o").exists()


def test_a_seed_that_is_no_number_is_one_line(nmt, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "many")
    done = nmt("evaluate", "--hyp", "a", "--ref", "ref", "--confidence")
    done.assert_refused(2, "$SACREBLEU_SEED: wants a whole number")


def test_lines_without_any_reference_are_counted_on_stderr(nmt):
    write("gap", [*REFERENCES[:2], "", " "])
    done = nmt("evaluate", "--hyp", "a", "--ref", "gap", "--bleu")
    assert done.code == 0
    (message,) = done.messages
    assert "reference is blank" in message and message.endswith("2 (first: line 3)")
    assert nmt("evaluate", "--hyp", "a", "--ref", "gap", "--ref", "ref", "--bleu").messages == []
    write("mute", [*REFERENCES[:2], "", "x"])
    (message,) = nmt("evaluate", "--hyp", "mute", "--ref", "gap", "--ref", "ref", "--bleu").messages
    assert message.startswith("mute: lines that are empty") and message.endswith(
        "1 (first: line 3)"
    )


def test_bytes_that_are_no_text_are_told_of_and_scored(nmt):
    Path("odd").write_bytes(b"the cat\nof \xff\xfe\n\ntwo\n")
    done = nmt("evaluate", "--hyp", "odd", "--ref", "ref", "--bleu", "--chrf")
    assert done.code == 0 and len(done.lines) == 2
    (message,) = done.messages
    assert message == "odd: lines that were not valid UTF-8, whose bad bytes were replaced: 1"


def test_the_help_names_every_metric():
    text = parser.build()[1]["evaluate"].format_help()
    assert all(name in text for name in metrics.METRICS)


def test_several_models_are_compared_and_commas_are_an_ensemble(
    learned, nmt, monkeypatch, tmp_path
):
    folder = learned("cnn")
    monkeypatch.chdir(folder)
    run = str(folder / "run")
    argv = ["evaluate", "--exact-match", "--trials", "20", "--resamples", "20", "--json"]
    models = ["--model", "run", "--model", run, "--model", f"run,{run}"]
    done = nmt(*argv, *models)
    (alone,) = json.loads(nmt("evaluate", "--exact-match", "--json", "--model", "run").text)
    found = json.loads(done.text)
    assert [one["system"] for one in found] == ["run", run, f"run,{run}"]
    assert [one["score"] for one in found] == [alone["score"]] * 3
    assert [one["difference"] for one in found[1:]] == [0.0, 0.0]
    assert "test set: data.test of run, for all models" in done.err
    comma = tmp_path / "run,b"
    comma.symlink_to(run)
    assert (
        nmt("evaluate", "--exact-match", "--json", "--model", comma).text
        == nmt("evaluate", "--exact-match", "--json", "--model", "run").text
    ), "a folder whose name has a comma"
    weighed = nmt("evaluate", "--exact-match", "--model", f"run,{run}", "--ensemble-weights", "3,1")
    assert weighed.code == 0
    wrong = nmt("evaluate", "--model", f"run,{run}", "--ensemble-weights", "1,2,3")
    assert wrong.code == 2 and "3" in wrong.err


@pytest.mark.parametrize(
    ("flags", "code", "part"),
    [
        (["--confidence"], 2, "$SACREBLEU_SEED"),
        (["--by", "frequency", "--frequency-text", "nowhere"], 1, "nowhere"),
        (["--output", "nowhere/o"], 1, "nowhere/o"),
        (["--segments", "nowhere/o"], 1, "nowhere/o"),
    ],
)
def test_what_can_be_known_before_is_known_before_anything_is_translated(
    flags, code, part, learned, nmt, monkeypatch
):
    monkeypatch.chdir(learned("cnn"))
    monkeypatch.setenv("SACREBLEU_SEED", "many")
    monkeypatch.setattr("nmt.cli.translate.build_translator", lambda *_, **__: pytest.fail("late"))
    nmt("evaluate", "--model", "run", *flags).assert_refused(code, part)


@pytest.mark.parametrize(("long", "what"), [("truncate", "cut"), ("split", "split")])
def test_lines_that_are_longer_than_the_model_reads_are_counted(
    long, what, learned, nmt, monkeypatch, tmp_path
):
    monkeypatch.chdir(learned("rnn"))
    for name, text in (("long.src", "ba " * 1500), ("long.ref", "ab " * 1500)):
        (tmp_path / name).write_text(f"{text}\n")
    flags = [f"--src={tmp_path / 'long.src'}", f"--ref={tmp_path / 'long.ref'}", "--chrf"]
    done = nmt("evaluate", "--model", "run", "--long", long, "--beam-size", "1", *flags)
    assert done.code == 0
    assert f"lines that were longer than the model reads and were {what}: 1" in done.err


def test_translations_outlive_whatever_goes_wrong_with_their_scores(
    learned, nmt, monkeypatch, tmp_path
):
    monkeypatch.chdir(learned("cnn"))
    wanted = nmt("translate", "--model", "run", "--input", "test.src").out

    def fail(*_, **__):
        raise errors.DataError("no score")

    monkeypatch.setattr(judging, "judge", fail)
    places = {name: str(tmp_path / name) for name in ("output", "segments")}
    flags = [f"--{name}={path}" for name, path in places.items()]
    nmt("evaluate", "--model", "run", *flags).assert_refused(1, "no score")
    assert Path(places["output"]).read_bytes() == wanted
    assert not Path(places["segments"]).exists()


def test_python_face_gives_what_the_command_gives(nmt):
    found = api.evaluate(FIRST, [REFERENCES], ["bleu", "ter"], confidence=True)
    argv = ["--bleu", "--ter", "--confidence"]
    assert [one.text() for one in found] == nmt("evaluate", "--hyp=a", "--ref=ref", *argv).lines
    flags = ["--bleu", "--lowercase", "--tokenize", "char"]
    (cased,) = api.evaluate(FIRST, [REFERENCES], ["bleu"], lowercase=True, tokenize="char")
    assert [cased.text()] == nmt("evaluate", "--hyp=a", "--ref=ref", *flags).lines
    (plain,) = api.evaluate(FIRST, [REFERENCES], ["token_accuracy"])
    assert plain.mean is None and plain.value == pytest.approx(100 * 14 / 18)
    with pytest.raises(errors.DataError, match="reference 1: 3 lines"):
        api.evaluate(FIRST, [REFERENCES[:3]])
    with pytest.raises(TypeError):
        api.evaluate(FIRST, REFERENCES)
