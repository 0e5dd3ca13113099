"""Compares the training speed of nmt with that of other toolkits, on this machine, in one run.

    python scripts/get_multi30k.py                          # or make_demo_corpus.py
    python scripts/bench_training.py                        # all cores
    taskset -c 0 python scripts/bench_training.py --threads 1 --json bench.json

Measured are real target tokens per second (EOS counts, padding does not), the padding share, peak
resident memory, and the share of this machine's own matrix-product rate that useful operations reach
(scripts/benchmarks/shapes.py has the formula). The peers are Hugging Face transformers' MarianMT in a
plain loop, with torch's fused attention and without, and JoeyNMT, each in a virtual environment that
this script makes under --work.

Each model is a group. The sides of a group are processes that stay alive and work in turn, a few
updates at a time, so that a machine that gets slower does so for all. Only one computes at a time.
Where memory is too short for that, a side is started and warmed up for each turn, and ended behind it.
All sides have the same tokenizer, corpus, batch size, threads and allocator settings. LSTM and
ConvS2S have no peer that installs beside a current torch: they are held against MarianMT of width
128, and what is wanted of them is scaled from figures of fairseq (scripts/benchmarks/results.py).
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import corpus, environments, processes, results, shapes

GEMM_PRODUCTS = 8  # of each size a turn
MARIAN = "MarianMT fp32"
# What a side holds at its peak, with room to spare; several are alive at once.
SIDE_BYTES = {"transformer-512": 5e9}
OTHER_SIDE_BYTES = 3e9
NO_PEER = ("lstm-512", "convs2s-256")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A side of a group before it is started.

    Attributes:
        name: as printed.
        program: nmt, marian or joeynmt.
        precision: what it is asked for.
        shape: of its model.
        attention: of MarianMT: torch's fused kernel or plain products.
        ranks: processes that share the threads and each batch.
    """

    name: str
    program: str
    precision: str
    shape: str
    attention: str = ""
    ranks: int = 1


def entries(shape: str, threads: int, wanted: Sequence[str] = ()) -> list[Entry]:
    """Returns the sides of a group, nmt first; with `wanted` those whose names begin like that."""
    found = _all_entries(shape, threads)
    return [entry for entry in found if not wanted or entry.name.startswith(tuple(wanted))]


def _all_entries(shape: str, threads: int) -> list[Entry]:
    found = [Entry(f"nmt {precision}", "nmt", precision, shape) for precision in ("auto", "fp32")]
    if threads > 1 and threads % 2 == 0:
        found.append(Entry("nmt auto, 2 ranks", "nmt", "auto", shape, ranks=2))
    if shape in NO_PEER:
        return [*found, Entry(MARIAN, "marian", "fp32", "transformer-128", "sdpa")]
    return [
        *found,
        Entry(MARIAN, "marian", "fp32", shape, "sdpa"),
        Entry("MarianMT bf16", "marian", "bf16", shape, "sdpa"),
        Entry("MarianMT fp32 eager", "marian", "fp32", shape, "eager"),
        Entry("MarianMT bf16 eager", "marian", "bf16", shape, "eager"),
        Entry("JoeyNMT fp32", "joeynmt", "fp32", shape),
    ]


def is_memory_short(shape: str, sides: Sequence[Entry]) -> bool:
    """Returns whether the sides of a group should rather not be alive at the same time."""
    processes_alive = sum(entry.ranks for entry in sides)
    wanted = processes_alive * SIDE_BYTES.get(shape, OTHER_SIDE_BYTES)
    return processes.available_bytes() < wanted


class Benchmark:
    """A whole run: what is shared, and the groups one after the other."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._work = args.work
        self._work.mkdir(parents=True, exist_ok=True)
        self.unavailable: dict[str, str] = {}
        self._pythons = {"nmt": Path(sys.executable), "gemm": Path(sys.executable)}
        for program, requirements in environments.REQUIREMENTS.items():
            try:
                self._pythons[program] = environments.make(
                    self._work / f"venv-{program}", requirements
                )
            except environments.UnavailableError as error:
                self.unavailable[program] = str(error)
        self.data = corpus.prepare(self._work)

    def group(self, shape: str, allocator: str) -> dict[str, Any]:
        """Measures the sides of one model and returns all figures."""
        sides: list[processes.Side] = []
        planned: dict[str, Entry] = {}
        try:
            sides.append(self._start(Entry("gemm", "gemm", "", shape), allocator))
            chosen = entries(shape, self._args.threads, self._args.sides)
            restarts = self._args.restart or is_memory_short(shape, chosen)
            for entry in chosen:
                if entry.program in self.unavailable:
                    continue
                print(f"{shape}: starting {entry.name}", file=sys.stderr)
                try:
                    sides.append(self._start(entry, allocator, restarts=restarts))
                    planned[entry.name] = entry
                except environments.UnavailableError as error:
                    if entry.program == "nmt":
                        raise
                    self.unavailable[entry.program] = str(error)
            rounds, idle = self._rounds(shape, sides)
        finally:
            for side in sides:
                side.close()
        said = {
            name: side.description | {"shape": planned[name].shape}
            for name, side in ((side.name, side) for side in sides[1:])
        }
        return self._figures(shape, rounds, planned, said) | {
            "shape": shape,
            "allocator": allocator,
            "restarts": restarts,
            "waiting_share": max(idle),
            "processor_share": results.processor_share(rounds, list(said), self._args.threads),
            "rounds": rounds,
            "descriptions": said,
        }

    def _start(self, entry: Entry, allocator: str, *, restarts: bool = False) -> processes.Side:
        job = {
            "program": entry.program,
            "precision": entry.precision,
            "shape": entry.shape,
            "attention": entry.attention,
            "ranks": entry.ranks,
            "allocator": allocator,
            "threads": self._args.threads,
            "config": str(self.data.configs[entry.shape].absolute()),
            "tokenizer": str(self.data.tokenizer.absolute()),
            "corpus": str(self.data.ids.absolute()),
            "batch_tokens": corpus.BATCH_TOKENS,
            "learning_rate": corpus.LEARNING_RATE,
        }
        log = self._work / f"{entry.name.replace(' ', '-')}.log"
        python = self._pythons[entry.program]

        def start() -> processes.SideProcess:
            return processes.SideProcess(entry.name, python, job, log)

        return (
            processes.RestartedSide(entry.name, start, self._args.warmup) if restarts else start()
        )

    def _rounds(
        self, shape: str, sides: Sequence[processes.Side]
    ) -> tuple[list[dict[str, Any]], list[float]]:
        gemm, *trained = sides
        for side in trained:
            if isinstance(side, processes.SideProcess):
                side.turn(self._args.warmup)
        found, idle = [], []
        for index in range(self._args.rounds):
            print(f"{shape}: round {index + 1} of {self._args.rounds}", file=sys.stderr)
            rates = gemm.turn(GEMM_PRODUCTS)
            # Whoever comes first after the product comes last in the next round.
            turned = [*trained[index % len(trained) :], *trained[: index % len(trained)]]
            answers, waiting = processes.in_turn(turned, self._args.updates)
            found.append({"gemm": rates, **answers})
            idle.append(waiting)
        return found, idle

    def _figures(
        self,
        shape: str,
        rounds: Sequence[dict[str, Any]],
        planned: dict[str, Entry],
        said: dict[str, dict[str, Any]],
    ) -> dict[str, Any]:
        peers = [name for name, entry in planned.items() if entry.program != "nmt"]
        reference = results.fastest_peer(rounds, peers)
        rows = []
        for name, entry in planned.items():
            alike = [peer for peer in peers if said[peer]["precision"] == said[name]["precision"]]
            row = results.side_figures(
                rounds,
                name,
                said[name],
                operations=shapes.operations_per_token(
                    shapes.SHAPES[entry.shape], self.data.sums, self.data.vocab_size
                ),
                reference=reference,
                alike=results.fastest_peer(rounds, alike),
            )
            wanted = None
            if entry.program == "nmt":
                wanted = results.wanted_ratio(
                    shape, entry.precision, is_against_marian=shape in NO_PEER
                )
            rows.append(row | {"wanted": wanted})
        problems = results.problems(said, rows, batch_tokens=corpus.BATCH_TOKENS)
        return {"fastest_peer": reference, "rows": rows, "problems": problems}


def show(group: dict[str, Any]) -> None:
    rates = {
        precision: results.machine_rate(group["rounds"], precision)
        for precision in ("fp32", "bf16")
    }
    print(f"\n{group['shape']}, allocator {group['allocator']}\n")
    print(results.table(group["rows"]))
    print(
        f"\nratios are to {group['fastest_peer']}, round by round; this machine multiplies matrices "
        f"at {rates['fp32']:.0f} GFLOP/s in fp32, {rates['bf16']:.0f} in bf16; waiting sides used "
        f"at most {group['waiting_share']:.1%} of a core; the working side had "
        f"{group['processor_share']:.0%} of its cores or more"
    )
    for problem in group["problems"]:
        print(f"NOT COMPARABLE: {problem}")


def versions(groups: Iterable[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """Returns the packages of each side."""
    return {
        name: said["versions"] for group in groups for name, said in group["descriptions"].items()
    }


def processor() -> str:
    """Returns the name of the processor, as far as it is told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cores() -> int:
    """Returns the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=shapes.SHAPES, default=[*shapes.SHAPES])
    parser.add_argument("--sides", nargs="+", default=[], help="names or beginnings (default all)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side (default 5)")
    parser.add_argument("--updates", type=int, default=4, help="updates a turn (default 4)")
    parser.add_argument("--warmup", type=int, default=2, help="updates before that (default 2)")
    parser.add_argument("--threads", type=int, default=cores(), help="of each side (default all)")
    parser.add_argument(
        "--allocator",
        choices=("tuned", "default", "both"),
        default="tuned",
        help="memory allocator of all sides: as nmt sets it, as it comes, or one after the other",
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start each side anew for each turn (done anyway where memory is short)",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder to work in")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args(words)
    for shape in args.models:
        if not entries(shape, args.threads, args.sides):
            parser.error(f"--sides: no side of {shape} begins so (given: {', '.join(args.sides)})")
    for name in ("rounds", "updates", "warmup", "threads"):
        if getattr(args, name) < 1:
            parser.error(f"--{name}: has to be at least 1 (given: {getattr(args, name)})")
    return args


def main() -> int:
    args = parse()
    try:
        benchmark = Benchmark(args)
    except corpus.MissingError as error:
        print(f"bench_training: {error}", file=sys.stderr)
        return 1
    data = benchmark.data
    print(
        f"{processor()}, {args.threads} threads; {data.name}, {data.sums.pairs:,} pairs, "
        f"{data.vocab_size:,} pieces, batches of {corpus.BATCH_TOKENS:,} target tokens; "
        f"{args.rounds} rounds of {args.updates} updates"
    )
    groups: list[dict[str, Any]] = []
    for allocator in ("tuned", "default") if args.allocator == "both" else (args.allocator,):
        for shape in args.models:
            try:
                groups.append(benchmark.group(shape, allocator))
            except environments.UnavailableError as error:
                print(f"bench_training: {shape}: {error}", file=sys.stderr)
                return 1
            show(groups[-1])
    for program, reason in benchmark.unavailable.items():
        print(f"{program}: {reason}")
    for name, packages in versions(groups).items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in packages.items())}")
    if args.json:
        facts = {"processor": processor(), "threads": args.threads, "corpus": data.name}
        report = {
            **facts,
            "versions": versions(groups),
            "unavailable": benchmark.unavailable,
            "groups": groups,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if any(group["problems"] for group in groups) else 0


if __name__ == "__main__":
    sys.exit(main())
