"""The program that runs one side: it waits for orders on stdin and answers on stdout.

    python -m benchmarks.worker '{"program": "marian", ...}'

It says first what it has built, then answers `{"number": N}` with what N updates took. Between orders
it sleeps in a read, so that several sides can be alive and only one computes.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from nmt.runtime import allocator


class Side(Protocol):
    """What takes part in a benchmark."""

    def describe(self) -> dict[str, Any]:
        """Returns what was built: parameters, versions, what proves that the work is equal."""

    def turn(self, number: int) -> dict[str, Any]:
        """Does so many updates; returns tokens, losses, and what other processes of it used, if any."""


def peak_resident_bytes() -> int:
    """Returns the most memory that this process has held (VmHWM; elsewhere than Linux ru_maxrss)."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        # macOS counts bytes here.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    job = json.loads(sys.argv[1])
    # Libraries may print; only answers go to the parent.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if job["allocator"] == "tuned":
        allocator.tune()  # before the side imports torch
    side: Side = importlib.import_module(f"benchmarks.{job['program']}_side").build(job)
    print(json.dumps(side.describe()), file=answers, flush=True)
    for line in sys.stdin:
        number = json.loads(line)["number"]
        began, worked = time.perf_counter(), time.process_time()
        found = side.turn(number)
        found["seconds"] = time.perf_counter() - began
        for name, own in (
            ("processor_seconds", time.process_time() - worked),
            ("peak_bytes", peak_resident_bytes()),
        ):
            found[name] = found.get(name, 0) + own
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
