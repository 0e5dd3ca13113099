"""All nine pairs of families go on where they stopped, bit for bit, and can be used afterwards."""

import itertools
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from nmt import api
from nmt.training import reporting

FAMILIES = ["rnn", "cnn", "transformer"]
# The run stops in the middle of all of them.
INTERVALS = {"logging_interval": 2, "validation_interval": 2, "checkpoint_interval": 4}
EACH_UPDATE = {"logging_interval": 1, "validation_interval": 1}


@pytest.fixture
def signal_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A function that makes this process get a signal right after so many updates."""

    def plan(number: int, updates: int) -> None:
        advance, done = reporting.Reporter.advance, itertools.count(1)

        def count(self: reporting.Reporter) -> None:
            advance(self)
            if next(done) == updates:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(reporting.Reporter, "advance", count)

    return plan


@pytest.mark.parametrize("decoder", FAMILIES)
@pytest.mark.parametrize("encoder", FAMILIES)
def test_run_in_three_goes_is_the_run_in_one_go(
    encoder, decoder, configure, nmt, open_run, signal_at
):
    configure(encoder, decoder, training=INTERVALS)
    assert (
        nmt("train", "c.yaml", "--set", "run_dir=whole", "--set", "training.max_updates=6").code
        == 0
    )
    signal_at(signal.SIGTERM, 3)
    done = nmt("train", "c.yaml", "--set", "training.max_updates=4")
    assert done.code == 143
    assert "SIGTERM: saving, then stopping" in done.messages
    assert done.messages[-1] == "stopped; the same command goes on from here"
    assert open_run().updates("train") == [2]
    # The best model so far is usable meanwhile.
    assert nmt("translate", "--model", "run", stdin=b"ba de\n").code == 0
    for limit, begin in ((4, 3), (6, 4)):
        done = nmt("train", "c.yaml", "--set", f"training.max_updates={limit}")
        assert done.code == 0
        assert f"resumed from update {begin}" in done.messages
    assert open_run().metrics == open_run("whole").metrics
    assert open_run().updates("validation") == [2, 4, 6]
    assert open_run().sha256 == open_run("whole").sha256


@pytest.mark.parametrize("decoder", FAMILIES)
@pytest.mark.parametrize("encoder", FAMILIES)
def test_search_and_forced_decoding_agree(encoder, decoder, configure, nmt):
    words = {"type": "word", "vocab_size": 20, "byte_fallback": False}
    configure(encoder, decoder, tokenizer=words, decoding={"beam_size": 4, "length_penalty": 0.0})
    assert nmt("train", "c.yaml").code == 0
    lines = ["ba de", "ki", "lo mu na po", "ri ri ri ri ri ri"]
    stdin = "".join(f"{line}\n" for line in lines).encode()
    done = nmt(
        *("translate", "--format", "moses", "--nbest", "4", "--precision", "fp64"), stdin=stdin
    )
    rows = [row.split(" ||| ") for row in done.lines]
    assert [int(row[0]) for row in rows] == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    model = api.load("run", precision="fp64")
    ranked = model.translate_nbest(lines, 4)
    assert [row[1] for row in rows] == [one.text for found in ranked for one in found]
    for found in ranked:
        scores = [one.score for one in found]
        assert scores == sorted(scores, reverse=True)
    forced = model.score([lines[int(row[0])] for row in rows], [row[1] for row in rows])
    num_compared = 0
    for (_, text, features, score), wanted in zip(rows, forced, strict=True):
        assert features == f"logprob={score}"
        # Two words of the vocabulary have no text of their own.
        if re.fullmatch(r"[a-z]{2}( [a-z]{2})*", text):
            num_compared += 1
            assert float(score) == pytest.approx(wanted, abs=1e-5)
    assert num_compared >= 4


@pytest.mark.parametrize("family", FAMILIES)
def test_interrupt_saves_and_a_second_one_does_not(family, configure, nmt, open_run, signal_at):
    configure(family, training=INTERVALS | {"max_updates": 5})
    signal_at(signal.SIGINT, 3)
    done = nmt("train", "c.yaml")
    assert done.code == 130
    assert done.messages[-1] == "stopped; the same command goes on from here"
    signal_at(signal.SIGINT, 1)
    signal_at(signal.SIGINT, 1)
    done = nmt("train", "c.yaml")
    assert (done.code, done.messages[-1]) == (130, "nmt: interrupted")
    done = nmt("train", "c.yaml")
    assert "resumed from update 3" in done.messages
    assert open_run().updates("train") == [2, 4]


@pytest.mark.parametrize("family", FAMILIES)
def test_validation_sees_the_model_as_it_is_saved(family, configure, nmt, open_run):
    configure(family, training=INTERVALS | {"max_updates": 4, "best_metric": "loss"})
    flags = [f"--set=model.{side}.dropout=0.5" for side in ("encoder", "decoder")]
    assert nmt("train", "c.yaml", *flags).code == 0
    sides = [Path(f"valid.{side}").read_text().split("\n")[:-1] for side in ("src", "tgt")]
    num_tokens = sum(len(line.split(" ")) + 1 for line in sides[1])
    loss = -sum(api.load("run").score(*sides)) / num_tokens
    found = [line["loss"] for line in open_run().metrics if line["event"] == "validation"]
    assert min(found) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_model_of_a_run_is_its_best_one_and_not_its_last(family, configure, nmt, open_run):
    # At such a rate the loss soon rises again.
    wild = {"learning_rate": 3.0, "warmup_updates": 2, "schedule": "constant"}
    keep = {"max_updates": 6, "checkpoint_interval": 1, "keep_checkpoints": 6}
    configure(family, training=EACH_UPDATE | wild | keep | {"best_metric": "loss"})
    assert nmt("train", "c.yaml").code == 0
    validations = [line for line in open_run().metrics if line["event"] == "validation"]
    best = min(validations, key=lambda line: line["loss"])
    assert best["update"] < 6
    shown = json.loads(nmt("inspect", "run", "--json").text)
    assert (shown["update"], shown["validation"]) == (best["update"], {"loss": best["loss"]})
    weights = Path(f"run/checkpoints/{best['update']:08d}/weights.safetensors")
    assert Path("run/model.safetensors").read_bytes() == weights.read_bytes()


def test_last_run_is_the_one_that_train_was_last_at_work_on(configure, nmt):
    configure("rnn")
    for name in ("first", "second"):
        assert nmt("train", "c.yaml", "--set", f"run_dir=runs/{name}").code == 0
    for name in ("first", "second"):
        # A finished run counts too.
        assert nmt("train", "c.yaml", "--set", f"run_dir=runs/{name}").code == 0
        done = nmt("translate", stdin=b"ba\n")
        assert done.messages == [
            f"model: runs/{name} (the last run of `nmt train` here, see .nmt/last-run)"
        ]
        assert nmt("inspect").lines[0].split() == ["folder", f"runs/{name}"]


# Steps too small to change any score.
STILL = {"learning_rate": 1e-12, "warmup_updates": 0, "max_updates": 50}


@pytest.mark.parametrize(
    ("settings", "reached"),
    [
        ({"schedule": "constant", "patience": 3}, "reached patience (3 validations without a new"),
        (
            {"schedule": "plateau", "plateau_patience": 1, "min_learning_rate": 2e-13},
            "reached min_learning_rate (2e-13) after 4",
        ),
    ],
)
def test_what_counts_towards_the_end_counts_over_stops(
    settings, reached, configure, nmt, open_run, signal_at
):
    configure("rnn", training=STILL | EACH_UPDATE | settings)
    signal_at(signal.SIGTERM, 3)
    assert nmt("train", "c.yaml").code == 143
    done = nmt("train", "c.yaml")
    assert (done.code, open_run().updates("validation")) == (0, [1, 2, 3, 4])
    assert reached in done.messages[-1]
    lines = Path("run/metrics.jsonl").read_text().split("\n")[:-1]
    seconds = [json.loads(line)["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_seed_decides_the_weights(configure, nmt, open_run):
    configure("transformer")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        nmt("train", "c.yaml", "--set", f"run_dir={name}", "--set", f"seed={seed}")
    assert open_run("a").sha256 == open_run("b").sha256 != open_run("c").sha256


def test_small_pieces_and_whole_batches_train_alike(configure, nmt):
    configure("transformer", training={"precision": "fp64", "max_updates": 3})
    model = ["--set", "model.encoder.dropout=0", "--set", "model.decoder.dropout=0"]
    nmt("train", "c.yaml", *model, "--set", "run_dir=whole")
    nmt("train", "c.yaml", *model, "--set", "run_dir=cut", "--set", "training.max_device_tokens=20")
    scores = [
        api.load(folder, precision="fp64").score(["ba de ki"], ["ki de ba"])[0]
        for folder in ("whole", "cut")
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-9)


def test_configuration_of_a_run_folder_goes_on_with_that_run(configure, nmt):
    configure("cnn")
    assert nmt("train", "c.yaml").code == 0
    assert "this run is finished: 2 updates" in nmt("train", Path("run/config.yaml")).err
    done = nmt("train", Path("run/config.yaml"), "--set", "training.max_updates=3")
    assert "resumed from update 2" in done.messages
