"""What a benchmark of decoding compares, and how its figures are made and shown."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import results

YARDSTICK = "CTranslate2 int8"
# The side that has to have the BLEU of CTranslate2 in float32: whatever its name, it has these flags.
REFERENCE_FLAGS = ("--precision", "fp32", "--no-shortlist")
THEIR_REFERENCE = "CTranslate2 float32"
# Sides in float32 that search as nmt does, but for when they ask whether a sentence is done.
EQUAL_SIDES = (THEIR_REFERENCE, "MarianMT fp32 as it comes")
# How far the same weights, in the same precision, may be apart in BLEU.
SAME_BLEU = 0.2

DIFFERENCES = (
    "nmt and CTranslate2 go from text to text; MarianMT and JoeyNMT are given ids and give ids.",
    "All search with the plain sum of log-probabilities. nmt and CTranslate2 end a sentence's beam "
    "when no open hypothesis can win any more; to the same result, though they ask at other moments.",
    "MarianMT has the weights if it computes such a model: norms behind the blocks, ReLU, sinusoids, one "
    "embedding table. Else, and JoeyNMT always, has random ones of the same shape, and each output is "
    "forced to the length of nmt's: they have no BLEU. JoeyNMT normalises before the blocks.",
    "MarianMT's beam ends with as many finished hypotheses as it is wide; as it comes (its default), when "
    "no open hypothesis can beat the worst of these: either is later than the others.",
    "MarianMT keeps finished sentences in the batch, JoeyNMT computes the prefix anew at each step: "
    "that is how they are.",
    "All have the memory allocator that nmt sets up for itself, but for sides that say otherwise.",
    "nmt ends a translation at decoding.max_length_ratio as well, CTranslate2 at max_length alone.",
    "CTranslate2 works in a process of nmt, which loads torch: its peak memory has torch in it.",
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A side before it is started.

    Attributes:
        name: as printed.
        program: of its module.
        flags: of `nmt translate`, for nmt.
        quantization: of the export, for CTranslate2.
        allocator: of its process.
        stops_early: for MarianMT, `early_stopping`.
    """

    name: str
    program: str
    flags: tuple[str, ...] = ()
    quantization: str = ""
    allocator: str = "tuned"
    stops_early: bool = True

    @property
    def is_fast(self) -> bool:
        """Whether it can be asked for all lines; it goes from text to text and has the weights."""
        return self.program in {"nmt_decoding", "ctranslate2_decoding"}

    @property
    def is_reference(self) -> bool:
        """Whether it is nmt's search over the whole vocabulary in float32, with no other flag."""
        is_ours = self.program == "nmt_decoding"
        return is_ours and sorted(self.flags) == sorted(REFERENCE_FLAGS)


def entries(precisions: Sequence[str], also: Sequence[str]) -> list[Entry]:
    """Returns all sides. Those of nmt have the whole vocabulary, as CTranslate2 has, but for `also`.

    Args:
        precisions: that nmt's command line offers.
        also: further flags for nmt, each text a side.
    """
    found = [
        Entry(f"nmt {name}", "nmt_decoding", flags=("--precision", name, "--no-shortlist"))
        for name in precisions
    ]
    found += [Entry(f"nmt {text}", "nmt_decoding", flags=tuple(text.split())) for text in also]
    found += [
        Entry(f"CTranslate2 {name}", "ctranslate2_decoding", quantization=name)
        for name in ("float32", "int8")
    ]
    return [
        *found,
        *(
            Entry(f"{name} fp32{note}", program, allocator=allocator, stops_early=not note)
            for name, program in (("MarianMT", "marian_decoding"), ("JoeyNMT", "joeynmt_decoding"))
            for note, allocator in (("", "tuned"), (" as it comes", "default"))
        ),
    ]


def spaced(total: int, count: int) -> list[int]:
    """Returns `count` of `total` places at equal distances, so that they are like the whole."""
    count = min(count, total)
    return [index * total // count for index in range(count)]


def side_figures(
    rounds: Sequence[Mapping[str, Any]], name: str, *, batch: int, reference: str | None
) -> dict[str, Any]:
    """Returns the figures of one side of a group.

    Args:
        rounds: answers by side, round by round.
        name: of the side.
        batch: sentences of its batches.
        reference: the side that ratios are taken to, within each round.
    """
    found = [answers[name] for answers in rounds]
    speed = results.Spread.of(results.speeds(rounds, name))
    ratio = None
    if reference is not None:
        ratio = dataclasses.asdict(results.ratios(rounds, name, reference))
    return {
        "side": name,
        "batch": batch,
        "tokens_per_second": dataclasses.asdict(speed),
        "sentences_per_second": statistics.median(
            answer["sentences"] / answer["seconds"] for answer in found
        ),
        "sentences": found[0]["sentences"],
        "tokens": found[0]["tokens"],
        "peak_bytes": max(answer["peak_bytes"] for answer in found),
        "ratio": ratio,
    }


def problems(rows: Sequence[Mapping[str, Any]], reference: str | None) -> list[str]:
    """Returns what would make a comparison unfair, one line each.

    Args:
        rows: the figures of a group.
        reference: the side that `Entry.is_reference` is true of.
    """
    bleu = {row["side"]: row.get("bleu") for row in rows}
    ours = bleu.get(reference)
    return [
        f"the same weights have {ours:.2f} BLEU in nmt and {theirs:.2f} in {side}"
        for side in EQUAL_SIDES
        if ours is not None
        and (theirs := bleu.get(side)) is not None
        and abs(ours - theirs) > SAME_BLEU
    ]


def unchecked(rows: Sequence[Mapping[str, Any]], reference: str | None) -> list[str]:
    """Returns why `problems` had nothing to compare, if so; arguments as there."""
    bleu = {row["side"]: row.get("bleu") for row in rows}
    if YARDSTICK not in bleu or None not in (bleu.get(reference), bleu.get(THEIR_REFERENCE)):
        return []
    wanted = f"nmt {' '.join(REFERENCE_FLAGS)}"
    return [
        f"whether the same weights have the same BLEU; it takes {wanted} and {THEIR_REFERENCE} as "
        "sides, and all lines"
    ]


HEADINGS = (
    "side", "batch", "tokens/s (range)", "sentences/s", "peak GB", "BLEU", "ratio (range)",
)  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the figures of a group as an aligned Markdown table."""
    lines = [HEADINGS, tuple("---" for _ in HEADINGS), *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    speed, ratio, bleu = row["tokens_per_second"], row["ratio"], row.get("bleu")
    return (
        row["side"],
        str(row["batch"]),
        f"{speed['median']:,.0f} ({speed['low']:,.0f} to {speed['high']:,.0f})",
        f"{row['sentences_per_second']:,.1f}",
        f"{row['peak_bytes'] / 1e9:.2f}",
        "-" if bleu is None else f"{bleu:.2f}",
        "-"
        if ratio is None
        else f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
    )
