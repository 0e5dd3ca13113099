"""Measures memory and time to the first update for corpora of growing size.

    python scripts/bench_data.py                           # 10 thousand, 1 million, 10 million pairs
    python scripts/bench_data.py --pairs 10000 --updates 5

Each corpus is made up from a word list, with lengths like those of captions and news, in a temporary
folder. A tokenizer is trained on the smallest one beforehand; then `nmt train` runs a tiny model for
so many updates, twice: first while its corpus is tokenised beside it, then, with the cache filled, as
a weighted corpus, whose windows are the largest from the beginning. Meanwhile the anonymous and
resident memory of all its processes is added up several times a second. Between the two, the corpus
is tokenised alone, which gives pairs per second. Ten million pairs take 3 GB of disk.
"""

import argparse
import dataclasses
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nmt.data import cache, filler, filters
from nmt.runtime import files

CONFIG = """
run_dir: {work}/run-{pairs}
data:
  src_lang: aa
  tgt_lang: bb
  cache_dir: {work}/cache
  train: [{{src: {work}/{pairs}.src, tgt: {work}/{pairs}.tgt}}]
  valid: {{src: {work}/valid.src, tgt: {work}/valid.tgt}}
tokenizer: {tokenizer}
model:
  encoder: {{type: transformer, num_layers: 1, hidden_size: 32, feedforward_size: 64}}
  decoder: {{type: transformer, num_layers: 1, hidden_size: 32, feedforward_size: 64}}
training:
  max_updates: {updates}
  validation_interval: 1000000
  checkpoint_interval: 1000000
  logging_interval: 1
"""
SIDES = ("src", "tgt")
NUM_WORDS, ROW_PAIRS, DIFFERENT_PAIRS, BASE_PAIRS = 30_000, 10_000, 200_000, 10_000
FIRST_UPDATE = '"event": "train", "update": 1,'


@dataclasses.dataclass
class Measured:
    """One run: seconds to its first update, and the largest sums over its processes, in MiB."""

    pairs: int
    cache: str
    first_update: float = 0.0
    anonymous: int = 0
    resident: int = 0


def write_corpus(work: Path, name: str, num_pairs: int, seed: int) -> None:
    """Writes random sentences, log-normal in length and about as long on both sides.

    Past the first `DIFFERENT_PAIRS` they repeat, which saves time here and none to `nmt`.
    """
    rng = random.Random(seed)
    letters = "aaabcdeeeefghiiijklmnnooprrssttuuvw"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 10))) for _ in range(NUM_WORDS)]
    weights = [1.0 / (rank + 3) for rank in range(NUM_WORDS)]
    sides: tuple[list[str], list[str]] = ([], [])
    while len(sides[0]) < min(num_pairs, DIFFERENT_PAIRS):
        # A long row of words, of which every sentence takes a stretch: fast, and natural enough.
        if len(sides[0]) % ROW_PAIRS == 0:
            row = rng.choices(words, weights, k=4 * ROW_PAIRS)
        length = min(max(round(rng.lognormvariate(2.4, 0.45)), 2), 60)
        other = max(round(length * rng.uniform(0.8, 1.25)), 1)
        place = rng.randrange(len(row) - 120)
        sides[0].append(" ".join(row[place : place + length]) + "\n")
        sides[1].append(" ".join(row[place + 60 : place + 60 + other]) + "\n")
    for side, lines in zip(SIDES, sides, strict=True):
        with (work / f"{name}.{side}").open("w") as stream:
            for begin in range(0, num_pairs, DIFFERENT_PAIRS):
                stream.writelines(lines[: num_pairs - begin])


def write_config(work: Path, pairs: int, updates: int, tokenizer: str) -> Path:
    path = work / f"{pairs}.yaml"
    path.write_text(CONFIG.format(work=work, pairs=pairs, updates=updates, tokenizer=tokenizer))
    return path


def descendants(root: int) -> list[int]:
    """Returns a process and all that it has started."""
    found, waiting = [], [root]
    while waiting:
        number = waiting.pop()
        found.append(number)
        for tasks in Path(f"/proc/{number}/task").glob("*/children"):
            try:
                waiting += map(int, tasks.read_text().split())
            except OSError:
                continue
    return found


def memory_of(root: int) -> tuple[int, int]:
    """Returns anonymous and resident bytes of a process and its descendants."""
    anonymous = resident = 0
    for number in descendants(root):
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, rest = line.partition(":")
            if key == "Anonymous":
                anonymous += 1024 * int(rest.split()[0])
            elif key == "Rss":
                resident += 1024 * int(rest.split()[0])
    return anonymous, resident


def nmt(config: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "nmt.cli.main", "train", str(config), "--threads", "1", *more]


def measure(found: Measured, command: list[str], metrics: Path) -> Measured:
    """Runs a command to its end and fills in what it took."""
    began = time.monotonic()
    process = subprocess.Popen(command)
    while process.poll() is None:
        anonymous, resident = memory_of(process.pid)
        found.anonymous = max(found.anonymous, anonymous >> 20)
        found.resident = max(found.resident, resident >> 20)
        if not found.first_update and metrics.exists() and FIRST_UPDATE in metrics.read_text():
            found.first_update = round(time.monotonic() - began, 1)
        time.sleep(0.1)
    if process.returncode:
        raise RuntimeError(f"nmt train failed with status {process.returncode}")
    return found


def tokenise(cache_dir: Path, run_dir: Path, paths: list[Path], pairs: int) -> float:
    """Fills the cache that a run has begun anew; returns pairs per second."""
    [folder] = cache_dir.iterdir()
    files.remove_tree(folder)
    entry = filler.Entry(src=str(paths[0]), tgt=str(paths[1]))
    limits = filters.PairFilter(256, 256, 9.0)
    layout = cache.Layout("uint16", has_text=False)
    began = time.monotonic()
    filler.fill(filler.Work(folder, (entry,), run_dir / "tokenizer", limits, layout))
    return pairs / (time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 1_000_000, 10_000_000])
    parser.add_argument("--updates", type=int, default=100)
    parser.add_argument(
        "--largest-complete",
        type=int,
        default=10_000_000,
        help="corpora with more pairs are measured while they are tokenised, not afterwards",
    )
    parser.add_argument("--temporary", type=Path, help="where the corpora go for the time")
    args = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="bench-data-", dir=args.temporary))
    try:
        write_corpus(work, "valid", 100, seed=2)
        write_corpus(work, str(BASE_PAIRS), BASE_PAIRS, seed=1)
        config = write_config(work, BASE_PAIRS, 1, "{type: bpe, vocab_size: 8000}")
        subprocess.run(nmt(config, "--quiet", "--set", f"run_dir={work}/ready"), check=True)
        ready = f"{{model: {work}/ready/tokenizer/spm.model}}"
        for pairs in args.pairs:
            if pairs != BASE_PAIRS:
                write_corpus(work, str(pairs), pairs, seed=1)
            config = write_config(work, pairs, args.updates, ready)
            run_dir, paths = work / f"run-{pairs}", [work / f"{pairs}.{side}" for side in SIDES]
            shutil.rmtree(work / "cache", ignore_errors=True)
            metrics = run_dir / "metrics.jsonl"
            new = measure(Measured(pairs, "new"), nmt(config, "--quiet"), metrics)
            print(dataclasses.asdict(new), flush=True)
            if pairs <= args.largest_complete:
                speed = tokenise(work / "cache", run_dir, paths, pairs)
                print(f"{pairs}: {speed:,.0f} pairs/s tokenised alone", flush=True)
                shutil.rmtree(run_dir)
                weighted = f"data.train=[{{src: {paths[0]}, tgt: {paths[1]}, weight: 1}}]"
                command = nmt(config, "--quiet", "--set", weighted)
                full = measure(Measured(pairs, "complete, largest windows"), command, metrics)
                print(dataclasses.asdict(full), flush=True)
            shutil.rmtree(run_dir)
            for path in paths:
                path.unlink()
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
