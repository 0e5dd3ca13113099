"""What constraints and minimum Bayes risk do to a trained model's test set: BLEU, chrF, words met, time.

    python scripts/steer_multi30k.py --model runs/multi30k-speedrun --tokenize none

Constraints are taken from the reference of each line, as in Post and Vilar 2018, section 4: one to four
words of it at random (rand1 to rand4), or one phrase of two to four words (phr2 to phr4). A line whose
reference is shorter than that has none. Minimum Bayes risk chooses among the hypotheses of a beam and
among samples.
"""

import argparse
import dataclasses
import random
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nmt.data import readers
from nmt.evaluation import mbr, metrics
from nmt.inference import loading, translator

SETS = ("none", "rand1", "rand2", "rand3", "rand4", "phr2", "phr3", "phr4")
# Beam, samples and temperature of each choice by minimum Bayes risk; 0 samples: from the beam.
CHOICES = ((5, 0, 1.0), (20, 0, 1.0), (50, 0, 1.0), (1, 32, 0.7), (1, 64, 0.7), (1, 64, 1.0))


def constraints_of(kind: str, reference: str, draw: random.Random) -> tuple[str, ...]:
    words, size = reference.split(), int(kind[-1]) if kind != "none" else 0
    if not size or len(words) < size:
        return ()
    if kind.startswith("phr"):
        begin = draw.randrange(len(words) - size + 1)
        return (" ".join(words[begin : begin + size]),)
    return tuple(words[place] for place in sorted(draw.sample(range(len(words)), size)))


def is_met(translation: str, phrases: Sequence[str]) -> bool:
    """Whether each phrase is there as often as it is wanted, not cut out of longer words."""
    return all(
        len(re.findall(_whole(phrase), translation)) >= phrases.count(phrase) for phrase in phrases
    )


def _whole(phrase: str) -> str:
    before = r"(?<!\w)" if phrase[0].isalnum() else ""
    behind = r"(?!\w)" if phrase[-1].isalnum() else ""
    return before + re.escape(phrase) + behind


class Steering:
    def __init__(self, args: argparse.Namespace) -> None:
        self._loaded = loading.load(args.model, precision=args.precision)
        test = self._loaded.config.data.test_corpora
        assert len(test) == 1, "the model's configuration names one test set"
        pairs = list(readers.read_pairs(test[0]))[: args.lines]
        self._sources, self._references = [s for s, _ in pairs], [t for _, t in pairs]
        self._settings = metrics.MetricSettings(tokenize=args.tokenize)
        self._seed = args.seed

    def constrained(self, kind: str, beam_size: int) -> None:
        machine = self._machine(beam_size=beam_size)
        draw = random.Random(self._seed)
        phrases = [constraints_of(kind, line, draw) for line in self._references]
        asked = [
            dataclasses.replace(machine.default, text=source, constraints=own)
            for source, own in zip(self._sources, phrases, strict=True)
        ]
        began = time.perf_counter()
        answers = machine.answer(asked)
        seconds = time.perf_counter() - began
        texts = ["" if one.error else one.translations[0].text for one in answers]
        wanted = [i for i, own in enumerate(phrases) if own]
        met = sum(is_met(texts[i], phrases[i]) for i in wanted)
        self._print(f"{kind}, beam {beam_size}", texts, seconds, f"{met:,} of {len(wanted):,}")

    def chosen(self, metric: str, beam_size: int, num_samples: int, temperature: float) -> None:
        if num_samples:
            changes = {"sample": True, "temperature": temperature, "seed": self._seed}
            name = f"mbr {metric}, {num_samples} samples at {temperature}"
        else:
            changes, name = {"beam_size": beam_size}, f"mbr {metric}, beam {beam_size}"
        risk = mbr.Settings(metric=metric, num_candidates=num_samples or None)
        machine = self._machine(risk=risk, **changes)
        began = time.perf_counter()
        texts = [found[0].text for found in machine.translate(self._sources)]
        self._print(name, texts, time.perf_counter() - began, "-")

    def _machine(
        self, *, risk: mbr.Settings | None = None, **changes: object
    ) -> translator.Translator:
        values = self._loaded.config.decoding.model_dump() | changes
        decoding = type(self._loaded.config.decoding).model_validate(values)
        parts = (self._loaded.model, self._loaded.texts, decoding, self._loaded.arithmetic)
        return translator.Translator(*parts, risk=risk)

    def _print(self, name: str, texts: list[str], seconds: float, met: str) -> None:
        bleu, chrf = (
            metrics.score(metric, texts, [self._references], self._settings).value
            for metric in ("bleu", "chrf")
        )
        print(f"| {name} | {bleu:.2f} | {chrf:.2f} | {met} | {seconds:.1f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--tokenize", default="13a", help="sacreBLEU's tokenizer")
    parser.add_argument("--lines", type=int, help="of the test set; default all")
    parser.add_argument("--beams", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    steering = Steering(args)
    print("| | BLEU | chrF | lines with all they want | seconds |\n|---|---|---|---|---|")
    for beam_size in args.beams:
        for kind in SETS:
            steering.constrained(kind, beam_size)
    for metric in mbr.METRICS:
        for choice in CHOICES:
            steering.chosen(metric, *choice)
    return 0


if __name__ == "__main__":
    sys.exit(main())
