"""`nmt report` and `nmt runs` on real runs, finished, under way and broken."""

import importlib.util
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import errors
from nmt.cli import report_models
from nmt.runtime import locks
from nmt.training import watching

EACH = {"logging_interval": 1, "validation_interval": 2, "checkpoint_interval": 2, "max_updates": 4}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
SECTIONS = [
    "Runs", "Configuration", "Learning curves", "Data", "Scores", "Scores by length", "Sentences",
    "Attention",
]  # fmt: skip


@pytest.fixture
def two_runs(configure, nmt):
    """The folders of two runs that differ in family and rate."""
    configure("rnn", training=EACH)
    assert nmt("train", "c.yaml", "--set=run_dir=runs/one").code == 0
    configure("transformer", training=EACH | {"learning_rate": 0.5})
    assert nmt("train", "c.yaml", "--set=run_dir=runs/two").code == 0
    return ["runs/one", "runs/two"]


def test_a_report_has_every_section(two_runs, nmt):
    done = nmt("report", *two_runs, "--sentences=2")
    assert (done.code, done.out) == (0, b""), done.err
    page = Path("report.html").read_text()
    assert re.findall(r"<h2>(.*?)</h2>", page) == SECTIONS
    assert re.search(r"<td>training.learning_rate</td><td>0\.\d+</td><td>0\.5</td>", page)
    assert page.count("<svg") >= 8 + 2 * 1, "curves, and attention of both"
    for title in (
        "Validation BLEU",
        "Gradient norm",
        "Peak memory, MiB",
        "Lowest chrF of one",
        "one, line ",
    ):
        assert title in page
    assert nmt("report", "runs/one", "--output=r.md").code == 0
    text = Path("r.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.M) == SECTIONS
    assert "## Data\n\none: pairs total" in text or "one: pairs " in text


def test_statistics_are_found_in_a_common_cache_and_sides_are_called_what_they_are(configure, nmt):
    configure("rnn", training=EACH, data={"cache_dir": "caches"})
    assert nmt("train", "c.yaml").code == 0
    assert nmt("report", "run", "--output=r.md", "--sentences=1").code == 0
    text = Path("r.md").read_text()
    assert re.search(r"^\| aa \| [\d,]+ \|.*\n\| bb \| ", text, re.M)
    mono = [{"mono": "train.tgt", "lang": "bb"}, {"src": "train.src", "tgt": "train.tgt"}]
    mono[1] |= {"tgt_lang": "bb"}
    configure("rnn", training=EACH, data={"train": mono})
    assert nmt("train", "c.yaml", "--set=run_dir=both").code == 0
    assert nmt("report", "both", "--output=r.md", "--sentences=1").code == 0
    text = Path("r.md").read_text()
    assert re.search(r"^\| source \| [\d,]+ \|.*\n\| target \| ", text, re.M)
    configure("rnn", training=EACH, data={"cache_dir": "caches"})
    (begins,) = Path("caches").rglob("src.begins")
    begins.write_bytes(b"")
    assert nmt("report", "run", "--output=r.md", "--sentences=1").code == 0
    assert "run: its token cache is not there." in Path("r.md").read_text()
    shutil.rmtree("caches")
    assert nmt("report", "run", "--output=r.md", "--sentences=1").code == 0
    assert "run: its token cache is not there." in Path("r.md").read_text()


def test_the_map_of_a_cut_translation_has_no_row_of_its_end(two_runs, nmt, monkeypatch):
    monkeypatch.setattr(report_models, "MAX_MAP_TOKENS", 1)
    # Models of four updates never end before the limit.
    (block,) = report_models.attention_of_lines(
        "one", Path("runs/one"), [1], device="cpu", threads=1
    )
    assert len(block.rows) == len(block.values) == 1
    assert "</s>" not in block.rows


def test_scores_have_intervals_and_tests_against_the_first(two_runs, nmt):
    assert nmt("report", *two_runs, "--output=r.md", "--sentences=1").code == 0
    text = Path("r.md").read_text()
    assert "| run | BLEU | 95 % interval | difference | p (bootstrap) | p (randomisation) |" in text
    row = re.search(
        r"^\| two \| (.*) to (.*) \| ([+-].*) \| (0|1)\.\d+ \| (0|1)\.\d+ \|$", text, re.M
    )
    assert row is not None
    assert "chrF2|nrefs:1|bs:1000|ar:10000|seed:" in text
    assert nmt("report", "runs/one", "--output=one.md").code == 0
    assert "| run | TER | 95 % interval |\n" in Path("one.md").read_text()


def test_chosen_lines_have_their_attention_shown(two_runs, nmt):
    assert nmt("report", "runs/one", "--output=r.md", "--lines=2,5", "--sentences=1").code == 0
    assert re.findall(r"one, line (\d+)", Path("r.md").read_text()) == ["2", "5"]
    nmt("report", "runs/one", "--lines=0").assert_refused(2, "--lines")
    nmt("report", "runs/one", "--lines=9999").assert_refused(2, "--lines: the validation set has")
    nmt("report", "runs/one", "--lines=1", "--no-translate").assert_refused(2, "--lines")
    nmt("plot", "runs/one", "--lines=1", "--no-translate").assert_refused(2, "--lines")


def test_pictures_are_files_of_their_own(two_runs, nmt, monkeypatch):
    done = nmt("plot", *two_runs, "--lines=9", "--format=svg", "--output=out")
    assert (done.code, done.out) == (0, b""), done.err
    names = {path.name for path in Path("out").iterdir()}
    assert {"validation-bleu.svg", "learning-rate.svg"} <= names
    assert {name for name in names if "line" in name} == {"one-line-9.svg", "two-line-9.svg"}
    assert Path("out/gradient-norm.svg").read_text().count("<polyline") == 2
    assert nmt("plot", "runs/one", "--no-translate", "--format=svg").code == 0
    assert not list(Path("plots").glob("*line*")) and list(Path("plots").iterdir())
    nmt("plot", "runs/one", "--format=gif").assert_refused(2, "--format")
    nmt("plot", "nowhere").assert_refused(1, "nowhere: is no folder")
    nmt("plot", "runs/one", "--lines=9999").assert_refused(2, "--lines: the validation set has")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "resvg_py", None)
        nmt("plot", "runs/one", "--output=none").assert_refused(2, "--format png: needs a package")
    assert not Path("none").exists(), "known before anything is drawn"
    pytest.importorskip("resvg_py")
    assert nmt("plot", "runs/one", "--no-translate", "--format=png", "--output=out").code == 0
    assert Path("out/validation-bleu.png").read_bytes().startswith(b"\x89PNG")


def fail_to_translate(*args):
    raise errors.UsageError("no memory")


def test_pictures_of_runs_with_like_names_and_of_a_run_without_a_model(two_runs, nmt, monkeypatch):
    shutil.copytree("runs/one", "runs/one-")
    flags = ["--lines=2", "--format=svg", "--output=out"]
    assert nmt("plot", "runs/one", "runs/one-", *flags).code == 0
    assert len([path for path in Path("out").iterdir() if "line" in path.name]) == 2
    with monkeypatch.context() as patch:
        patch.setattr(report_models, "_translated", fail_to_translate)
        done = nmt("plot", "runs/one", "--format=svg", "--output=without")
    assert done.code == 0 and "one: no memory" in done.err
    assert Path("without/learning-rate.svg").exists()
    Path("runs/one/model.safetensors").unlink()
    done = nmt("plot", "runs/one", *flags[1:])
    assert done.code == 0 and any(line.startswith("one: ") for line in done.messages)


def test_a_run_with_another_validation_set_has_scores_of_its_own(two_runs, configure, nmt):
    Path("other.src").write_text("ba ri\nna lo\n")
    Path("other.tgt").write_text("ri ba\nlo na\n")
    other = {"valid": {"src": "other.src", "tgt": "other.tgt"}}
    configure("rnn", training=EACH, data=other)
    assert nmt("train", "c.yaml", "--set=run_dir=runs/other").code == 0
    assert nmt("report", "runs/one", "runs/other", "--output=r.md", "--sentences=1").code == 0
    text = Path("r.md").read_text()
    assert "Not all runs have the same validation set" in text
    assert len(re.findall(r"^### Lowest chrF of", text, re.M)) == 2, "sentences of both"
    assert len(re.findall(r"^\| words of the reference", text, re.M)) == 2
    assert re.search(r"^\| other \| 2 \|", text, re.M)
    assert len(re.findall(r"^\| run \| BLEU \| 95 % interval \|$", text, re.M)) == 2


def test_loggers_get_the_events_of_the_run_and_may_change_under_it(configure, nmt, monkeypatch):
    seen, kept = [], []

    class Recorder(watching.TensorBoard):
        package = "json"

        def __init__(self, run_dir, config, update):
            seen.append((run_dir.name, config["seed"], update))

        def show(self, event):
            seen.append(dict(event))

        def flush(self):
            kept.append((seen[-1], Path("run/checkpoints/00000004").exists()))

        def close(self, *, failed):
            seen.append(failed)

    monkeypatch.setattr(watching, "WATCHERS", {"tensorboard": Recorder})
    configure("rnn", training=EACH, run_dir="run")
    assert nmt("train", "c.yaml", "--set=training.max_updates=2").code == 0
    assert not seen
    flags = ["--set=training.max_updates=4", "--set=training.loggers=[tensorboard]"]
    assert nmt("train", "c.yaml", *flags).code == 0
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert seen == [("run", 1, 2), *(line for line in lines if line["update"] > 2), False]
    assert (lines[-1], False) in kept, "kept before the state from which the run would go on"
    nmt("train", "c.yaml", "--set=training.loggers=[tensorbord]").assert_refused(2, "tensorboard")
    monkeypatch.setattr(Recorder, "package", "no_such_package")
    for verb in ("train", "check"):
        nmt(verb, "c.yaml", *flags).assert_refused(
            2, "training.loggers: tensorboard is not installed"
        )


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
def test_a_browser_shows_it_without_a_request_or_an_error(two_runs, nmt, tmp_path):
    assert nmt("report", *two_runs, "--sentences=2").code == 0
    log = tmp_path / "net.json"
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path / 'p'}",
        "--enable-logging=stderr", "--virtual-time-budget=2000", f"--log-net-log={log}",
        "--dump-dom", f"file://{Path('report.html').resolve()}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert re.findall(r"<h2>(.*?)</h2>", done.stdout) == SECTIONS
    assert "CONSOLE" not in done.stderr
    requested = set(re.findall(r'"url":"((?:https?|file):[^"]*)"', log.read_text()))
    page = Path("report.html").resolve().as_uri()
    # What the browser asks for on its own account, whatever it shows.
    browsers = re.compile(r"https?://[^/]*(?:google|gstatic|gvt1)[^/]*/")
    own = {url for url in requested if not browsers.match(url)}
    assert own <= {page}, "the page asks for nothing"


def test_a_run_that_is_under_way_can_be_reported_on(configure, nmt):
    """Before the first checkpoint there is no model, which the report says."""
    configure("rnn", training=EACH)
    assert nmt("train", "c.yaml").code == 0
    for path in (Path("run/model.safetensors"), Path("run/manifest.json")):
        path.unlink()
    with Path("run/metrics.jsonl").open("a") as stream:
        stream.write('{"event": "tr')
    with locks.RunLock(Path("run")):
        done = nmt("report", "run", "--output=r.md")
    assert done.code == 0
    assert any("torn" in line for line in done.messages)
    text = Path("r.md").read_text()
    assert "| running |" in text and "manifest.json" in text


def test_a_run_without_events_goes_along_with_others(two_runs, nmt):
    Path("runs/new").mkdir()
    Path("runs/new/metrics.jsonl").write_text("")
    shutil.copytree("runs/one", "runs/model")
    Path("runs/model/metrics.jsonl").unlink()
    for verb in (["report", "--sentences=1", "--output=r.md"], ["plot", "--format=svg"]):
        done = nmt(*verb, "runs/one", "runs/new", "runs/model")
        assert done.code == 0
        assert any("runs/new/metrics.jsonl: holds no event yet" in line for line in done.messages)
        assert any("runs/model/metrics.jsonl: " in line for line in done.messages)
    text = Path("r.md").read_text()
    assert re.search(r"^\| new \|", text, re.M) and re.search(r"^\| model \|", text, re.M)
    nmt("report", "runs/new", "runs/model").assert_refused(1, "holds no event yet")


def test_blank_and_endless_sources_stop_no_map(configure, nmt):
    changes = {"encoder": {"positions": "learned", "max_positions": 16}}
    path = configure("transformer", training=EACH, model=changes)
    lines = Path("valid.src").read_text().splitlines()
    lines[1], lines[2] = "", " ".join(["ba"] * 100)
    Path("valid.src").write_text("".join(f"{line}\n" for line in lines))
    assert nmt("train", path.name).code == 0
    assert nmt("report", "run", "--output=r.md", "--lines=2,3,4", "--sentences=1").code == 0
    text = Path("r.md").read_text()
    assert "run, line 2: is blank." in text and "run, line 4" in text
    assert nmt("plot", "run", "--lines=2,3,4", "--format=svg").code == 0
    (picture,) = Path("plots").glob("*line-3.svg")
    pieces = picture.read_text().count("ba</text>")
    assert 1 <= pieces <= 16, "what the model reads"


def test_a_run_whose_losses_are_not_finite_is_shown(two_runs, nmt):
    path = Path("runs/one/metrics.jsonl")
    events = [json.loads(line) for line in path.read_text().splitlines()]
    for event in events:
        if event["event"] == "validation":
            event |= {"score": None, "loss": None, "is_best": event["update"] == 2}
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    shown = {one["folder"]: one["best"] for one in json.loads(nmt("runs", "--json").text)}
    assert shown["runs/one"] == "not finite at 2"
    assert nmt("report", *two_runs, "--no-translate").code == 0


@pytest.fixture
def silent():
    """Nothing is logged: what runs tests in several processes cannot pass such names on."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_names_that_are_no_text_are_written_as_well_as_they_can_be(two_runs, nmt, silent):
    odd = Path(os.fsdecode(b"runs/caf\xe9"))
    shutil.copytree("runs/one", odd)
    assert nmt("inspect", str(odd)).code == 0
    assert nmt("inspect", str(odd), "--json").code == 0
    assert len(json.loads(nmt("runs", "--json").text)) == 3
    assert nmt("report", str(odd), "runs/one", "--sentences=1").code == 0
    formats = ["--format=svg", *(["--format=png"] if importlib.util.find_spec("resvg_py") else [])]
    assert nmt("plot", str(odd), "runs/one", "--lines=9", *formats).code == 0


def test_what_is_no_run_is_one_line(configure, nmt):
    configure("rnn", training=EACH)
    assert nmt("train", "c.yaml").code == 0
    nmt("report", "nowhere").assert_refused(1, "nowhere: is no folder")
    Path("empty").mkdir()
    nmt("report", "empty").assert_refused(1, "metrics.jsonl")
    nmt("runs", "empty").assert_refused(2, "there is no run in it")
    nmt("runs", "nowhere").assert_refused(1, "is no folder")
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run/metrics.jsonl").write_text("\n".join([lines[0], "{", *lines[1:]]) + "\n")
    nmt("report", "run").assert_refused(1, "metrics.jsonl:2: is no event")
    nmt("report", "run", "--format=pdf").assert_refused(2, "--format")


def test_runs_tells_how_each_one_is(two_runs, nmt):
    assert nmt("train", "c.yaml", "--set=run_dir=runs/three").code == 0
    state = sorted(Path("runs/three/checkpoints").iterdir())[-1] / "state.json"
    content = state.read_text()
    assert '"finished": true' in content
    state.write_text(content.replace('"finished": true', '"finished": false'))
    shutil.copytree("runs/one", "runs/torn")
    with Path("runs/torn/model.safetensors").open("r+b") as stream:
        stream.truncate(100)
    Path("runs/log.txt").write_text("what a shell was told to keep\n")
    with locks.RunLock(Path("runs/two")):
        done = nmt("runs", "--json")
    found = {Path(one["folder"]).name: one for one in json.loads(done.text)}
    assert {name: one["state"] for name, one in found.items()} == {
        "one": "finished", "two": "running", "three": "stopped", "torn": "broken",
    }  # fmt: skip
    assert all(one["update"] == 4 for one in found.values())
    assert "model.safetensors" in found["torn"]["detail"]
    assert "process" in found["two"]["detail"]
    assert found["one"]["size"] > 10_000
    lines = nmt("runs").lines
    assert lines[0].split() == ["run", "state", "update", "best", "minutes", "MB"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["runs/one", "finished"], ["runs/three", "stopped"], ["runs/torn", "broken"],
        ["runs/two", "finished"],
    ]  # fmt: skip


def test_a_place_that_cannot_be_written_to_says_so_before_the_work(two_runs, nmt, monkeypatch):
    monkeypatch.setattr("nmt.cli.report.read", lambda runs: pytest.fail("work was begun"))
    nmt("report", *two_runs, "--output=nowhere/x.html").assert_refused(1, "nowhere/x.html: ")


@pytest.mark.parametrize("flag", ["--device=cpu", "--threads=1", "--lines=1"])
@pytest.mark.parametrize("verb", ["report", "plot"])
def test_flags_of_translating_are_refused_where_nothing_is_translated(verb, flag, two_runs, nmt):
    nmt(verb, "runs/one", "--no-translate", flag).assert_refused(2, flag.split("=")[0])


def test_runs_are_told_as_they_are(configure, nmt):
    configure("rnn", training={"max_updates": 4, "validation_interval": 2, "best_metric": "loss"})
    assert nmt("train", "c.yaml", "--set=run_dir=runs/one").code == 0
    Path("elsewhere").mkdir()
    assert nmt("train", "c.yaml", "--set=run_dir=elsewhere/two").code == 0
    Path("runs/linked").symlink_to(Path("elsewhere/two").resolve())
    Path("runs/around").symlink_to(Path("runs").resolve())
    quiet = Path("elsewhere/two/metrics.jsonl")
    quiet.write_text("")
    shown = json.loads(nmt("runs", "--json").text)
    assert [(one["folder"], one["state"]) for one in shown] == [
        ("runs/linked", "finished"),
        ("runs/one", "finished"),
    ]
    assert shown[1]["best"].startswith("loss ") and "-" not in shown[1]["best"]


def test_a_wrong_device_is_an_error_of_its_own(two_runs, nmt):
    for verb in (("report", "--output=r.md"), ("plot", "--output=pictures")):
        nmt(*verb, *two_runs, "--device", "cuad").assert_refused(2, "cuad")


def test_equal_systems_have_no_chances(two_runs, nmt):
    shutil.copytree("runs/one", "runs/copy")
    assert nmt("report", "runs/one", "runs/copy", "--output=r.md", "--sentences=1").code == 0
    rows = re.findall(r"^\| copy \|.*\+0\.00 \|(.*)\|(.*)\|$", Path("r.md").read_text(), re.M)
    assert len(rows) >= 2 and not "".join(map("".join, rows)).strip()
