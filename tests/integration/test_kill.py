"""A run that is killed and taken up again ends as the one that nobody disturbed, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

INTERVALS = {"logging_interval": 1, "validation_interval": 4, "checkpoint_interval": 6}
ENDLESS = ["--set", "training.max_updates=1000000"]


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def last_update(path: Path) -> int:
    """The update of the last whole line of metrics.jsonl."""
    line = path.read_text().split("\n")[-2]
    return int(json.loads(line)["update"])


def checkpoints(run_dir: str) -> list[int]:
    folder = Path(run_dir, "checkpoints")
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


@pytest.fixture
def stop_by(start, wait_until) -> Callable[[int, int], tuple[int, list[str]]]:
    """A function that trains without end, and sends a signal after so many more updates.

    It returns the exit status and the lines of stderr.
    """

    def stop(number: int, more: int) -> tuple[int, list[str]]:
        metrics = Path("run/metrics.jsonl")
        begin = checkpoints("run")[-1] if metrics.exists() else None
        target = more + (last_update(metrics) if begin else 0)
        process = start("train", "c.yaml", *ENDLESS)
        wait_until(lambda: num_lines(metrics) > 0 and last_update(metrics) >= target, process)
        process.send_signal(number)
        out, err = process.communicate(timeout=60.0)
        messages = err.decode().split("\n")[:-1]
        assert out == b""
        assert not any("Traceback" in line for line in messages)
        assert (f"resumed from update {begin}" in messages) == (begin is not None)
        return process.returncode, messages

    return stop


def finish_and_compare(nmt: Callable, open_run: Callable) -> None:
    """Trains three updates more, and a run that nobody disturbs as far."""
    begin = checkpoints("run")[-1]
    limit = last_update(Path("run/metrics.jsonl")) + 3
    flags = ["--set", f"training.max_updates={limit}"]
    done = nmt("train", "c.yaml", *flags)
    assert done.code == 0
    assert f"resumed from update {begin}" in done.messages
    assert nmt("train", "c.yaml", *flags, "--set", "run_dir=whole").code == 0
    assert open_run().updates("train") == list(range(1, limit + 1))
    assert open_run().metrics == open_run("whole").metrics
    assert open_run().sha256 == open_run("whole").sha256
    logged = [run.log.count(" validation: loss ") for run in (open_run(), open_run("whole"))]
    assert logged[0] == logged[1] > 0
    for name in ("weights", "optimizer"):
        state = f"checkpoints/{limit:08d}/{name}.safetensors"
        assert Path("run", state).read_bytes() == Path("whole", state).read_bytes()


@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_run_killed_twice_ends_like_an_undisturbed_one(family, configure, nmt, open_run, stop_by):
    # In the arithmetic that users get.
    configure(family, training=INTERVALS | {"precision": "auto", "best_metric": "loss"})
    for more in (9, 10):
        assert stop_by(signal.SIGKILL, more)[0] == -signal.SIGKILL
    assert nmt("translate", "--model", "run", stdin=b"ba\n").code == 0
    finish_and_compare(nmt, open_run)


def test_run_stopped_by_signals_ends_like_an_undisturbed_one(configure, nmt, open_run, stop_by):
    configure("transformer", training=INTERVALS | {"average_checkpoints": 3, "best_metric": "loss"})
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        stopped, messages = stop_by(number, 5)
        assert stopped == code
        assert f"{signal.Signals(number).name}: saving, then stopping" in messages
        assert messages[-1] == "stopped; the same command goes on from here"
        assert checkpoints("run")[-1] == last_update(Path("run/metrics.jsonl"))
    finish_and_compare(nmt, open_run)


# Trains in children that kill themselves right before the n-th change to the file system: from n =
# argv[1] on, every argv[2]-th one. With argv[3] = 1 they extend a finished run.
DRIVER = """
import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

from nmt.checkpoint import folder
from nmt.cli import main, train  # imports torch once, for all children

STEPS = ("replace", "rename", "fsync", "unlink", "rmdir", "mkdir")


def run(run_dir, die_at=None, limit=5):
    "Returns the status of a child, and how many changes to the file system it made."
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with open(reader, "rb") as stream:
            steps = len(stream.read())
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), steps
    steps = 0

    def counted(real):
        def call(*args, **kwargs):
            nonlocal steps
            steps += 1
            if steps == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            os.write(writer, b".")
            return real(*args, **kwargs)
        return call

    for name in STEPS:
        setattr(os, name, counted(getattr(os, name)))
    code = 99
    try:
        code = main.main(argv(run_dir, limit))
    finally:
        os._exit(code)


def argv(run_dir, limit):
    settings = ["run_dir=" + run_dir, f"training.max_updates={limit}"]
    return ["train", "c.yaml", "--quiet", *(f"--set={setting}" for setting in settings)]


def sha256(run_dir):
    return hashlib.sha256(Path(run_dir, "model.safetensors").read_bytes()).hexdigest()


def metrics(run_dir):
    lines = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    times = {"seconds", "tokens_per_second", "memory_mib"}
    return [{key: value for key, value in line.items() if key not in times} for line in lines]


def names(run_dir):
    "All files but snapshots: which of them are no longer needed is found out at the next start."
    found = [path.relative_to(run_dir) for path in Path(run_dir).rglob("*") if path.is_file()]
    return {str(path) for path in found if path.parts[0] != "snapshots"}


# Once here, so that no child has to wait for what is loaded at first use.
assert main.main(argv("warm", 2)) == 0
assert run("whole")[0] == 0
begin, step, has_begun = map(int, sys.argv[1:])


def start(name):
    "Makes the folder that a child starts with: none, or a finished run whose limit is raised."
    if has_begun:
        shutil.copytree("warm", name)
    return name


code, total = run(start("counted"))
assert code == 0, code
for die_at in range(begin, total + 1, step):
    run_dir = start(f"run-{die_at}")
    code, steps = run(run_dir, die_at)
    assert (code, steps) == (-signal.SIGKILL, die_at - 1), (code, steps, die_at)
    if Path(run_dir, "manifest.json").exists():
        folder.read(Path(run_dir))
    code, _ = run(run_dir)
    assert code == 0, (die_at, code)
    assert sha256(run_dir) == sha256("whole"), die_at
    assert metrics(run_dir) == metrics("whole"), die_at
    folder.verify(Path(run_dir))
    assert names(run_dir) == names("whole"), (die_at, names(run_dir) ^ names("whole"))
print(total)
"""


@pytest.mark.parametrize(("begin", "step", "has_begun"), [(3, 13, 0), (2, 9, 1)])
def test_kill_at_any_step_leaves_what_can_be_resumed(begin, step, has_begun, configure):
    snapshots = {"average_checkpoints": 2, "best_metric": "loss", "keep_checkpoints": 1}
    intervals = {"logging_interval": 1, "validation_interval": 2, "checkpoint_interval": 3}
    configure("rnn", training=snapshots | intervals)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(begin), str(step), str(has_begun)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) > 100
