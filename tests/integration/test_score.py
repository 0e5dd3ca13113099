"""`nmt score` and `nmt mbr`: a line for each pair or list, with the figures that search reports."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt.evaluation import mbr
from nmt.models import packed, quantized

FIELDS = ("score", "log_probability", "num_tokens")


@pytest.fixture
def here(learned: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a trained run; what tests write, they write elsewhere."""
    monkeypatch.chdir(learned("transformer"))
    return Path()


def columns(lines: list[str]) -> list[list[float]]:
    return [[float(value) for value in line.split("\t")] for line in lines]


def fields(line: str) -> list[str]:
    return [field.strip() for field in line.split("|||")]


@pytest.mark.parametrize("models", [["run"], ["run", "run"]])
def test_scores_of_an_nbest_list_are_those_that_search_reported(here, nmt, tmp_path, models):
    """Also from the two sides on stdin, and by an ensemble; blank lines are scored as reported."""
    options = [f"--model={name}" for name in models]
    sources = [*Path("test.src").read_text().split("\n")[:8], "", "ba de"]
    (tmp_path / "src").write_text("".join(f"{line}\n" for line in sources))
    search = [*options, "--precision=fp64", "--length-penalty=0.6"]
    found = nmt("translate", *search, "--nbest=3", "--format=moses", "--input", tmp_path / "src")
    (tmp_path / "list").write_bytes(found.out)
    lists = ["--nbest", tmp_path / "list", "--src", tmp_path / "src"]
    done = nmt("score", *search, *lists, "--format=moses")
    assert (done.code, done.err) == (0, "")
    assert len(done.lines) == len(found.lines) == 30
    pairs = []
    for wanted, line in zip(found.lines, done.lines, strict=True):
        number, text, features, score = fields(wanted)
        assert fields(line)[:2] == [number, text]
        if score != "-inf":
            assert float(fields(line)[3]) == pytest.approx(float(score), abs=2e-6)
            assert fields(line)[2].startswith("logprob=")
            logprob = float(fields(line)[2].removeprefix("logprob="))
            assert logprob == pytest.approx(float(features.removeprefix("logprob=")), abs=2e-6)
        pairs.append(f"{sources[int(number)]}\t{text}\n")
    scored = columns(nmt("score", *search, *lists).lines)
    assert [f"{score:.6f}" for _, score in scored] == [fields(line)[3] for line in done.lines]
    piped = nmt("score", *search, stdin="".join(pairs).encode())
    assert columns(piped.lines) == scored


@pytest.mark.skipif(not packed.has_int8(), reason="this torch has no int8 products")
def test_scores_in_int8_are_those_that_search_reported(here, nmt, tmp_path, monkeypatch):
    """Rounding may fall differently where all positions go at once, but by little."""
    monkeypatch.setattr(quantized, "MIN_WEIGHTS", 0)
    way = ["--model=run", "--precision=int8", "--length-penalty=0"]
    found = nmt("translate", *way, "--input=test.src", "--format=moses", "--nbest=1")
    texts = [fields(line)[1] for line in found.lines]
    (tmp_path / "out").write_text("".join(f"{text}\n" for text in texts))
    done = nmt("score", *way, "--src=test.src", "--tgt", tmp_path / "out")
    assert done.code == 0
    for line, (score, _) in zip(found.lines, columns(done.lines), strict=True):
        assert float(fields(line)[3]) == pytest.approx(score, abs=0.05)


def test_files_give_a_line_for_each_pair(here, nmt):
    done = nmt("score", "--src=test.src", "--tgt=test.tgt", "--precision=fp64")
    assert (done.code, len(done.lines)) == (0, 60)
    assert all(score < 0 for row in columns(done.lines) for score in row)
    plain = nmt("score", "--src=test.src", "--tgt=test.tgt", "--length-penalty=0")
    assert all(row[0] == row[1] for row in columns(plain.lines))
    turned = nmt("score", "--src=test.src", "--tgt=test.src")
    both = zip(columns(done.lines), columns(turned.lines), strict=True)
    better = [right[0] > wrong[0] for right, wrong in both]
    assert sum(better) > 50, "it has learnt which is which"


def test_tokens_come_with_their_log_probabilities(here, nmt):
    argv = ["score", "--src=test.src", "--tgt=test.tgt", "--tokens"]
    rows = [line.split("\t") for line in nmt(*argv).lines]
    texts = Path("test.tgt").read_text().split("\n")
    for row, text in zip(rows, texts[:-1], strict=True):
        pieces, values = row[2].split(" "), [float(value) for value in row[3].split(" ")]
        assert "".join(pieces).replace("\u2581", " ").strip() == f"{text}</s>"
        assert len(pieces) == len(values)
        assert sum(values) == pytest.approx(float(row[0]), abs=1e-4)
    objects = [json.loads(line) for line in nmt(*argv, "--format=jsonl").lines]
    for row, values in zip(rows, objects, strict=True):
        assert list(values) == [*FIELDS, "tokens", "token_log_probabilities"]
        assert values["tokens"] == row[2].split(" ")
        assert f"{values['score']:.6f}" == row[1]


def test_a_written_file_holds_the_same_lines(here, nmt, tmp_path):
    argv = ["score", "--src=test.src", "--tgt=test.tgt"]
    assert nmt(*argv, "--output", tmp_path / "out").out == b""
    assert (tmp_path / "out").read_bytes() == nmt(*argv).out


def test_blank_lines_keep_their_place(here, nmt):
    done = nmt("score", stdin=b"\nba\tba\n\t\n \t \nba\t\n\tba\n")
    zero = "0.000000\t0.000000"
    assert [line == zero for line in done.lines] == [True, False, True, True, False, False]
    assert nmt("score", stdin=b"").out == b""


def test_wrong_pairs_are_one_line(here, nmt, tmp_path):
    (tmp_path / "short").write_text("ba\n")
    done = nmt("score", "-q", "--src=test.src", "--tgt", tmp_path / "short", "--model=nowhere")
    done.assert_refused(1, f"{tmp_path / 'short'}: 1 lines, but test.src has 60.")
    done = nmt("score", "-q", "--src", tmp_path / "short", "--tgt=test.tgt")
    done.assert_refused(1, f"test.tgt: 60 lines, but {tmp_path / 'short'} has 1.")
    nmt("score", "-q", stdin=b"ba\tba\nba ba\n").assert_refused(
        1, "stdin:2: wants a source", "0 tabs"
    )
    nmt("score", "-q", stdin=b"ba\tba\tba\n").assert_refused(1, "stdin:1: wants a source", "2 tabs")
    (tmp_path / "list").write_text("0 ||| ba\n1 ||| ba\n")
    lists = ["--nbest", tmp_path / "list", "--src", tmp_path / "short"]
    nmt("score", "-q", *lists).assert_refused(1, "list:2: source 1, counted from 0, is not there")
    (tmp_path / "list").write_text("ba\n")
    nmt("score", "-q", *lists).assert_refused(1, "list:1: is no line of an n-best list")
    assert not list(tmp_path.glob(".tmp-*"))


def test_unequal_lengths_of_what_is_read_once_are_found_at_the_end(here, nmt, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for lines, counts in ((b"ba\n" * 59, (59, 60)), (b"ba\n" * 62, (62, 60))):
        writer = threading.Thread(target=pipe.write_bytes, args=(lines,))
        writer.start()
        done = nmt("score", "-q", "--src=test.src", "--tgt", pipe)
        writer.join()
        done.assert_refused(1, "{}: {} lines, but test.src has {}.".format(pipe, *counts))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--src=test.src"], "--src and --tgt: give both"),
        (["--tgt=test.src"], "--src and --tgt: give both"),
        (["--nbest=test.src"], "--nbest: wants --src"),
        (["--nbest=a", "--src=b", "--tgt=c"], "--tgt: does not go with --nbest"),
        (["--format=moses"], "--format moses: wants --nbest"),
        (["--nbest=a", "--src=b", "--format=moses", "--tokens"], "--tokens: has no place"),
        (["--ensemble-weights=1,2"], "--ensemble-weights: wants one weight for each"),
        (["--length-penalty=-1"], "--length-penalty: "),
    ],
)
def test_options_that_do_not_go_together_are_refused(here, nmt, argv, message):
    nmt("score", "-q", *argv).assert_refused(2, f"nmt score: {message}")
    assert nmt("score", "-q", "--src=nowhere", "--tgt=test.tgt").code == 1


def test_invalid_bytes_and_cut_pairs_are_counted(here, nmt):
    done = nmt("score", stdin=b"b\xff\tba\n" + b"ba " * 2000 + b"\tba\n")
    assert len(done.lines) == 2
    assert "lines that were not valid UTF-8, whose bad bytes were replaced: 1" in done.messages
    assert "pairs that were longer than the model reads and were cut: 1" in done.messages


def test_the_shares_of_an_ensemble_lie_between_its_models(nmt, learned, tmp_path, monkeypatch):
    """The whole weight on one model is nearly that model."""
    monkeypatch.chdir(shutil.copytree(learned("transformer"), tmp_path / "copy"))
    # The same tokenizer, and other weights.
    flags = ["run_dir=other", "training.init_from=run", "training.max_updates=3"]
    assert nmt("train", "c.yaml", *(f"--set={flag}" for flag in flags)).code == 0
    models = ["run", "other"]
    pairs = ["--src=test.src", "--tgt=test.tgt", "--precision=fp64"]

    def scores(*flags: str) -> list[float]:
        return [row[0] for row in columns(nmt("score", *pairs, *flags).lines)]

    alone = [scores(f"--model={model}") for model in models]
    assert alone[0] != pytest.approx(alone[1], abs=0.01)
    both = [f"--model={model}" for model in models]
    assert scores(*both, "--ensemble-weights=1e9,1") == pytest.approx(alone[0], abs=1e-3)
    assert scores(*both, "--ensemble-weights=1,1e9") == pytest.approx(alone[1], abs=1e-3)


LIST = """\
0 ||| ba de ki ||| logprob=-1 ||| -1
0 ||| lo mu ||| logprob=-0.5 ||| -0.5
0 ||| ba de na ||| logprob=-3 ||| -3
2 ||| po ||| logprob=-1 ||| -1
"""


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
@pytest.mark.parametrize("exact", [[], ["--exact"]])
def test_lists_are_chosen_from_without_a_model(nmt, metric, exact):
    done = nmt("mbr", f"--metric={metric}", *exact, stdin=LIST.encode())
    assert (done.code, done.err) == (0, "")
    assert done.lines == ["ba de ki", "", "po"], "a source without candidates keeps its line"
    ranked = nmt("mbr", f"--metric={metric}", *exact, "--format=moses", stdin=LIST.encode())
    texts = ["ba de ki", "lo mu", "ba de na"]
    settings = mbr.Settings(metric, is_exact=bool(exact))
    utilities = mbr.expected_utilities(texts, [0.0] * 3, settings)
    assert [fields(line)[1] for line in ranked.lines] == ["ba de ki", "ba de na", "lo mu", "po"]
    features = f"logprob=-1 utility={utilities[0]:.6f}"
    assert fields(ranked.lines[0]) == ["0", "ba de ki", features, "-1"]


def test_lists_are_weighed_by_the_model_that_made_them(nmt, tmp_path):
    sure = LIST.replace("-0.5 |||", "-0.001 |||").replace("logprob=-1 ", "logprob=-9 ")
    assert nmt("mbr", stdin=sure.encode()).lines[0] == "ba de ki"
    (tmp_path / "list").write_text(sure)
    argv = ["mbr", "--weights=model", "--input", "list", "--output", "out"]
    assert nmt(*argv).code == 0
    assert (tmp_path / "out").read_text() == "lo mu\n\npo\n"
    bare = b"0 ||| a ||| x=1 ||| -1\n"
    nmt("mbr", "--weights=model", stdin=bare).assert_refused(1, "has no feature logprob=")


def test_wrong_lists_are_one_line(nmt):
    nmt("mbr", stdin=b"1 ||| a\n0 ||| b\n").assert_refused(1, "stdin:2: comes after a candidate")
    nmt("mbr", stdin=b"a\n").assert_refused(1, "stdin:1: is no line of an n-best list")
    nmt("mbr", "--input=nowhere").assert_refused(1, "nowhere")
    done = nmt("mbr", stdin=b"0 ||| a\n999999999999999999 ||| b\n")
    assert (done.code, done.lines) == (1, ["a"])
    assert "stdin: leaves out 999,999,999,999,999,998 sources" in done.err
    nmt("mbr", stdin=b"3000000000 ||| b\n").assert_refused(1, "stdin: leaves out 3,000,000,000")
    assert nmt("mbr", "--format=moses", stdin=b"3000000000 ||| b\n").code == 0
    endless = b"0 ||| a ||| logprob=inf\n0 ||| b ||| logprob=1e999\n"
    nmt("mbr", "--weights=model", stdin=endless).assert_refused(1, "has no feature logprob=")


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
def test_translating_by_risk_is_choosing_from_the_list_of_the_search(here, nmt, tmp_path, metric):
    argv = ["translate", "--input=test.src", "--beam-size=4", "--precision=fp64"]
    (tmp_path / "list").write_bytes(nmt(*argv, "--nbest=4", "--format=moses").out)
    for options, own in (([], []), (["--mbr-exact", "--mbr-weights=model"], ["--exact"])):
        done = nmt(*argv, f"--mbr={metric}", *options)
        weights = [f"--weights={'model' if own else 'uniform'}"]
        chosen = nmt("mbr", "--input", tmp_path / "list", f"--metric={metric}", *own, *weights)
        assert (done.code, done.lines) == (0, chosen.lines)
    moses = nmt(*argv, f"--mbr={metric}", "--nbest=2", "--format=moses")
    utilities = [float(line.rpartition("utility=")[2].split(" ")[0]) for line in moses.lines]
    assert len(utilities) == 120
    assert all(
        first >= second for first, second in zip(utilities[::2], utilities[1::2], strict=True)
    )


def test_risk_options_without_risk_are_refused(here, nmt):
    for flag in ("--mbr-exact", "--mbr-candidates=2", "--mbr-weights=model"):
        name = flag.partition("=")[0]
        nmt("translate", "-q", flag).assert_refused(2, f"{name}: would be ignored without --mbr")
    assert nmt("evaluate", "--mbr=chrf", "--beam-size=2", "--bleu").lines[0].startswith("BLEU|")


def test_long_lines_are_cut_or_split_as_asked(here, nmt):
    source = (b"ba de. " * 1000) + b"\nba de\n\n"
    done = nmt("translate", "-q", "--long=split", "--beam-size=1", stdin=source)
    assert (done.code, len(done.lines)) == (0, 3)
    assert done.messages == ["lines that were longer than the model reads and were split: 1"]
    cut = nmt("translate", "-q", "--long=truncate", "--beam-size=1", stdin=source)
    assert cut.messages == ["lines that were longer than the model reads and were cut: 1"]
    assert done.lines[1:] == cut.lines[1:]
    refused = nmt("translate", "-q", "--long=both", stdin=source)
    refused.assert_refused(2, "--long: wants one of truncate, split (given: 'both')")
