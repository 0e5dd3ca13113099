"""Numbers that are not finite and memory that runs out, through the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.checkpoint import folder, resume
from nmt.cli import jobs
from nmt.runtime import seeds
from nmt.training import loop, progress, update

INTERVALS = {"logging_interval": 1, "validation_interval": 3, "checkpoint_interval": 2}
SETTINGS = INTERVALS | {"max_updates": 6, "best_metric": "loss", "max_skipped_updates": 2}


@pytest.fixture
def poison(monkeypatch):
    """A function that makes loss or gradient of some updates not finite, by their seeds."""

    def install(bad, *, what="loss"):
        original = update.summed_loss

        def poisoned(model, piece, *weights):
            total, nll = original(model, piece, *weights)
            if torch.initial_seed() in bad and total.requires_grad:
                if what == "loss":
                    return total * float("nan"), nll
                total.register_hook(lambda gradient: gradient * float("inf"))
            return total, nll

        monkeypatch.setattr(update, "summed_loss", poisoned)

    return install


def seeds_of(*updates, attempts=(0,)):
    return {seeds.of_update(1, number, attempt=a) for number in updates for a in attempts}


@pytest.mark.parametrize("family", ["transformer", "rnn"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_bad_update_is_skipped_counted_and_logged(family, what, poison, configure, nmt, open_run):
    configure(family, training=SETTINGS)
    poison(seeds_of(3), what=what)
    done = nmt("train", "c.yaml")
    assert done.code == 0
    assert [line["skipped"] for line in open_run().metrics if line["event"] == "train"] == [
        *(0, 0, 1, 0, 0, 0)
    ]
    assert sum("update 3: skipped, since loss or gradient" in m for m in done.messages) == 1
    for tensor in folder.read(Path("run")).tensors.values():
        assert torch.isfinite(tensor).all()


@pytest.mark.parametrize(
    ("validation_interval", "back", "logged"),
    [
        (6, 2, [1, 2, 3, 3, 4, 5, 6]),
        # The moving average goes on while updates are skipped, and update 3 validates as the best one.
        (1, 3, [1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_run_goes_back_and_then_on(
    validation_interval, back, logged, poison, configure, nmt, open_run
):
    intervals = {"validation_interval": validation_interval, "checkpoint_interval": 1}
    configure("transformer", training=SETTINGS | {"ema_decay": 0.9} | intervals)
    poison(seeds_of(3, 4))
    done = nmt("train", "c.yaml")
    assert done.code == 0
    (line,) = [line for line in open_run().metrics if line["event"] == "rollback"]
    assert (line["update"], line["to_update"], line["rate_factor"]) == (4, back, 0.5)
    assert open_run().updates("train") == logged
    assert resume.load(Path("run"), 6).values["progress"]["rate_factor"] == 0.5


def test_a_run_that_cannot_be_mended_ends_with_one_line_and_keeps_its_model(
    poison, configure, nmt, open_run
):
    configure("transformer", training=SETTINGS)
    poison(seeds_of(*range(4, 99), attempts=range(9)))
    done = nmt("train", "c.yaml")
    assert done.code == 1
    assert done.messages[-1].startswith("nmt: update 5: loss or gradient is not finite")
    assert len(nmt("translate", "--model", "run", stdin=b"ba\n").lines) == 1
    again = nmt("train", "c.yaml")
    assert again.code == 1
    assert any(message.startswith("resumed from update") for message in again.messages)


def test_memory_that_runs_out_cuts_the_batches_and_a_resumed_run_knows(
    monkeypatch, configure, nmt, open_run
):
    original = update.summed_loss

    def limited(model, piece, *weights):
        if piece.tgt_in_BT.numel() > 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return original(model, piece, *weights)

    monkeypatch.setattr(update, "summed_loss", limited)
    configure("transformer", training=SETTINGS)
    assert nmt("train", "c.yaml", "--set", "training.max_updates=3").code == 0
    lines = [line for line in open_run().metrics if line["event"] == "memory"]
    assert lines[-1]["device_tokens"] <= 60
    assert nmt("train", "c.yaml").code == 0
    assert [line for line in open_run().metrics if line["event"] == "memory"] == lines
    assert nmt("train", "c.yaml", "--set", "run_dir=whole").code == 0
    assert open_run().sha256 == open_run("whole").sha256


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


@linux
def test_a_limit_of_memory_that_is_too_low_is_one_line(configure, nmt):
    configure("rnn", training={"memory_limit": 8})
    nmt("train", "c.yaml").assert_refused(2, "training.memory_limit: 8 MiB", "before it trains")


# MiB that such a process gets; more than weights, moments and some pairs, less than the batch.
ROOM = 280

# Memory that a process once had stays with it, so the limit has to be met in one of its own.
DRIVER = """
import sys
from nmt.runtime import allocator
allocator.tune()
from nmt.cli import jobs, main
from nmt.runtime import memory
limit = memory.used() // memory.MIB + int(sys.argv[1])
flags = [f"training.memory_limit={limit}", *sys.argv[2:]]
sys.exit(main.main(["train", "c.yaml", *(f"--set={flag}" for flag in flags)]))
"""


@linux
@pytest.mark.parametrize("mode", ["null", "auto"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_batches_are_cut_to_a_real_limit_of_memory(precision, mode, configure, open_run):
    sizes = {"type": "transformer", "num_layers": 1, "hidden_size": 64, "num_heads": 8}
    model = {side: sizes | {"feedforward_size": 8192} for side in ("encoder", "decoder")}
    training = {"batch_tokens": 8192, "max_updates": 2, "precision": precision}
    configure("transformer", model=model, training=training)
    for name in ("train.src", "train.tgt"):
        Path(name).write_text(Path(name).read_text() * 16)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(ROOM), f"training.max_device_tokens={mode}"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in open_run().metrics if line["event"] == "memory"]
    assert lines, "memory was plentiful"
    assert lines[0]["update"] == (0 if mode == "auto" else 1)


@pytest.fixture
def extended(configure, nmt, monkeypatch):
    """A run that may go on, and a function that resumes it and stops before its next update."""
    configure("transformer", training=SETTINGS | {"checkpoint_interval": 1})
    assert nmt("train", "c.yaml").code == 0

    def resume_only():
        with monkeypatch.context() as patch:
            patch.setattr(loop.Trainer, "run", lambda trainer: False)
            return nmt("train", "c.yaml", "--set", "training.max_updates=9")

    return resume_only


@pytest.mark.parametrize("fault", ["torn", "missing", "older"])
def test_a_resumed_run_puts_its_best_model_back(fault, extended, open_run):
    wanted, path = open_run().sha256, Path("run/model.safetensors")
    if fault == "torn":
        path.write_bytes(path.read_bytes()[:-9])
    elif fault == "missing":
        Path("run/manifest.json").unlink()
    else:
        # As after a kill between a checkpoint and the model that it is the best of.
        model = folder.read(Path("run"))
        zeros = {name: torch.zeros_like(tensor) for name, tensor in model.tensors.items()}
        folder.publish(
            Path("run"), config_text=model.config_text, tensors=zeros, scores={}, update=1
        )
        assert open_run().sha256 != wanted
    extended()
    assert folder.verify(Path("run")).update == 6
    assert open_run().sha256 == wanted


def test_a_run_whose_best_checkpoint_is_lost_keeps_its_model_or_finds_another(
    extended, nmt, open_run
):
    state = resume.latest(Path("run")).values["progress"]
    assert state["best_update"] == 6, "the loss falls"
    original = jobs.Job._best_weights

    def lost(job, number):
        with pytest.MonkeyPatch.context() as patch:
            if number == 6:
                message = "run/checkpoints/00000006/state.json: missing."
                patch.setattr(jobs.resume, "load", _raise(errors.TrainingError(message)))
            return original(job, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.Job, "_best_weights", lost)
        # Nothing is better than what is published, and the checkpoint that it came from is gone.
        patch.setattr(progress.Progress, "take_score", _never_better)
        done = nmt("train", "c.yaml", "--set", "training.max_updates=7")
    assert done.code == 0, done.err
    assert folder.verify(Path("run")).update == 6
    assert any("and stays" in line for line in done.messages)
    Path("run/manifest.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jobs.Job, "_best_weights", lost)
        patch.setattr(progress.Progress, "take_score", _never_better)
        done = nmt("train", "c.yaml", "--set", "training.max_updates=8")
    assert done.code == 0, done.err
    assert any("next validation counts as the best" in line for line in done.messages)
    assert folder.verify(Path("run")).update == 8


def _never_better(state, score, config):
    state.validated_update = state.update
    is_first = state.best_score is None
    if is_first:
        state.best_score, state.best_update = score, state.update
    return is_first


def _raise(error):
    def action(*args, **kwargs):
        raise error

    return action
