"""`nmt optimize`: measures, notes the choice in the folder, and `auto` takes it from there."""

import json
import shutil
from pathlib import Path

import pytest

from nmt.checkpoint import folder
from nmt.inference import optimizing
from nmt.runtime import locks
from nmt.search import narrowed

SHORT = {"max_updates": 2}


@pytest.fixture
def run(configure, nmt):
    configure("transformer", training=SHORT)
    assert nmt("train", "c.yaml").code == 0
    return Path("run")


def _prefer(monkeypatch, name):
    """Makes one precision the fastest, whatever is measured."""
    measure = optimizing.measure

    def faster(*args, **kwargs):
        return [
            optimizing.Measurement(one.name, 38.0, one.signature, 1.0 + (one.name == name))
            for one in measure(*args, **kwargs)
        ]

    monkeypatch.setattr(optimizing, "measure", faster)


def test_a_choice_is_printed_kept_in_the_folder_and_taken(run, nmt, monkeypatch):
    before = folder.verify(run)
    _prefer(monkeypatch, "int8")
    done = nmt("optimize", run)
    assert done.code == 0
    assert [line.split()[0] for line in done.lines[:2]] == ["precision", "fp32"]
    assert [line.split()[0] for line in done.lines if "<- chosen" in line] == ["int8"]
    manifest = folder.verify(run)
    assert manifest.files == before.files
    assert manifest.scores == before.scores
    assert manifest.optimized["precision"] == "int8"
    assert manifest.optimized["lines"] == 12
    assert {one["name"] for one in manifest.optimized["measured"]} >= {"fp32", "int8"}
    shutil.move(run, "moved")
    found = nmt("translate", "--model", "moved", stdin=b"ba de\n")
    assert (found.code, len(found.lines)) == (0, 1)
    assert "precision: int8, which `nmt optimize` chose" in found.err
    assert (
        "optimize"
        not in nmt("translate", "--model", "moved", "--precision", "fp32", stdin=b"ba\n").err
    )
    shown = json.loads(nmt("inspect", "moved", "--json").text)
    assert shown["optimized"]["precision"] == "int8"


def test_without_its_validation_set_a_model_wants_another(run, nmt):
    for path in Path().glob("valid*"):
        path.unlink()
    nmt("optimize", run).assert_refused(1, "The validation set of the model is gone.", "--data")
    assert not folder.verify(run).optimized
    Path("a").write_text("ba de\nki lo\n")
    Path("b").write_text("de ba\nlo ki\n")
    done = nmt("optimize", run, "--data", "a", "b")
    assert done.code == 0
    assert done.lines[-1].endswith(", 2 lines")


def test_wrong_use_is_one_line(run, nmt):
    Path("a").write_text("ba de\nki lo\n")
    Path("b").write_text("de ba\n")
    nmt("optimize", run, "--data", "a", "b").assert_refused(
        1, "--data: wants two files with as many lines, one at least (given: 2 and 1)."
    )
    nmt("optimize", "nowhere").assert_refused(1, "nowhere: there is no such model folder")
    nmt("optimize", run, "--data", "a").assert_refused(2, "--data: ")
    with locks.RunLock(run):
        nmt("optimize", run).assert_refused(1, "another process trains there")


def test_a_configuration_that_names_a_precision_is_pointed_out(configure, nmt):
    configure("rnn", training=SHORT, decoding={"precision": "fp32"})
    assert nmt("train", "c.yaml").code == 0
    done = nmt("optimize", "run")
    assert done.code == 0
    assert "decoding.precision: the configuration of this model says fp32" in done.err


def test_a_shortlist_is_learnt_kept_and_used(run, nmt, monkeypatch):
    _prefer(monkeypatch, "int8 + shortlist")
    done = nmt("optimize", run, "--shortlist")
    assert done.code == 0
    assert "reference tokens can be produced" in done.lines[-1]
    manifest = folder.verify(run)
    assert (manifest.optimized["precision"], manifest.optimized["shortlist"]) == ("int8", True)
    name = folder.shortlist_file(manifest)
    assert (run / name).is_file()
    searched = []
    search = narrowed.Narrowed.__init__
    monkeypatch.setattr(
        narrowed.Narrowed,
        "__init__",
        lambda self, *args: (searched.append(1), search(self, *args))[1],
    )
    for flags, expected in (([], 1), (["--no-shortlist"], 0), (["--shortlist"], 1)):
        searched.clear()
        found = nmt("translate", "--model", run, *flags, stdin=b"ba de\n")
        assert (found.code, len(found.lines), len(searched)) == (0, 1, expected)
    (run / name).write_bytes(b"torn")
    nmt("translate", "--model", run, stdin=b"ba\n").assert_refused(1, name, "torn or altered")


def test_a_new_decision_takes_the_place_of_the_old_shortlist(run, nmt):
    assert nmt("optimize", run, "--shortlist").code == 0
    assert len(list(run.glob("shortlist-*"))) == 1
    assert nmt("optimize", run).code == 0
    assert not list(run.glob("shortlist-*"))
    nmt("translate", "--model", run, "--shortlist", stdin=b"ba\n").assert_refused(
        2, "--shortlist: run has none. Learn one with `nmt optimize --shortlist run`."
    )


def test_a_shortlist_wants_one_model_and_its_training_data(run, nmt):
    assert nmt("optimize", run, "--shortlist").code == 0
    both = ("translate", "--model", run, "--model", run)
    nmt(*both, "--shortlist", stdin=b"ba\n").assert_refused(2, "--shortlist: is for one model.")
    assert nmt(*both, stdin=b"ba\n").code == 0
    for path in Path().glob("train*"):
        path.unlink()
    nmt("optimize", run, "--shortlist").assert_refused(1, "leave out --shortlist")
