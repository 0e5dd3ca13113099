"""Several processes train as one: same losses, same decisions, one voice, and no hang when one dies."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nmt.checkpoint import resume


def assert_same_losses(one: Any, other: Any) -> None:
    for event, names in (("train", ("loss", "grad_norm")), ("validation", ("loss",))):
        curves = [
            [[line[name] for name in names] for line in run.metrics if line["event"] == event]
            for run in (one, other)
        ]
        assert len(curves[0]) == len(curves[1]) > 1
        for left, right in zip(*curves, strict=True):
            assert left == pytest.approx(right, rel=1e-10)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("transformer", {"average_checkpoints": 2}),
        ("rnn", {"optimizer": "adamw", "ema_decay": 0.9, "max_device_tokens": 8}),
        ("transformer", {"optimizer": "muon"}),
    ],
)
def test_losses_are_those_of_one_process(family, settings, exact, nmt, ranks, open_run):
    exact(family, **settings)
    done = nmt("train", "c.yaml")
    assert done.code == 0
    epoch = next(line for line in done.messages if line.endswith(" batches an epoch"))
    assert 60 / int(epoch.split()[0]) < 3, "some batches leave the third rank without a pair"
    ended = ranks(3, "three")
    assert ended.codes == [0, 0, 0]
    assert_same_losses(open_run(), open_run("three"))
    assert open_run().updates("train") == open_run("three").updates("train")


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_killed_rank_ends_the_run_which_then_goes_on_bit_for_bit(
    optimizer, exact, ranks, open_run
) -> None:
    exact("transformer", dropout=0.1, precision="auto", optimizer=optimizer)
    ended = ranks(2, "whole")
    assert (ended.codes, ended.messages[1]) == ([0, 0], []), "rank 0 alone has something to say"
    for name, rank in (("log", 0), ("log.rank1", 1)):
        log = Path(f"whole/{name}.txt").read_text()
        assert [f"process {number} of 2" in log for number in (0, 1)] == [rank == 0, rank == 1]
    ended = ranks(2, "run", faults=[[1, 5, "KILL"]])
    assert ended.codes == [1, -signal.SIGKILL]
    (message,) = [line for line in ended.messages[0] if line.startswith("nmt: ")]
    assert message.startswith("nmt: rank 0 of 2: has lost another process of this run (")
    assert "Connection" in message
    assert ended.messages[0][-1] == message
    ended = ranks(2, "run", faults=[[0, 8, "KILL"]])
    assert ended.codes == [-signal.SIGKILL, 1]
    assert "resumed from update 4" in ended.messages[0]
    assert len(ended.messages[1]) == 1
    assert ended.messages[1][0].startswith("nmt: rank 1 of 2: has lost another process")
    assert ranks(2, "run").codes == [0, 0]
    assert open_run("run").sha256 == open_run("whole").sha256
    assert open_run("run").metrics == open_run("whole").metrics


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_killed_amid_a_step_leaves_no_half_of_it(rank, exact, ranks, open_run):
    """The one that is left has moved its own matrices and nobody else's."""
    exact("transformer", optimizer="muon")
    assert ranks(2, "whole").codes == [0, 0]
    ended = ranks(2, "run", faults=[[rank, 5, "share-KILL"]])
    assert sorted(ended.codes) == [-signal.SIGKILL, 1]
    assert resume.updates(Path("run"))[-1] == 4
    assert ranks(2, "run").codes == [0, 0]
    assert open_run("run").sha256 == open_run("whole").sha256
    assert open_run("run").metrics == open_run("whole").metrics


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_a_run_goes_on_with_another_number_of_ranks(optimizer, exact, nmt, ranks, open_run):
    exact(optimizer=optimizer)
    assert nmt("train", "c.yaml", "--set", "run_dir=alone").code == 0
    assert ranks(3, "run", faults=[[2, 3, "KILL"]]).codes.count(1) == 2
    assert ranks(2, "run", faults=[[1, 5, "KILL"]]).codes == [1, -signal.SIGKILL]
    done = nmt("train", "c.yaml", "--set", "run_dir=run")
    assert done.code == 0
    assert "resumed from update 4" in done.messages
    assert_same_losses(open_run("alone"), open_run("run"))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_all_with_a_saved_state(rank, exact, ranks, open_run):
    exact(checkpoint_interval=100)
    ended = ranks(2, "run", faults=[[rank, 3, "TERM"]])
    assert ended.codes == [143, 143]
    assert ended.messages[0][-1] == "stopped; the same command goes on from here"
    assert ended.messages[1] == []
    assert resume.updates(Path("run"))[-1] == 3
    assert "resumed from update 3" in ranks(2, "run").messages[0]


def test_a_rank_without_memory_changes_no_sum(exact, ranks, open_run):
    exact()
    assert ranks(2, "whole").codes == [0, 0]
    ended = ranks(2, "run", "--set=training.batch_tokens=40", faults=[[1, 3, "memory"]])
    assert ended.codes == [0, 0]
    ended = ranks(2, "whole", "--fresh", "--set=training.batch_tokens=40")
    assert ended.codes == [0, 0]
    assert_same_losses(open_run("run"), open_run("whole"))
    (line,) = [line for line in open_run("run").metrics if line["event"] == "memory"]
    assert line["update"] == 3
    assert resume.latest(Path("run")).values["progress"]["device_tokens"] == line["device_tokens"]


def test_ranks_skip_and_go_back_together(exact, nmt, ranks, open_run):
    exact(max_skipped_updates=2, batch_tokens=40)
    assert ranks(2, "run", faults=[[1, 5, "nan"], [1, 6, "nan"]]).codes == [0, 0]
    assert ranks(2, "other", faults=[[0, 5, "nan"], [0, 6, "nan"]]).codes == [0, 0]
    (line,) = [line for line in open_run("run").metrics if line["event"] == "rollback"]
    assert (line["update"], line["to_update"]) == (6, 4)
    assert open_run("run").metrics == open_run("other").metrics
    assert open_run("run").sha256 == open_run("other").sha256


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"argv": ["--set=training.max_updatez=1"]}, 2, "Did you mean 'max_updates'?"),
        ({"argv": ["--set=data.train=[{src: none.src, tgt: none.tgt}]"]}, 1, "none.src"),
        ({"faults": [[0, 0, "disk"]]}, 1, "the disk is full"),
        ({"faults": [[1, 0, "data"]]}, 1, "the data of this rank have gone"),
        (
            {"argv": ["--set=training.max_device_tokens=auto"], "faults": [[1, 0, "fit"]]},
            1,
            "fit 1",
        ),
        ({"extra": {"1": ["--set=seed=2"]}}, 1, "ranks begin with different weights"),
    ],
)
def test_a_failure_is_one_message(changes, code, text, exact, ranks):
    exact(batch_tokens=40)
    ended = ranks(2, "run", *changes.pop("argv", []), **changes)
    assert ended.codes == [code, code]
    found = [line for lines in ended.messages for line in lines if line.startswith("nmt: ")]
    assert len(found) == 1, ended.messages
    assert text in found[0]


def kill(process: subprocess.Popen[bytes], rank: str) -> bool:
    """Kills the process that torchrun has started as this rank; returns whether it was there."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                if f"RANK={rank}".encode() in variables:
                    os.kill(int(child), signal.SIGKILL)
                    return True
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_torchrun_takes_a_run_up_again(exact, ranks, open_run, rank_environment, wait_until):
    exact("rnn", dropout=0.1, precision="auto", max_updates=120)
    assert ranks(2, "whole").codes == [0, 0]
    command = "-m torch.distributed.run --standalone --nproc-per-node 2 --max-restarts 1 -m nmt"
    process = subprocess.Popen(
        [sys.executable, *command.split(), "train", "c.yaml", "--fresh"],
        env=rank_environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(lambda: len(resume.updates(Path("run"))) > 1 and kill(process, "1"), process)
        _, err = process.communicate(timeout=90.0)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, err.decode()
    assert b"resumed from update" in err
    assert not list(Path().glob("run.old-*")), "the run was not moved aside at its second start"
    assert open_run("run").sha256 == open_run("whole").sha256
    assert open_run("run").metrics == open_run("whole").metrics
