"""`nmt average`: several checkpoints of a run become one model folder."""

import shutil
from pathlib import Path

import pytest
import torch

from nmt.checkpoint import averaging, folder, resume, weights
from nmt.cli import train

INTERVALS = {"checkpoint_interval": 1, "validation_interval": 2, "best_metric": "loss"}
FAST = {"warmup_updates": 0, "learning_rate": 0.05}
SETTINGS = INTERVALS | FAST | {"keep_checkpoints": 3, "max_updates": 5}


def mean(parts):
    return {name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor)


@pytest.mark.parametrize(
    ("flags", "updates"), [(["--last", "3"], [3, 4, 5]), (["--checkpoints", "5,3"], [3, 5])]
)
def test_average_is_a_model_folder_with_the_mean_weights(flags, updates, configure, nmt):
    configure("transformer", training=SETTINGS)
    assert nmt("train", "c.yaml").code == 0
    done = nmt("average", "run", *flags, "--output", "mean")
    assert done.code == 0
    assert done.messages == [f"mean: average of updates {', '.join(map(str, updates))}"]
    states = [resume.load(Path("run"), update).tensors["weights"] for update in updates]
    assert_close(folder.read(Path("mean")).tensors, mean(states))
    shutil.rmtree("run")
    assert len(nmt("translate", "--model", "mean", stdin=b"ba de\n").lines) == 1


def test_moving_averages_and_snapshots_count(configure, nmt):
    given = SETTINGS | {"ema_decay": 0.5, "average_checkpoints": 3, "keep_checkpoints": 1}
    configure("rnn", training=given)
    assert nmt("train", "c.yaml").code == 0
    run = Path("run")
    assert nmt("average", run, "--last", "3", "--output", "mean").code == 0
    assert averaging.snapshot_updates(run) == [2, 4, 5]
    states = [averaging.load(run, update) for update in (2, 4, 5)]
    state = resume.load(run, 5).tensors
    assert_close(states[2], {**state["weights"], **state["ema"]})
    assert any(not torch.equal(states[2][name], state["weights"][name]) for name in state["ema"])
    assert_close(weights.load_tensors(Path("mean/model.safetensors")), mean(states))


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ([], ["one of the arguments --last --checkpoints is required"]),
        (["--last", "9"], ["--last: more than there are (given: 9)", "4, 5."]),
        (["--last", "0"], ["--last: wants at least 1"]),
        (["--checkpoints", "4,77"], ["--checkpoints: not there (given: 77)", "4, 5."]),
        (["--checkpoints", "4,x"], ["--checkpoints: wants a whole number"]),
        (["--last", "2", "--output", "run"], ["--output: is there already (given: run)"]),
    ],
)
def test_wrong_use_is_one_line(flags, parts, configure, nmt):
    configure("rnn", training=SETTINGS | {"keep_checkpoints": 2, "validation_interval": 5})
    assert nmt("train", "c.yaml").code == 0
    output = [] if "--output" in flags else ["--output", "mean"]
    nmt("average", "run", *flags, *output).assert_refused(2, *parts)
    assert not Path("mean").exists()


def test_torn_checkpoint_is_named(configure, nmt):
    configure("rnn", training=SETTINGS)
    assert nmt("train", "c.yaml").code == 0
    torn = Path("run/checkpoints/00000004/weights.safetensors")
    torn.write_bytes(torn.read_bytes()[:-1])
    nmt("average", "run", "--last", "2", "--output", "mean").assert_refused(1, str(torn))
    assert not Path("mean").exists()


def test_a_run_with_a_moving_average_publishes_it(configure, nmt):
    configure("rnn", training=SETTINGS | {"ema_decay": 0.5, "validation_interval": 5})
    assert nmt("train", "c.yaml").code == 0
    state = resume.load(Path("run"), 5).tensors
    published = folder.read(Path("run")).tensors
    for name, tensor in state["ema"].items():
        assert torch.equal(published[name], tensor), name
    assert any(not torch.equal(published[name], state["weights"][name]) for name in state["ema"])


def test_a_damaged_average_is_no_reason_to_publish_nothing(configure, nmt):
    configure(training={"max_updates": 2})
    assert nmt("train", "c.yaml").code == 0
    stored = resume.latest(Path("run"))
    stored.values["progress"]["average_score"] = 1.0
    train._forget_lost_average(Path("run"), stored)
    assert stored.values["progress"]["average_score"] == 1.0
    Path("run/model.safetensors").write_bytes(b"torn")
    train._forget_lost_average(Path("run"), stored)
    assert stored.values["progress"]["average_score"] is None
