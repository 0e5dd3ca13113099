"""`nmt optimize`: measures, notes the choice in the folder, and `auto` takes it from there."""

import importlib.util
import itertools
import json
import shutil
from pathlib import Path

import pytest
import yaml

from nmt import errors
from nmt.checkpoint import folder
from nmt.cli import optimize
from nmt.inference import optimizing, shortlists
from nmt.interop import ctranslate2_engine, ctranslate2_folder
from nmt.runtime import device as devices
from nmt.runtime import locks
from nmt.search import narrowed

SHORT = {"max_updates": 2}
NO_PACKAGE = "the extra ctranslate2 is not installed"
needs_ctranslate2 = pytest.mark.skipif(
    importlib.util.find_spec("ctranslate2") is None, reason=NO_PACKAGE
)


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
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(devices, "processor", lambda: "another one")
        found = nmt("translate", "--model", "moved", stdin=b"ba de\n")
        assert "precision" not in found.err
        assert "the choice of `nmt optimize` was made on another processor (" in found.err
        found = nmt("translate", "--model", "moved", "--precision", "int8", stdin=b"ba de\n")
        assert "another processor" not in found.err, "nothing is left to choose"
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


@pytest.fixture
def greedy(learned, tmp_path, monkeypatch) -> Path:
    """A run that has learnt its task, beside its corpora, and that is to search greedily."""
    shutil.copytree(learned("transformer"), tmp_path / "greedy")
    monkeypatch.chdir(tmp_path / "greedy")
    _configure(Path("run"), beam_size=1)
    return Path("run")


def _configure(run, **decoding):
    model = folder.read(run)
    config = yaml.safe_load(model.config_text)
    config["decoding"] |= decoding
    folder.publish(
        run,
        config_text=yaml.safe_dump(config),
        tensors=model.tensors,
        scores=model.manifest.scores,
        update=model.manifest.update,
    )


@pytest.fixture
def by_ctranslate2(monkeypatch) -> list[int]:
    """Grows by one for each call of CTranslate2's search."""
    calls: list[int] = []
    translate = ctranslate2_engine.Engine.translate
    monkeypatch.setattr(
        ctranslate2_engine.Engine,
        "translate",
        lambda self, lines: (calls.append(len(lines)), translate(self, lines))[1],
    )
    return calls


@needs_ctranslate2
def test_an_engine_that_is_chosen_translates(greedy, nmt, monkeypatch, by_ctranslate2):
    _prefer(monkeypatch, "ctranslate2 float32")
    done = nmt("optimize", greedy, "--batch-size", "1")
    assert done.code == 0, done.err
    assert [line.split("  ")[0] for line in done.lines if "<- chosen" in line] == [
        "ctranslate2 float32"
    ]
    decision = folder.verify(greedy).optimized
    assert decision["batch_sentences"] == 1
    assert [path.name for path in greedy.glob("*ctranslate2*")] == [decision["engine_folder"]]
    assert not list(greedy.glob(".tmp*"))
    shutil.move(greedy, "moved")
    test = Path("test.src").read_bytes()
    by_ctranslate2.clear()
    found = nmt("translate", "--model", "moved", stdin=test)
    assert "engine: CTranslate2, which `nmt optimize` chose" in found.err
    assert sum(by_ctranslate2) == len(test.splitlines())
    own = nmt("translate", "--model", "moved", "--engine", "nmt", stdin=test)
    assert sum(by_ctranslate2) == len(test.splitlines())
    differing = sum(one != other for one, other in zip(found.lines, own.lines, strict=True))
    assert differing <= 1
    assert len(set(own.lines)) > 30


@needs_ctranslate2
@pytest.mark.parametrize(
    "flags",
    [
        ("--precision", "fp32"),
        ("--beam-size", "3"),
        ("--nbest", "2", "--beam-size", "2", "--length-penalty", "0"),
        ("--format", "jsonl"),
        ("--target-prefix", "ba"),
        ("--no-shortlist",),
        ("--engine", "nmt"),
    ],
)
def test_what_the_engine_has_not_our_own_search_does(
    flags, greedy, nmt, monkeypatch, by_ctranslate2
):
    _prefer(monkeypatch, "ctranslate2 int8")
    assert nmt("optimize", greedy).code == 0
    by_ctranslate2.clear()
    stdin = b'{"text": "ba de"}\n' if "jsonl" in flags else b"ba de\n"
    done = nmt("translate", "--model", greedy, *flags, stdin=stdin)
    assert (done.code, bool(done.text), by_ctranslate2) == (0, True, [])
    assert nmt("translate", "--model", greedy, "--max-length", "9", stdin=b"ba de\n").code == 0
    assert by_ctranslate2 == [1]
    # Sinusoids have no end, but the export has so many of them.
    longer = nmt("translate", "--model", greedy, "--max-length", "2000", stdin=b"ba de\n")
    assert (longer.code, by_ctranslate2) == (0, [1])
    assert "engine: nmt, not the one that `nmt optimize` chose (--max-length" in longer.err
    monkeypatch.setattr(devices, "processor", lambda: "another one")
    assert nmt("translate", "--model", greedy, stdin=b"ba de\n").code == 0
    assert by_ctranslate2 == [1]


@needs_ctranslate2
def test_an_engine_that_cannot_be_used_is_said_and_lost_nothing(greedy, nmt, monkeypatch):
    _prefer(monkeypatch, "ctranslate2 int8")
    assert nmt("optimize", greedy).code == 0
    wanted = nmt("translate", "--model", greedy, "--engine", "nmt", stdin=b"ba de\n").text
    (kept,) = greedy.glob("ctranslate2-*")
    (kept / "model.bin").write_bytes(b"torn")
    done = nmt("translate", "--model", greedy, stdin=b"ba de\n")
    assert (done.code, done.text) == (0, wanted)
    assert "cannot be used" in done.err
    assert "torn or altered" in done.err
    shutil.rmtree(kept)
    done = nmt("translate", "--model", greedy, stdin=b"ba de\n")
    assert (done.code, done.text) == (0, wanted)
    assert "is missing" in done.err


@needs_ctranslate2
def test_new_weights_forget_the_engine_and_a_new_choice_removes_it(greedy, nmt, monkeypatch):
    _prefer(monkeypatch, "ctranslate2 int8")
    assert nmt("optimize", greedy).code == 0
    _configure(greedy, beam_size=2)
    done = nmt("translate", "--model", greedy, stdin=b"ba de\n")
    assert (done.code, "engine" in done.err) == (0, False)
    done = nmt("optimize", greedy)
    assert "ctranslate2: left out (--length-penalty: means something else" in done.err
    assert not list(greedy.glob("ctranslate2-*"))


@needs_ctranslate2
@pytest.mark.parametrize(
    ("decoding", "reason"),
    [
        ({"no_repeat_ngram_size": 3}, "decoding.no_repeat_ngram_size: CTranslate2 has none"),
        ({"length_penalty": 1.0, "beam_size": 2}, "means something else to CTranslate2"),
        ({"long": "split"}, "decoding.long: CTranslate2 has none (given: split)"),
    ],
)
def test_settings_that_mean_something_else_leave_it_out(decoding, reason, greedy, nmt):
    _configure(greedy, **decoding)
    done = nmt("optimize", greedy)
    assert done.code == 0
    assert reason in done.err
    assert "ctranslate2" not in done.text


@needs_ctranslate2
def test_learned_positions_bound_the_length_as_in_our_own_search(configure, nmt, monkeypatch):
    path = configure("transformer", training=SHORT, decoding={"beam_size": 1})
    config = yaml.safe_load(path.read_text())
    for side in ("encoder", "decoder"):
        config["model"][side] |= {"positions": "learned", "max_positions": 24}
    path.write_text(yaml.safe_dump(config))
    assert nmt("train", "c.yaml").code == 0
    _prefer(monkeypatch, "ctranslate2 float32")
    done = nmt("optimize", "run")
    assert done.code == 0, done.err
    found = nmt("translate", "--model", "run", stdin=b"ba de\n")
    assert (found.code, len(found.lines)) == (0, 1)
    assert "ctranslate2 float32" in done.text or "ctranslate2 float32: left out" in done.err


def test_a_model_that_it_cannot_represent_leaves_it_out(configure, nmt):
    pytest.importorskip("ctranslate2", reason=NO_PACKAGE)
    configure("rnn", training=SHORT)
    assert nmt("train", "c.yaml").code == 0
    assert "ctranslate2: left out (model.encoder.type" in nmt("optimize", "run").err


def test_a_shortlist_is_learnt_from_every_corpus(run, nmt, monkeypatch):
    for side in ("src", "tgt"):
        Path(f"more.{side}").write_text("".join(f"{line}\n" for line in ["lo"] * 40))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["train"].append({"src": "more.src", "tgt": "more.tgt"})
    model = folder.read(run)
    folder.publish(
        run, config_text=yaml.safe_dump(config), tensors=model.tensors, scores={}, update=2
    )
    monkeypatch.setattr(optimize, "MAX_PAIRS", 20)
    learnt = []
    learn = shortlists.learn
    monkeypatch.setattr(
        shortlists, "learn", lambda pairs, *rest: (learnt.append(pairs), learn(pairs, *rest))[1]
    )
    assert nmt("optimize", run, "--shortlist").code == 0
    (pairs,) = learnt
    assert len(pairs) == 20
    assert [pairs[n] == pairs[1] for n in range(20)] == [bool(n % 2) for n in range(20)]


def test_a_shortlist_that_would_harm_or_not_help_is_refused(run, nmt, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shortlists, "NUM_ALWAYS", 3)
        nmt("optimize", run, "--shortlist").assert_refused(2, "--shortlist: keeps the pieces up to")
    config = yaml.safe_load((run / "config.yaml").read_text())
    entry = config["data"]["train"][0]
    config["data"]["train"] = [entry | {"tgt_lang": "fr"}, entry | {"tgt_lang": "it"}]
    for name in ("valid", "test"):
        config["data"][name] |= {"tgt_lang": "fr"}
    model = folder.read(run)
    folder.publish(
        run, config_text=yaml.safe_dump(config), tensors=model.tensors, scores={}, update=2
    )
    nmt("optimize", run, "--shortlist").assert_refused(2, "is for one target language")


@needs_ctranslate2
def test_an_engine_that_does_not_load_is_said_and_lost_nothing(greedy, nmt, monkeypatch):
    _prefer(monkeypatch, "ctranslate2 int8")
    assert nmt("optimize", greedy).code == 0
    wanted = nmt("translate", "--model", greedy, "--engine", "nmt", stdin=b"ba de\n").text

    def refuse(*args, **kwargs):
        raise errors.ModelError("x: CTranslate2 cannot load it (unsupported version).")

    with monkeypatch.context() as patch:
        patch.setattr(ctranslate2_engine.Engine, "__init__", refuse)
        done = nmt("translate", "--model", greedy, stdin=b"ba de\n")
    assert (done.code, done.text) == (0, wanted)
    assert "cannot be used" in done.err and "unsupported version" in done.err
    honest = ctranslate2_folder.read
    for last in (1, 2):  # the disk fails when the folder is found, or when it is loaded
        calls = itertools.count(1)

        def fail_to_read(path, calls=calls, last=last):
            if next(calls) == last:
                raise errors.FileError(f"{path}: cannot be read (input/output error).")
            return honest(path)

        monkeypatch.setattr(ctranslate2_folder, "read", fail_to_read)
        done = nmt("translate", "--model", greedy, stdin=b"ba de\n")
        assert (done.code, done.text) == (0, wanted)
        assert "cannot be used" in done.err and "input/output error" in done.err
