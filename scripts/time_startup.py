"""Times the start of `nmt`: --help, and one line through `nmt translate`, against importing torch.

    python scripts/time_startup.py --model runs/demo

The three commands run in turn; medians and the range over all rounds are printed, in seconds.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 9


def seconds(command: list[str], text: str = "") -> float:
    began = time.perf_counter()
    subprocess.run(command, input=text.encode(), capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="runs/demo")
    parser.add_argument("--line", default="The train leaves at half past seven.")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    nmt = str(Path(sys.executable).with_name("nmt"))
    commands = {
        "nmt --help": ([nmt, "--help"], ""),
        "import torch": ([sys.executable, "-c", "import torch"], ""),
        "nmt translate": ([nmt, "translate", "--model", args.model], f"{args.line}\n"),
    }
    for command, text in commands.values():
        seconds(command, text)  # files into the cache
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, (command, text) in commands.items():
            found[name].append(seconds(command, text))
    for name, times in found.items():
        print(
            f"{name:<14} median {statistics.median(times):.3f} s  "
            f"({min(times):.3f} to {max(times):.3f}, {args.rounds} rounds)"
        )
    pairs = zip(found["nmt translate"], found["import torch"], strict=True)
    print(f"one line costs {statistics.median(a - b for a, b in pairs):.3f} s over importing torch")


if __name__ == "__main__":
    main()
