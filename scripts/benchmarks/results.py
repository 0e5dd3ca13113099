"""From the answers of all rounds to figures, and to a table."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# What fairseq reached beside MarianMT of width 128 (2,823 target tokens per second) on one core;
# it cannot be installed beside a current torch, so its figures are scaled by MarianMT's of today.
MARIAN_BEFORE = 2823.0
FAIRSEQ_BEFORE = {"lstm-512": 1068.0, "convs2s-256": 1758.0}

# What is wanted of nmt: times the fastest peer (Transformers), times fairseq (the others).
WANTED = {
    ("transformer-128", "auto"): 2.0,
    ("transformer-128", "fp32"): 1.2,
    ("transformer-512", "auto"): 2.0,
    ("transformer-512", "fp32"): 1.2,
    ("lstm-512", "auto"): 1.5,
    ("convs2s-256", "auto"): 1.3,
}


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median and what lies around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Returns the spread of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


def speeds(rounds: Sequence[Mapping[str, Any]], side: str) -> list[float]:
    """Returns a side's real target tokens per second, round by round."""
    return [found[side]["tokens"] / found[side]["seconds"] for found in rounds]


def fastest_peer(rounds: Sequence[Mapping[str, Any]], peers: Sequence[str]) -> str | None:
    """Returns the peer with the highest median speed."""
    if not peers:
        return None
    return max(peers, key=lambda peer: statistics.median(speeds(rounds, peer)))


def ratios(rounds: Sequence[Mapping[str, Any]], side: str, reference: str) -> Spread:
    """Returns the spread of a side's speed over another's within each round."""
    pairs = zip(speeds(rounds, side), speeds(rounds, reference), strict=True)
    return Spread.of([mine / other for mine, other in pairs])


def machine_rate(rounds: Sequence[Mapping[str, Any]], precision: str) -> float:
    """Returns the highest of the sizes' median GFLOP/s in a precision."""
    sizes = rounds[0]["gemm"]["rates"][precision]
    return max(
        statistics.median(found["gemm"]["rates"][precision][size] for found in rounds)
        for size in sizes
    )


def side_figures(
    rounds: Sequence[Mapping[str, Any]],
    side: str,
    said: Mapping[str, Any],
    *,
    operations: float,
    reference: str | None,
    alike: str | None,
) -> dict[str, Any]:
    """Returns the figures of one side.

    Args:
        rounds: answers by side, round by round.
        side: its name.
        said: what it said of itself.
        operations: useful ones by real target token.
        reference: the fastest peer.
        alike: the fastest peer that multiplies in the same precision.
    """
    found = [answers[side] for answers in rounds]
    speed = Spread.of(speeds(rounds, side))
    real = said["epoch_tokens"] + said["epoch_src_tokens"]
    gflops = speed.median * operations / 1e9
    return {
        "side": side,
        "precision": said["precision"],
        "parameters": said["parameters"],
        "tokens_per_second": dataclasses.asdict(speed),
        "padding_share": 1.0 - real / said["epoch_positions"],
        "peak_bytes": max(answer["peak_bytes"] for answer in found),
        "useful_gflops": gflops,
        "matrix_product_share": gflops / machine_rate(rounds, said["precision"]),
        "ratio": _ratio(rounds, side, reference),
        "ratio_alike": _ratio(rounds, side, alike),
        "first_loss": found[0].get("first_loss", found[0]["loss"]),
        "last_loss": found[-1]["loss"],
    }


def _ratio(
    rounds: Sequence[Mapping[str, Any]], side: str, reference: str | None
) -> dict[str, Any] | None:
    if reference is None:
        return None
    return {"to": reference, **dataclasses.asdict(ratios(rounds, side, reference))}


def processor_share(
    rounds: Sequence[Mapping[str, Any]], sides: Sequence[str], threads: int
) -> float:
    """Returns the least share of its cores that a side had in a turn.

    With one thread, less than all of it means that other programs were at work, or the system.
    """
    turns = [found[side] for found in rounds for side in sides]
    return min(turn["processor_seconds"] / (turn["seconds"] * threads) for turn in turns)


def wanted_ratio(shape: str, precision: str, *, is_against_marian: bool) -> float | None:
    """Returns what a row's ratio has to be, or None if nothing was promised.

    Args:
        shape: the model.
        precision: `auto` or `fp32`, as nmt was asked.
        is_against_marian: whether the ratio is to MarianMT, as it is where fairseq is the measure.
    """
    wanted = WANTED.get((shape, precision))
    if wanted is None or not is_against_marian:
        return wanted
    return wanted * FAIRSEQ_BEFORE[shape] / MARIAN_BEFORE


def problems(
    descriptions: Mapping[str, Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    *,
    batch_tokens: int,
) -> list[str]:
    """Returns what would make a comparison unfair, one line each.

    Args:
        descriptions: what each training side said of itself, with the `shape` that it was given.
        rows: the figures of each.
        batch_tokens: what a batch may hold.
    """
    found = []
    for key, what in (
        ("epoch_pairs", "pairs"),
        ("epoch_src_tokens", "source tokens"),
        ("epoch_tokens", "target tokens"),
    ):
        counts = {name: said[key] for name, said in descriptions.items()}
        if len(set(counts.values())) > 1:
            found.append(f"the sides see different numbers of {what}: {counts}")
    for shape in {said["shape"] for said in descriptions.values()}:
        # What a side is known to lack counts as if it were there; nothing else may differ.
        counts = {
            name: said["parameters"] + said["parameters_lacking"]
            for name, said in descriptions.items()
            if said["shape"] == shape
        }
        if len(set(counts.values())) > 1:
            found.append(f"the sides have different numbers of parameters: {counts}")
    for name, said in descriptions.items():
        if not said["dropout_is_on"]:
            found.append(f"{name}: dropout is off")
        if said["largest_batch"] > batch_tokens:
            found.append(f"{name}: a batch has {said['largest_batch']} target tokens")
    found += [
        f"{row['side']}: the loss did not fall ({row['first_loss']:.2f} to {row['last_loss']:.2f})"
        for row in rows
        if row["last_loss"] >= row["first_loss"]
    ]
    return found


HEADINGS = (
    "side", "in", "tokens/s (range)", "padding", "peak GB", "GFLOP/s", "of GEMM",
    "ratio (range)", "wanted", "same precision", "parameters", "loss",
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
    speed, wanted = row["tokens_per_second"], row["wanted"]
    return (
        row["side"],
        row["precision"],
        f"{speed['median']:,.0f} ({speed['low']:,.0f} to {speed['high']:,.0f})",
        f"{row['padding_share']:.1%}",
        f"{row['peak_bytes'] / 1e9:.2f}",
        f"{row['useful_gflops']:.1f}",
        f"{row['matrix_product_share']:.0%}",
        _spread(row["ratio"]),
        f"{wanted:.2f}" if wanted else "-",
        _spread(row["ratio_alike"]),
        f"{row['parameters']:,}",
        f"{row['first_loss']:.2f} to {row['last_loss']:.2f}",
    )


def _spread(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return "-"
    return f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
