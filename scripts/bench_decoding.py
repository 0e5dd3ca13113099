"""Compares the decoding speed of nmt with that of other engines, on this machine, in one run.

    python scripts/get_multi30k.py
    nmt train configs/multi30k-transformer.yaml
    python scripts/bench_decoding.py --model runs/multi30k-transformer --json bench.json
    taskset -c 0 python scripts/bench_decoding.py --model runs/multi30k-transformer --threads 1

Measured are output tokens (EOS counts) and sentences per second, peak resident memory, and BLEU: of nmt
in every precision that `nmt translate` offers, of CTranslate2 on the same weights in float32 and int8,
of Hugging Face MarianMT, on the same weights where it computes such a model, and of JoeyNMT of the same
shape; greedy and with beam 5; with batches of 1, 64, and what is best for each side among --candidates.

A group is one beam and one batch size. Its sides are processes of their own, which work in turn, one at
a time, each once a round over the same lines; ratios are taken within a round. The slow peers translate
a part of the lines at equal distances (--peer-lines), as all sides do one by one (--lines-alone).
Threads and allocator settings are the same for all, but that the slow peers also run as they come. What
differs otherwise is printed at the end.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_training import cores, processor
from benchmarks import decoding, environments, marian_weights, processes

from nmt import errors
from nmt.checkpoint import folder
from nmt.cli import parser as nmt_parser
from nmt.config import loading as config_loading
from nmt.data import readers
from nmt.evaluation import metrics
from nmt.inference import loading
from nmt.runtime import files

BEST = "best"
FIRST_BATCH = 64  # of the runs that only warm up or tell lengths
LOOKS = 3  # at each size of batch, before one is chosen
CHECK_LINES = 100  # that both engines translate when the model is exported


def precisions() -> list[str]:
    """Returns what `nmt translate --precision` offers."""
    verb = nmt_parser.build()[1]["translate"]
    (option,) = (action for action in verb._actions if "--precision" in action.option_strings)
    return str(option.metavar).split("|")


class Benchmark:
    """A whole run on one model."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        args.work.mkdir(parents=True, exist_ok=True)
        self.unavailable: dict[str, str] = {}
        text = folder.read_config(args.model)
        self._config = config_loading.parse(text, str(args.model / folder.CONFIG))
        self._texts = loading.load_texts(args.model)
        self.lines, self._references = self._corpus()
        self._lengths: dict[int, list[int]] = {}
        self.entries = [
            entry
            for entry in decoding.entries(precisions(), args.also)
            if not args.sides or any(entry.name.startswith(name) for name in args.sides)
        ]
        names = [entry.name for entry in self.entries if entry.is_reference]
        self._reference = names[0] if names else None
        self._pythons = {"nmt_decoding": Path(sys.executable)}
        self._exports: dict[str, Path] = {}
        self._marian_weights: Path | None = None
        self.without_weights: dict[str, str] = {}
        self._prepare()

    def _corpus(self) -> tuple[list[str], list[str]]:
        """Returns the lines to translate and their references."""
        args = self._args
        if args.src is not None:
            lines, references = list(files.read_lines(args.src)), list(files.read_lines(args.ref))
            if len(lines) != len(references):
                raise errors.DataError(f"{args.ref}: {len(references)} lines for {len(lines)}.")
        elif len(self._config.data.test_corpora) != 1:
            raise errors.UsageError(
                f"{args.model}: names no data.test, or several. Give --src and --ref."
            )
        else:
            pairs = list(readers.read_pairs(self._config.data.test_corpora[0]))
            lines, references = [src for src, _ in pairs], [tgt for _, tgt in pairs]
        kept = decoding.spaced(len(lines), args.lines or len(lines))
        return [lines[index] for index in kept], [references[index] for index in kept]

    def _prepare(self) -> None:
        """Exports the model and makes the environments, for the sides that are wanted."""
        wanted = {entry.program for entry in self.entries}
        if "ctranslate2_decoding" in wanted:
            for entry in self.entries:
                if entry.quantization:
                    self._export(entry.quantization)
        for peer, requirements in environments.REQUIREMENTS.items():
            program = f"{peer}_decoding"
            if program not in wanted:
                continue
            try:
                self._check_shape()
                self._pythons[program] = environments.make(
                    self._args.venvs / f"venv-{peer}", requirements
                )
            except environments.UnavailableError as error:
                self.unavailable[program] = str(error)
        if "marian_decoding" in wanted - self.unavailable.keys():
            self._convert_for_marian()

    def _convert_for_marian(self) -> None:
        path = self._args.work / "marian.safetensors"
        loaded = loading.load(self._args.model, device="cpu", precision="fp32")
        try:
            marian_weights.write(path, loaded.model, self._config.model)
        except environments.UnavailableError as error:
            self.without_weights["marian_decoding"] = str(error)
            return
        self._marian_weights = path

    def _has_weights(self, entry: decoding.Entry) -> bool:
        """Whether a side computes with the weights of the model."""
        if entry.program == "marian_decoding":
            return self._marian_weights is not None
        return entry.is_fast

    def _export(self, quantization: str) -> None:
        from nmt.interop import ctranslate2_export

        path = self._args.work / f"ctranslate2-{quantization}"
        shutil.rmtree(path, ignore_errors=True)
        lines = [self.lines[i] for i in decoding.spaced(len(self.lines), CHECK_LINES)]
        try:
            ctranslate2_export.export(self._args.model, path, quantization, lines)
        except errors.UsageError as error:
            self.unavailable["ctranslate2_decoding"] = str(error)
            return
        self._pythons["ctranslate2_decoding"] = Path(sys.executable)
        self._exports[quantization] = path

    def _check_shape(self) -> None:
        """Finds out whether the peers have models of this shape."""
        model = self._config.model
        kinds = {model.encoder.type, model.decoder.type}
        if kinds != {"transformer"}:
            raise environments.UnavailableError("the model is no Transformer")
        if model.encoder.hidden_size != model.decoder.hidden_size:
            raise environments.UnavailableError("encoder and decoder have different widths")

    def _data(self, beam_size: int, chosen: Sequence[int]) -> Path:
        """Writes what the sides of a group read: lines, ids, and how long outputs are."""
        ids, pieces = self._texts.tgt.vocab, len(self._texts.src.vocab)
        lines = [self.lines[index] for index in chosen]
        encoded = self._texts.src.encode_batch(lines)
        lengths = self._lengths.get(beam_size)
        forced = [lengths[index] for index in chosen] if lengths else [0] * len(lines)
        real = [index for index, line in enumerate(lines) if line.strip()]
        content = {
            "lines": lines,
            "sources": [encoded[index] for index in real],
            "lengths": [forced[index] for index in real],
            "specials": {name: getattr(ids, f"{name}_id") for name in ("unk", "bos", "eos", "pad")},
            "vocab_size": max(pieces, len(ids)),
        }
        path = self._args.work / f"decoding-{beam_size}-{len(chosen)}.json"
        path.write_text(json.dumps(content), encoding="ascii")
        return path

    def _start(self, entry: decoding.Entry, beam_size: int, data: Path) -> processes.SideProcess:
        job = {
            "program": entry.program,
            "allocator": entry.allocator,
            "threads": self._args.threads,
            "model": str(self._args.model.absolute()),
            "export": str(self._exports.get(entry.quantization, Path()).absolute()),
            "weights": str(self._marian_weights.absolute()) if self._marian_weights else "",
            "stops_early": entry.stops_early,
            "max_length": self._config.decoding.max_length,
            "flags": entry.flags,
            "beam_size": beam_size,
            "batch_size": FIRST_BATCH,
            "data": str(data.absolute()),
            "encoder": _shape(self._config.model.encoder),
            "decoder": _shape(self._config.model.decoder),
        }
        log = self._args.work / f"{re.sub('[ /]', '-', entry.name)}.log"
        return processes.SideProcess(entry.name, self._pythons[entry.program], job, log)

    def measure_lengths(self, beam_size: int) -> None:
        """Lets nmt translate once, so that the peers know how long outputs are."""
        if all(self._has_weights(entry) for entry in self.entries):
            return
        entry = decoding.Entry("nmt lengths", "nmt_decoding", decoding.REFERENCE_FLAGS)
        side = self._start(entry, beam_size, self._data(beam_size, range(len(self.lines))))
        try:
            self._lengths[beam_size] = side.turn(FIRST_BATCH)["lengths"]
        finally:
            side.close()

    def _chosen(self, entry: decoding.Entry, batch: str) -> list[int]:
        """Returns the lines that a side translates."""
        count = len(self.lines)
        if batch == "1":
            count = min(count, self._args.lines_alone)
        if not entry.is_fast:
            count = min(count, self._args.peer_lines)
        return decoding.spaced(len(self.lines), count)

    def _best_batch(self, entry: decoding.Entry, beam_size: int, data: Path) -> int:
        """Returns the batch size with which a side is fastest."""
        if len(self._args.candidates) == 1:
            return self._args.candidates[0]
        side = self._start(entry, beam_size, data)
        try:
            side.turn(FIRST_BATCH)
            # The machine's speed changes meanwhile: one look at each would choose at random.
            turns = [size for _ in range(LOOKS) for size in self._args.candidates]
            seconds = [(side.turn(size)["seconds"], size) for size in turns]
        finally:
            side.close()
        return min(seconds)[1]

    def group(self, beam_size: int, batch: str) -> dict[str, Any]:
        """Measures all sides with one beam and one batch size."""
        sides: list[processes.SideProcess] = []
        sizes: dict[str, int] = {}
        chosen: dict[str, list[int]] = {}
        try:
            for entry in self.entries:
                if entry.program in self.unavailable or entry.name in self.unavailable:
                    continue
                print(f"beam {beam_size}, batch {batch}: {entry.name}", file=sys.stderr)
                chosen[entry.name] = self._chosen(entry, batch)
                data = self._data(beam_size, chosen[entry.name])
                try:
                    size = int(batch) if batch != BEST else self._best_batch(entry, beam_size, data)
                    side = self._start(entry, beam_size, data)
                    sides.append(side)
                    side.turn(size)  # warms up
                    sizes[entry.name] = size
                except environments.UnavailableError as error:
                    self.unavailable[entry.name] = str(error)
            sides = [side for side in sides if side.name in sizes]
            rounds = self._rounds(sides, sizes, chosen)
        finally:
            for side in sides:
                side.close()
        rows = self._rows(rounds, sizes, chosen)
        return {
            "beam_size": beam_size,
            "batch": batch,
            "rows": rows,
            "problems": decoding.problems(rows, self._reference),
            "unchecked": decoding.unchecked(rows, self._reference),
            "versions": {side.name: side.description["versions"] for side in sides},
            "rounds": rounds,
        }

    def _rounds(
        self,
        sides: Sequence[processes.SideProcess],
        sizes: dict[str, int],
        chosen: dict[str, list[int]],
    ) -> list[dict[str, Any]]:
        rounds = []
        for index in range(self._args.rounds):
            print(f"round {index + 1} of {self._args.rounds}", file=sys.stderr)
            # Whoever comes first comes last in the next round.
            turned = [*sides[index % len(sides) :], *sides[: index % len(sides)]]
            answers = {side.name: side.turn(sizes[side.name]) for side in turned}
            for name, answer in answers.items():
                answer["sentences"] = sum(1 for i in chosen[name] if self.lines[i].strip())
                if "lengths" in answer:
                    answer["tokens"] = sum(answer.pop("lengths"))
            rounds.append(answers)
        return rounds

    def _rows(
        self,
        rounds: Sequence[dict[str, Any]],
        sizes: dict[str, int],
        chosen: dict[str, list[int]],
    ) -> list[dict[str, Any]]:
        reference = decoding.YARDSTICK if decoding.YARDSTICK in sizes else None
        rows = []
        for name, size in sizes.items():
            row = decoding.side_figures(rounds, name, batch=size, reference=reference)
            texts = [self._texts_of(answers[name], chosen[name]) for answers in rounds][-1]
            # A score of a part of the lines would be read as one of the whole.
            if texts is not None and len(chosen[name]) == len(self.lines):
                row["bleu"] = metrics.score(
                    "bleu", texts, [self._references], metrics.MetricSettings()
                ).value
            rows.append(row)
        return rows

    def _texts_of(self, answer: dict[str, Any], chosen: Sequence[int]) -> list[str] | None:
        """Takes the translations out of an answer; pieces of those that gave ids are joined here."""
        if "ids" not in answer:
            return answer.pop("texts", None)
        found = iter(answer.pop("ids"))
        return [
            self._texts.tgt.decode(next(found)) if self.lines[index].strip() else ""
            for index in chosen
        ]


def _shape(options: Any) -> dict[str, int]:
    """Returns what the peers build their models from."""
    names = ("num_layers", "hidden_size", "num_heads", "feedforward_size")
    return {name: getattr(options, name) for name in names if hasattr(options, name)}


def show(group: dict[str, Any]) -> None:
    print(f"\nbeam {group['beam_size']}, batch {group['batch']}\n")
    print(decoding.table(group["rows"]))
    for problem in group["problems"]:
        print(f"NOT COMPARABLE: {problem}")
    for reason in group["unchecked"]:
        print(f"NOT CHECKED: {reason}")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a trained model")
    parser.add_argument("--src", type=Path, help="lines (default: data.test of the model)")
    parser.add_argument("--ref", type=Path, help="references of --src")
    parser.add_argument("--lines", type=int, help="of them (default all)")
    parser.add_argument("--lines-alone", type=int, default=100, help="with batch 1 (default 100)")
    parser.add_argument("--peer-lines", type=int, default=200, help="of the peers (default 200)")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5], help="default 1 5")
    parser.add_argument(
        "--batch-sizes", nargs="+", default=["1", "64", BEST], help=f"default 1 64 {BEST}"
    )
    parser.add_argument(
        "--candidates", nargs="+", type=int, default=[16, 32, 64, 128, 256], help=f"for {BEST}"
    )
    parser.add_argument("--sides", nargs="+", default=[], help="names or beginnings (default all)")
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="FLAGS",
        help="another side of nmt with these flags of `nmt translate`, such as --model of a student; "
        "repeatable",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side (default 3)")
    parser.add_argument("--threads", type=int, default=cores(), help="of each side (default all)")
    parser.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder to work in")
    parser.add_argument("--venvs", type=Path, help="the peers' environments (default: --work)")
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args(words)
    args.venvs = args.venvs or args.work
    counts = [("rounds", args.rounds), ("threads", args.threads), ("peer-lines", args.peer_lines)]
    counts += [("lines-alone", args.lines_alone), ("lines", args.lines or 1)]
    counts += [("beams", beam) for beam in args.beams]
    counts += [("candidates", size) for size in args.candidates]
    for name, number in counts:
        if number < 1:
            parser.error(f"--{name}: has to be at least 1 (given: {number})")
    for size in args.batch_sizes:
        if size != BEST and not (size.isdecimal() and int(size) > 0):
            parser.error(f"--batch-sizes: wants numbers from 1 up, or {BEST} (given: {size})")
    if (args.src is None) != (args.ref is None):
        parser.error("--src and --ref: give both, or neither")
    return args


def main() -> int:
    args = parse()
    try:
        benchmark = Benchmark(args)
    except errors.NMTError as error:
        print(f"bench_decoding: {error}", file=sys.stderr)
        return 1
    print(
        f"{processor()}, {args.threads} threads; {args.model}, {len(benchmark.lines):,} lines; "
        f"{args.rounds} rounds"
    )
    groups: list[dict[str, Any]] = []
    try:
        for beam_size in args.beams:
            benchmark.measure_lengths(beam_size)
            for batch in args.batch_sizes:
                groups.append(benchmark.group(beam_size, batch))
                show(groups[-1])
    except environments.UnavailableError as error:
        print(f"bench_decoding: nmt {error}", file=sys.stderr)
        return 1
    print(f"\nratios are to {decoding.YARDSTICK}, round by round. What differs:")
    for difference in decoding.DIFFERENCES:
        print(f"- {difference}")
    for name, reason in benchmark.unavailable.items():
        print(f"{name}: {reason}")
    for name, reason in benchmark.without_weights.items():
        print(f"{name}: random weights and forced lengths, since {reason}")
    for name, packages in {k: v for group in groups for k, v in group["versions"].items()}.items():
        print(f"{name}: {', '.join(f'{key} {value}' for key, value in packages.items())}")
    if args.json:
        report = {
            "processor": processor(),
            "threads": args.threads,
            "model": str(args.model),
            "lines": len(benchmark.lines),
            "unavailable": benchmark.unavailable,
            "without_weights": benchmark.without_weights,
            "differences": decoding.DIFFERENCES,
            "groups": groups,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 1 if any(group["problems"] for group in groups) else 0


if __name__ == "__main__":
    sys.exit(main())
