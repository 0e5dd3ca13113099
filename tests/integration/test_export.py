"""`nmt export`, and `nmt translate` with what it wrote."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NO_PACKAGE = "the extra ctranslate2 is not installed"
EXPORT = ("export", "--to", "ctranslate2")
ENGINE = ("translate", "--engine", "ctranslate2")


@pytest.fixture
def model(learned: Callable[[str], Path]) -> Path:
    """The run of a Transformer that has learnt its task; the corpora stand beside it."""
    return learned("transformer") / "run"


@pytest.fixture
def exported(model: Path, nmt) -> Path:
    """Its export."""
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    check = ("--check", model.parent / "valid.src")
    done = nmt(*EXPORT, "--model", model, "--output", "out", *check)
    assert done.code == 0, done.err
    return Path("out")


@pytest.mark.parametrize("beam_size", ["1", "5"])
def test_an_export_translates_as_the_model(beam_size: str, model: Path, exported: Path, nmt):
    flags = ("--beam-size", beam_size, "--length-penalty", "0")
    flags += ("--input", model.parent / "test.src")
    wanted = nmt("translate", "--model", model, *flags)
    found = nmt(*ENGINE, "--model", exported, *flags)
    assert (found.code, found.err) == (0, "")
    assert len(set(wanted.lines)) > 30
    differing = sum(own != other for own, other in zip(wanted.lines, found.lines, strict=True))
    assert differing <= 1


def test_an_export_says_in_what_share_of_lines_both_agree(model: Path, nmt):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    Path("lines").write_text("ba de\nki\nlo mu\nna po ri\n")
    flags = ("--check", "lines", "--check-lines", "3", "--quantization", "int8")
    done = nmt(*EXPORT, "--model", model, "--output", "out", *flags)
    assert done.code == 0
    assert [line.split(":")[0] for line in done.lines] == ["greedy", "beam 5"]
    assert all(line.endswith("of 3 lines translated alike") for line in done.lines)
    assert done.messages == [
        "out: written in int8",
        "decoding.length_penalty: 1.0 is not in the export, since it means something else to CTranslate2",
    ]


def test_lines_keep_their_places_and_cuts_are_counted(exported: Path, nmt):
    long = " ".join(["ba"] * 1500)
    stdin = f"\nba de\n \n\u2028\n{long}\nki lo\n".encode() + b"ba \xff"
    done = nmt(*ENGINE, "--model", exported, "--format", "moses", stdin=stdin)
    assert [line.split(" ||| ")[0] for line in done.lines] == [str(n) for n in range(7)]
    texts = [line.split(" ||| ")[1] for line in done.lines]
    assert [not text for text in texts] == [True, False, True, True, False, False, False]
    assert "not valid UTF-8, whose bad bytes were replaced: 1" in done.err
    assert "longer than the model reads and were cut: 1" in done.err


def test_the_environment_names_the_folder_as_well(exported: Path, nmt, monkeypatch):
    monkeypatch.setenv("NMT_MODEL", str(exported))
    assert nmt(*ENGINE, stdin=b"ba\n").code == 0


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--length-penalty", "1"), ("--length-penalty", "given: 1.0", "--engine nmt")),
        (("--precision", "bf16"), ("--precision", "given: bf16", "--quantization")),
        (("--model", "other"), ("--model", "given: 2 folders")),
        (("--patience", "2"), ("--patience", "given: 2.0")),
        (("--nbest", "9"), ("--nbest", "given: 9, beam 3")),
        (("--device", "mps"), ("--device", "given: mps")),
        (("--max-length", "2000"), ("--max-length", "1024", "given: 2000")),
    ],
)
def test_flags_that_mean_something_else_are_refused(flags, parts, exported: Path, nmt):
    done = nmt(*ENGINE, "--model", exported, *flags, stdin=b"ba\n")
    done.assert_refused(2, *parts)


def test_a_damaged_export_is_refused(exported: Path, nmt):
    weights = exported / "model.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    done = nmt(*ENGINE, "--model", exported, stdin=b"ba\n")
    done.assert_refused(1, "model.bin: torn or altered")


def test_each_engine_refuses_the_folder_of_the_other(model: Path, exported: Path, nmt):
    nmt("translate", "--model", exported, stdin=b"").assert_refused(1, "--engine ctranslate2")
    nmt(*ENGINE, "--model", model, stdin=b"").assert_refused(1, "export.json is missing")


def test_other_families_are_refused_before_anything_is_written(learned, nmt):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    where = learned("rnn")
    check = ("--check", where / "valid.src")
    done = nmt(*EXPORT, "--model", where / "run", "--output", "out", *check)
    done.assert_refused(2, "model.encoder.type", "given: rnn")
    assert not Path("out").exists()


def test_an_export_needs_lines_to_check_it_on(model: Path, nmt):
    # The configuration names its corpora relative to another directory.
    done = nmt(*EXPORT, "--model", model, "--output", "out")
    done.assert_refused(2, "--check", "valid.src")
    Path("blank").write_text("\n \n")
    done = nmt(*EXPORT, "--model", model, "--output", "out", "--check", "blank")
    done.assert_refused(1, "blank: has no line")
    assert not Path("out").exists()


def test_the_validation_set_of_the_model_is_the_default(model: Path, nmt):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    for side in ("src", "tgt"):
        shutil.copy(model.parent / f"valid.{side}", f"valid.{side}")
    done = nmt(*EXPORT, "--model", model, "--output", "out")
    assert done.code == 0
    assert done.lines[0].endswith("of 20 lines translated alike")


def test_what_is_there_is_not_overwritten(model: Path, nmt):
    Path("out").mkdir()
    Path("out/file").touch()
    done = nmt(*EXPORT, "--model", model, "--output", "out", "--check", "nowhere")
    done.assert_refused(2, "--output: is there already")


def test_the_benchmark_measures_both_engines_on_the_same_weights(model: Path):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    script = Path(__file__).parents[2] / "scripts" / "bench_decoding.py"
    corpus = model.parent
    command = [sys.executable, script, "--model", model, "--work", "work", "--json", "found.json"]
    command += ["--src", corpus / "test.src", "--ref", corpus / "test.tgt", "--threads", "1"]
    command += ["--sides", "nmt fp32", "CTranslate2 float32", "--beams", "5", "--batch-sizes", "16"]
    command += ["--rounds", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (group,) = json.loads(Path("found.json").read_text())["groups"]
    rows = {row["side"]: row for row in group["rows"]}
    assert list(rows) == ["nmt fp32", "CTranslate2 float32"]
    assert rows["nmt fp32"]["tokens"] == rows["CTranslate2 float32"]["tokens"] > 60
    assert rows["nmt fp32"]["bleu"] == rows["CTranslate2 float32"]["bleu"] > 50
    assert all(row["sentences"] == 60 for row in rows.values())
    assert all(row["ratio"] is None for row in rows.values())  # to CTranslate2 int8
