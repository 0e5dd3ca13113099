"""Ranks that meet: what one knows or cannot do, all learn; alone, nothing but the work is done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.runtime import device as devices
from nmt.runtime import distributed

VARIABLES = {"RANK": "1", "WORLD_SIZE": "3", "MASTER_ADDR": "here", "MASTER_PORT": "1"}

# Three ranks by fork, each of which prints what it found as a line of JSON.
PROGRAM = """
import contextlib
import itertools
import json
import os
import socket
import sys

import torch

from nmt import errors
from nmt.runtime import buckets, distributed

buckets.BYTES = 40


def outcome(action):
    try:
        return action()
    except errors.PeerError as error:
        return ["heard", str(error), error.exit_code]
    except errors.NMTError as error:
        return [type(error).__name__, str(error)]


def fail_on(rank, *others):
    def action():
        done.append(rank)
        if group.rank in (rank, *others):
            raise errors.DataError(f"bad {group.rank}")
        return group.rank
    return action


def summed():
    # Some fit a bucket together, one has another type, one has a bucket of its own, one is a view.
    tensors = [torch.full((n,), 10.0 ** group.rank, dtype=t) for n, t in SIZES]
    tensors.append(torch.full((2, 3), 10.0 ** group.rank).T)
    group.sum(tensors)
    return [sorted(set(tensor.flatten().tolist())) for tensor in tensors]


def shared():
    # The last two of rank 1 fit a bucket together.
    tensors = [torch.full((3,), float(group.rank)) for _ in range(4)]
    tensors.append(torch.full((2, 3), float(group.rank)).T)
    group.share(tensors, [2, 0, 1, 1, 2])
    return [sorted(set(tensor.flatten().tolist())) for tensor in tensors]


SIZES = [(3, torch.float32), (4, torch.float32), (2, torch.float64), (30, torch.float32)]
# Below those that the system hands out to others meanwhile.
for port in itertools.count(10_000 + os.getpid() % 20_000):
    with contextlib.suppress(OSError), socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        break
children = []
for rank in range(3):
    children.append(os.fork())
    if children[-1]:
        continue
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "3"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    done = []
    with distributed.joined(distributed.started()) as group:
        found = {
            "size": [group.rank, group.size, group.is_main],
            "meet": group.meet([rank, -rank, 0.1 + rank, float("inf")]),
            "sum": summed(),
            "share": shared(),
            "main": group.on_main(lambda: {"from": rank, "text": "é"}),
            "turn": group.in_turn(lambda: rank),
            "together": outcome(lambda: group.together(fail_on(1, 2))),
            "main fails": outcome(lambda: group.on_main(fail_on(0))),
            "turn fails": outcome(lambda: group.in_turn(fail_on(0))),
            "other turn fails": outcome(lambda: group.in_turn(fail_on(2))),
            "nested": outcome(lambda: group.together(lambda: group.in_turn(fail_on(1)))),
            "equal": outcome(lambda: distributed.check_equal(group, "ab" * 32, "weights")),
            "unequal": outcome(lambda: distributed.check_equal(group, f"{rank}b" * 32, "weights")),
            "done": done,
        }
    os.write(1, (json.dumps([rank, found]) + "\\n").encode())
    os._exit(0)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


@pytest.fixture(scope="module")
def found() -> list[dict]:
    """What each of three ranks found."""
    root = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [found for _, found in sorted(json.loads(line) for line in done.stdout.splitlines())]


def of_all(found: list[dict], name: str) -> list:
    return [of_rank[name] for of_rank in found]


def test_each_rank_knows_who_it_is(found):
    assert of_all(found, "size") == [[0, 3, True], [1, 3, False], [2, 3, False]]


def test_a_meeting_finds_the_smallest_of_each_value_to_the_bit(found):
    assert of_all(found, "meet") == [[0.0, -2.0, 0.1, float("inf")]] * 3


def test_sums_are_those_of_all_ranks_whatever_the_bucket(found):
    assert of_all(found, "sum") == [[[111.0]] * 5] * 3


def test_each_tensor_is_its_owners_everywhere(found):
    assert of_all(found, "share") == [[[2.0], [0.0], [1.0], [1.0], [2.0]]] * 3


def test_the_value_of_rank_0_comes_to_all(found):
    assert of_all(found, "main") == [{"from": 0, "text": "é"}] * 3
    assert of_all(found, "turn") == [0, 1, 2]


def test_a_failure_is_raised_by_all_and_as_its_own_by_the_lowest_that_failed(found):
    heard = ["heard", "rank 1: bad 1", 1]
    # Rank 2 failed as well, but a second message would say nothing new.
    assert of_all(found, "together")[:2] == [heard, ["DataError", "bad 1"]]
    assert of_all(found, "together")[2] == heard
    assert of_all(found, "nested") == [heard, ["DataError", "bad 1"], heard]
    heard = ["heard", "rank 0: bad 0", 1]
    for name in ("main fails", "turn fails"):
        assert of_all(found, name) == [["DataError", "bad 0"], heard, heard]
    heard = ["heard", "rank 2: bad 2", 1]
    assert of_all(found, "other turn fails") == [heard, heard, ["DataError", "bad 2"]]


def test_what_rank_0_could_not_do_the_others_do_not_try(found):
    # together, main fails, turn fails, other turn fails, nested
    assert of_all(found, "done") == [[1, 0, 0, 2, 1], [1, 2, 1], [1, 2, 1]]


def test_different_beginnings_are_told_once(found):
    assert of_all(found, "equal") == [None] * 3
    first, *others = of_all(found, "unequal")
    assert first[0] == "TrainingError"
    assert first[1].startswith("rank 0 of 3: ranks begin with different weights (given: 0b0b")
    assert [other[:2] for other in others] == [["heard", f"rank 0: {first[1]}"]] * 2


def test_alone_only_the_work_is_done():
    group = distributed.Alone()
    assert (group.rank, group.size, group.is_main) == (0, 1, True)
    assert group.meet([2.0, 0.1]) == [2.0, 0.1]
    assert [do(lambda: 7) for do in (group.together, group.on_main, group.in_turn)] == [7, 7, 7]
    tensor = torch.ones(2)
    group.sum([tensor])
    group.share([tensor], [0])
    assert tensor.tolist() == [1.0, 1.0]
    with pytest.raises(errors.DataError, match="own"):
        group.meet([], errors.DataError("own"))


def set_variables(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    for name in (*VARIABLES, "LOCAL_RANK", "TORCHELASTIC_RESTART_COUNT"):
        value = (VARIABLES | changes).get(name)
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def test_the_environment_says_which_rank_this_is(monkeypatch):
    set_variables(monkeypatch, LOCAL_RANK="2", TORCHELASTIC_RESTART_COUNT="4")
    assert distributed.started() == distributed.Start(1, 3, 2, 4)
    set_variables(monkeypatch, MASTER_PORT=None)
    assert distributed.started() == distributed.Start()
    set_variables(monkeypatch, RANK="0", WORLD_SIZE="1")
    with distributed.joined(distributed.started()) as group:
        assert isinstance(group, distributed.Alone)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"RANK": "one"}, r"RANK: is not a whole number \(given: one\)"),
        ({"RANK": "3"}, r"RANK: is not below WORLD_SIZE \(given: 3 and 3\)"),
        ({"LOCAL_RANK": "x"}, r"LOCAL_RANK: is not a whole number"),
    ],
)
def test_an_environment_that_makes_no_sense_is_refused(changes, text, monkeypatch):
    set_variables(monkeypatch, **changes)
    with pytest.raises(errors.UsageError, match=text):
        distributed.started()


def test_each_rank_has_a_gpu_of_its_own(monkeypatch):
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    assert devices.of_rank(cuda, 1, 4) == torch.device("cuda", 1)
    assert chosen == [1]
    assert devices.of_rank(cpu, 5, 8) == cpu
    assert devices.of_rank(torch.device("cuda", 1), 0, 1) == torch.device("cuda", 1)
    with pytest.raises(errors.ConfigError, match=r"2 GPUs, process 3 on it finds none"):
        devices.of_rank(cuda, 2, 4)
    with pytest.raises(errors.ConfigError, match=r"one GPU for 4 processes \(given: cuda:1\)"):
        devices.of_rank(torch.device("cuda", 1), 0, 4)
