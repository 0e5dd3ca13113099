"""Kills a training run with SIGKILL at random moments, resumes it, and compares with one left alone.

    python scripts/kill_resume.py                      # 20 kills of each family: about six minutes
    python scripts/kill_resume.py --families rnn --kills 5 --seed 7
    python scripts/kill_resume.py --families transformer --variant ema muon

A run that was killed and resumed has to end with the same bytes of `model.safetensors`, and the
same numbers in `metrics.jsonl`, as the undisturbed one. Variant `ranks` trains on two processes that
torchrun starts, of which one is killed, or both. The moments are drawn over the whole run:
while it starts, makes the tokenizer, trains, validates, saves and publishes.
Exit status 1 if any run differs. Wants the extra `demo`, for the corpus.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIG = """
run_dir: {run_dir}
data:
  src_lang: en
  tgt_lang: de
  train: [{train}]
  valid: {{src: {data}/valid.en, tgt: {data}/valid.de}}
  {in_data}
tokenizer: {{type: bpe, vocab_size: 500{tokenizer}}}
model:
  encoder: {{type: {family}, num_layers: 1, {sizes}, dropout: 0.2}}
  decoder: {{type: {family}, num_layers: 1, {sizes}, dropout: 0.2}}
training:
  batch_tokens: 1024
  max_updates: {updates}
  warmup_updates: 50
  logging_interval: 10
  validation_interval: 60
  checkpoint_interval: 15
  average_checkpoints: 3
{training}
decoding: {{max_length: 40}}
"""
SIZES = {
    "transformer": "hidden_size: 64, feedforward_size: 128",
    "rnn": "embedding_size: 64, hidden_size: 64",
    "cnn": "embedding_size: 64, hidden_size: 64",
}
# What each variant adds to the section `training`.
VARIANTS = {
    "plain": "",
    "bf16": "precision: bf16",
    "fp32": "precision: fp32",
    "accumulation": "max_device_tokens: 200",
    "ema": "ema_decay: 0.98",
    "adamw": "optimizer: adamw",
    "muon": "optimizer: muon",
    "freeze": 'freeze: ["encoder.*"]',
    "weighted": "",
    "sampling": "",
    "workers": "",
    "ranks": "",
    "muon-ranks": "optimizer: muon",
}
# What some variants add to other sections.
TOKENIZER = {"sampling": ", sampling: both", "workers": ", sampling: both"}
DATA = {"workers": "num_workers: 1"}
CLOCK_FIELDS = ("seconds", "tokens_per_second", "memory_mib")

# The share of the kills that hit the start-up: imports, tokenizer, reading the corpus, resuming.
START_UP_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run left behind."""

    sha256: str
    metrics: list[dict[str, object]]


def make_corpus(folder: Path) -> None:
    script = Path(__file__).with_name("make_demo_corpus.py")
    subprocess.run([sys.executable, script, "--output", folder], check=True)


def start(config: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "nmt", "train", str(config)]
    if has_ranks(config):
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def has_ranks(config: Path) -> bool:
    return "-ranks-" in config.name


def kill(process: subprocess.Popen, victims: list[str] | None = None) -> None:
    """Kills a run: the process, or the ranks of these numbers under it, which end the others."""
    for rank, number in ranks_of(process).items():
        if victims is None or rank in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
    if victims is None:
        process.kill()


def ranks_of(process: subprocess.Popen) -> dict[str, int]:
    """Returns the processes that torchrun has started so far, by their rank (Linux)."""
    found = {}
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process.pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
                found |= {v[5:].decode(): int(child) for v in variables if v.startswith(b"RANK=")}
    return found


def write_config(
    work: Path, family: str, variant: str, name: str, updates: int
) -> tuple[Path, Path]:
    """Returns the configuration of a run and its folder, which is not there yet."""
    run_dir = work / f"{family}-{variant}-{name}"
    shutil.rmtree(run_dir, ignore_errors=True)
    config = run_dir.with_suffix(".yaml")
    data = work / "data"
    sides = [f"src: {data}/{part}.en, tgt: {data}/{part}.de" for part in ("train", "valid")]
    train = f"{{{sides[0]}}}"
    if variant == "weighted":
        train = ", ".join(
            f"{{{side}, weight: {weight}}}" for side, weight in zip(sides, (3, 1), strict=True)
        )
    given = VARIANTS[variant]
    if "max_device_tokens" not in given:
        given += "\n  max_device_tokens: 800"
    text = CONFIG.format(
        run_dir=run_dir,
        data=data,
        train=train,
        family=family,
        sizes=SIZES[family],
        updates=updates,
        in_data=DATA.get(variant, ""),
        tokenizer=TOKENIZER.get(variant, ""),
        training=f"  {given}".replace("\n  \n", "\n"),
    )
    config.write_text(text)
    return config, run_dir


def result_of(run_dir: Path) -> Result:
    data = (run_dir / "model.safetensors").read_bytes()
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        for field in CLOCK_FIELDS:
            line.pop(field, None)
    return Result(hashlib.sha256(data).hexdigest(), lines)


def finish(config: Path) -> float:
    """Runs to the end; returns the seconds it took."""
    began = time.monotonic()
    process = start(config)
    _, messages = process.communicate()
    if process.returncode:
        raise RuntimeError(f"nmt train failed:\n{messages}")
    return time.monotonic() - began


def wait_for_training(process: subprocess.Popen) -> str:
    """Returns what a process said until it began to train, or until its end if it does not."""
    assert process.stderr is not None
    messages = ""
    for line in process.stderr:
        messages += line
        if "training on" in line:
            break
    return messages


def start_up_seconds(config: Path, run_dir: Path) -> float:
    """Returns how long a process needs before its first update, tokenizer included."""
    began = time.monotonic()
    process = start(config)
    wait_for_training(process)
    seconds = time.monotonic() - began
    kill(process)
    process.communicate()
    shutil.rmtree(run_dir)
    return seconds


def kill_often(
    config: Path, kills: int, rng: random.Random, start_up: float, training: float
) -> list[str]:
    """Starts and kills a run; returns what each start found: `-` or the update it went on from.

    Lives are drawn such that the kills together reach over all of the `training` seconds.
    """
    found = []
    for _ in range(kills):
        process = start(config)
        messages = ""
        if rng.random() < START_UP_SHARE:
            time.sleep(rng.uniform(0.0, start_up))
        else:
            messages = wait_for_training(process)
            time.sleep(rng.uniform(0.0, 2.5 * training / kills))
        # Torchrun ends the other rank; before it has started any there is only itself to kill.
        victims = rng.choice([["0"], ["1"], ["0", "1"]]) if ranks_of(process) else None
        kill(process, victims)
        messages += process.communicate()[1]
        match = re.search(r"resumed from update (\d+)", messages)
        if "this run is finished" in messages:
            found.append("finished")
        else:
            found.append(match[1] if match else "-")
    return found


def check(work: Path, family: str, variant: str, args: argparse.Namespace) -> bool:
    rng = random.Random(f"{args.seed} {family} {variant}")
    config, run_dir = write_config(work, family, variant, "alone", args.updates)
    start_up = start_up_seconds(config, run_dir)
    seconds = finish(config)
    expected = result_of(run_dir)
    config, run_dir = write_config(work, family, variant, "killed", args.updates)
    found = kill_often(config, args.kills, rng, start_up, seconds - start_up)
    finish(config)
    killed = result_of(run_dir)
    print(f"{family}, {variant}: undisturbed run {seconds:.1f} s, sha256 {expected.sha256}")
    print(f"  {args.kills} kills; went on from update: {' '.join(found)}")
    print(f"  killed run: sha256 {killed.sha256}")
    same_weights = killed.sha256 == expected.sha256
    same_metrics = killed.metrics == expected.metrics
    print(f"  same weights: {same_weights}, same metrics: {same_metrics}", flush=True)
    return same_weights and same_metrics


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=sorted(SIZES), default=sorted(SIZES))
    parser.add_argument("--variant", nargs="+", choices=list(VARIANTS), default=["plain"])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/kill-resume"))
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    make_corpus(args.work / "data")
    good = [
        check(args.work, family, variant, args)
        for family in args.families
        for variant in args.variant
    ]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
