"""Translates a test set alone, in batches, in other orders and on two processes, and counts differences.

    python scripts/check_company.py --model runs/multi30k-transformer
    python scripts/check_company.py --model runs/multi30k-transformer --precision int8 --shortlist

Prints for each way how many lines differ from being translated alone, and how far apart the model
finds the two translations (log-probability over the length penalty, forced decoding in float64): a
tie is a difference in the order of the rounding. Exit status 1 where more than one line in a
thousand differs.
"""

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from nmt.data import readers
from nmt.inference import loading, scorer, translator

WAYS = {"batches of 7": 7, "batches of 64": 64, "batches by tokens": None}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--shortlist", action="store_true", help="searches in the model's shortlist"
    )
    args = parser.parse_args()
    loaded = loading.load(args.model, precision=args.precision, shortlist=args.shortlist)
    test = loaded.config.data.test_corpora
    assert len(test) == 1, "the model's configuration names one test set"
    sources = [src for src, _ in readers.read_pairs(test[0])]

    def translate(lines: list[str], size: int | None) -> list[str]:
        machine = translator.Translator(
            loaded.model,
            loaded.texts,
            loaded.config.decoding,
            loaded.arithmetic,
            batch_sentences=size,
            shortlist=loaded.shortlist,
        )
        return [found[0].text for found in machine.translate(lines)]

    alone = translate(sources, 1)
    order = list(range(len(sources)))
    random.Random(1).shuffle(order)
    outputs = {name: translate(sources, size) for name, size in WAYS.items()}
    shuffled = translate([sources[index] for index in order], 64)
    places = {index: place for place, index in enumerate(order)}
    outputs["shuffled, batches of 64"] = [shuffled[places[i]] for i in range(len(sources))]

    outputs["two processes"] = on_two_processes(
        sources,
        args.model,
        ["--precision", args.precision, "--shortlist" if args.shortlist else "--no-shortlist"],
    )

    exact = loading.load(args.model, precision="fp64")
    judge = scorer.Scorer(exact.model, exact.texts, exact.config.decoding, exact.arithmetic)
    worst = 0
    for name, lines in outputs.items():
        wrong = [i for i, line in enumerate(lines) if line != alone[i]]
        worst = max(worst, len(wrong))
        gaps = [
            judge.score([sources[i]], [alone[i]])[0].score
            - judge.score([sources[i]], [lines[i]])[0].score
            for i in wrong
        ]
        shown = ", ".join(f"{gap:+.1e}" for gap in gaps)
        print(f"{name}: {len(wrong)} of {len(sources)} lines differ {shown}".rstrip(), flush=True)
    return 1 if worst > len(sources) / 1000 else 0


def on_two_processes(sources: list[str], model: Path, ways: list[str]) -> list[str]:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nmt"]
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "input"), Path(folder, "output")
        given.write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
        files = ["--input", str(given), "--output", str(found)]
        flags = ["--model", str(model), *ways, "--threads", "1", *files]
        subprocess.run([sys.executable, "-m", *launcher, "translate", *flags], check=True)
        return found.read_text(encoding="utf-8").removesuffix("\n").split("\n")


if __name__ == "__main__":
    sys.exit(main())
