"""One process at a time holds a folder, and a dead one holds none."""

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nmt import errors
from nmt.runtime import locks

HOLD = """
import sys
from pathlib import Path
from nmt.runtime import locks
with locks.RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_says_who_holds_it_and_dies_with_its_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(errors.TrainingError) as caught, locks.RunLock(tmp_path):
            pass
        for part in (str(tmp_path), f"process {holder.pid}", socket.gethostname(), "run_dir"):
            assert part in str(caught.value)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with locks.RunLock(tmp_path):
        assert f"process {os.getpid()}" in (tmp_path / ".lock").read_text()


def test_a_lock_is_given_back_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="x"), locks.RunLock(tmp_path):
        raise ValueError("x")
    with locks.RunLock(tmp_path):
        pass


def test_a_refused_lock_leaves_the_holders_name(tmp_path: Path) -> None:
    with locks.RunLock(tmp_path):
        before = (tmp_path / ".lock").read_text()
        for _ in range(2):
            with pytest.raises(errors.TrainingError, match=f"process {os.getpid()}"):
                locks.RunLock(tmp_path).__enter__()
        assert (tmp_path / ".lock").read_text() == before


def test_folders_do_not_know_each_other(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with locks.RunLock(tmp_path / "a"), locks.RunLock(tmp_path / "b"):
        pass


def test_a_shorter_holder_overwrites_a_longer_one(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("x" * 1000)
    with locks.RunLock(tmp_path):
        assert "x" * 10 not in (tmp_path / ".lock").read_text()


def test_a_folder_that_cannot_be_locked_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(errors.FileError, match="cannot be written"):
        locks.RunLock(tmp_path / "none").__enter__()

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(errors.FileError, match="cannot be locked .*No locks available"):
        locks.RunLock(tmp_path).__enter__()
