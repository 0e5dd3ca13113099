"""Sides as processes that stay alive and compute only when they are asked."""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import environments

ROOT = Path(__file__).parents[2]


class SideProcess:
    """One side, started and told when to work.

    Attributes:
        name: of the side.
        description: what it said about itself.
    """

    def __init__(self, name: str, python: Path, job: dict[str, Any], log: Path) -> None:
        """Starts it and waits until it is ready.

        Args:
            name: of the side.
            python: of its environment.
            job: what its program takes.
            log: where its stderr goes.

        Raises:
            environments.UnavailableError: it ended before it was ready.
        """
        self.name = name
        self._log = log
        with log.open("wb") as stream:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.worker", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                env=environment(job["threads"], job["allocator"]),
                text=True,
            )
        try:
            self.description: dict[str, Any] = self._answer()
        except BaseException:
            self.close()
            raise

    def turn(self, number: int) -> dict[str, Any]:
        """Returns what so many updates took; see the `turn` of the sides."""
        assert self._process.stdin is not None, "opened as a pipe"
        self._process.stdin.write(json.dumps({"number": number}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def cpu_seconds(self) -> float:
        """Returns the processor time used so far (0 where /proc is not there)."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        # Behind the name, which may hold spaces: user and system time are fields 14 and 15.
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """Ends it; a side that waits ends with its input."""
        assert self._process.stdin is not None and self._process.stdout is not None, "pipes"
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "opened as a pipe"
        line = self._process.stdout.readline()
        if not line:
            lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
            last = next((text for text in reversed(lines) if text.strip()), "no message")
            raise environments.UnavailableError(f"does not run: {last.strip()} (see {self._log})")
        answer: dict[str, Any] = json.loads(line)
        return answer


class RestartedSide:
    """A side that is started for each turn and ended behind it, where memory is short.

    Attributes:
        name: of the side.
        description: what it said about itself.
    """

    def __init__(self, name: str, start: Callable[[], SideProcess], warmup: int) -> None:
        """Starts it once, to hear what it is.

        Args:
            name: of the side.
            start: starts its process.
            warmup: updates before each turn.
        """
        self.name = name
        self._start = start
        self._warmup = warmup
        side = start()
        self.description = side.description
        side.close()

    def turn(self, number: int) -> dict[str, Any]:
        """Returns what so many updates took; `first_loss` is that of the warm-up before them."""
        side = self._start()
        try:
            first_loss = side.turn(self._warmup)["loss"]
            return side.turn(number) | {"first_loss": first_loss}
        finally:
            side.close()

    def cpu_seconds(self) -> float:
        """Returns nothing: between turns there is no process."""
        return 0.0

    def close(self) -> None:
        """Has nothing to end."""


Side = SideProcess | RestartedSide


def available_bytes() -> float:
    """Returns the memory that is free for programs (no limit where /proc is not there)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    line = next(line for line in lines if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def environment(threads: int, allocator: str) -> dict[str, str]:
    """Returns the environment variables of every side.

    Nothing that the user has set may favour one side: threads are the same for all, waiting threads
    sleep soon, as is OpenMP's default, and the allocator is as the job says.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "KMP_", "GOMP_", "MKL_", "MALLOC_"))
        and name not in {"GLIBC_TUNABLES", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "PYTHONHOME"}
    }
    paths = [str(ROOT), str(ROOT / "scripts")]
    kept |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
    # Nothing is fetched from model hubs here.
    kept |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if allocator == "tuned":
        kept["THP_MEM_ALLOC_ENABLE"] = "1"
    return kept


def in_turn(sides: Sequence[Side], number: int) -> tuple[dict[str, dict[str, Any]], float]:
    """Lets each side work once, one after the other.

    Returns:
        The answers by name, and the share of a core that the waiting sides used meanwhile.
    """
    found, waiting, total = {}, 0.0, 0.0
    for side in sides:
        others = [other for other in sides if other is not side]
        before = sum(other.cpu_seconds() for other in others)
        found[side.name] = side.turn(number)
        waiting += sum(other.cpu_seconds() for other in others) - before
        total += found[side.name]["seconds"]
    return found, waiting / total
