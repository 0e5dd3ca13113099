"""The benchmark of decoding compares what it says it compares."""

import types

import bench_decoding
import pytest
import torch
from benchmarks import decoding, forced, nmt_decoding_side

from nmt.cli import parser

EOS, NEVER = 2, (1, 3)


def test_every_precision_of_the_command_line_is_a_side():
    offered = bench_decoding.precisions()
    assert {"fp32", "bf16"} <= set(offered)
    for name in offered:
        parser.parse(["translate", "--precision", name])
    entries = decoding.entries(offered, ["--precision fp32 --patience 2"])
    assert [entry.name for entry in entries if entry.program == "nmt_decoding"] == [
        *(f"nmt {name}" for name in offered),
        "nmt --precision fp32 --patience 2",
    ]
    assert [entry.name for entry in entries if entry.is_reference] == ["nmt fp32"]
    assert decoding.YARDSTICK in {entry.name for entry in entries}


def test_sides_of_nmt_have_the_whole_vocabulary_unless_flags_say_otherwise():
    entries = decoding.entries(["fp32", "bf16"], ["--precision bf16 --shortlist"])
    flags = {entry.name: entry.flags for entry in entries if entry.program == "nmt_decoding"}
    assert all("--no-shortlist" in flags[f"nmt {name}"] for name in ("fp32", "bf16"))
    assert flags["nmt --precision bf16 --shortlist"] == ("--precision", "bf16", "--shortlist")


def test_a_side_may_have_a_model_of_its_own():
    job = {"model": "run", "beam_size": 5, "threads": 2, "flags": ["--precision", "bf16"]}
    args = parser.parse(["translate", *nmt_decoding_side.flags(job, 64)])
    assert (args.model, args.batch_size, args.precision) == (["run"], 64, "bf16")
    job["flags"] += ["--model", "student"]
    assert parser.parse(["translate", *nmt_decoding_side.flags(job, 64)]).model == ["student"]


def test_the_reference_is_known_by_its_flags():
    (named,) = (
        entry
        for entry in decoding.entries([], ["--no-shortlist --precision fp32"])
        if entry.program == "nmt_decoding"
    )
    assert named.is_reference
    for flags in ("--precision fp32", "--precision bf16 --no-shortlist"):
        entry = decoding.entries([], [flags])[0]
        assert not entry.is_reference


def test_slow_sides_are_the_peers_in_python():
    slow = {entry.name for entry in decoding.entries(["fp32"], []) if not entry.is_fast}
    assert slow == {
        *("MarianMT fp32", "MarianMT fp32 as it comes"),
        *("JoeyNMT fp32", "JoeyNMT fp32 as it comes"),
    }


@pytest.mark.parametrize(("total", "count"), [(10, 3), (1000, 200), (5, 9), (7, 7), (0, 3)])
def test_a_part_is_spread_over_the_whole(total: int, count: int):
    places = decoding.spaced(total, count)
    assert len(places) == len(set(places)) == min(total, count)
    assert places == sorted(places)
    if places:
        steps = [b - a for a, b in zip(places, [*places[1:], total], strict=True)]
        assert places[0] == 0
        assert max(steps) - min(steps) <= 1


def test_rows_end_at_their_length_and_not_before():
    scores = torch.randn(3, 6)
    scores[:, EOS] = 100.0
    lengths = torch.tensor([2, 3, 1])
    found = forced.force(scores.clone(), lengths, 2, EOS, NEVER)
    allowed = found.isfinite().tolist()
    every = [True, False, False, False, True, True]
    only_eos = [False, False, True, False, False, False]
    # A row past its length, which a peer may still compute, has nothing else to say.
    assert allowed == [only_eos, every, only_eos]
    assert torch.equal(found[1, [0, 4, 5]], scores[1, [0, 4, 5]])


def test_a_view_of_scores_is_changed_in_place():
    scores = torch.zeros(2, 3, 5)
    forced.force(scores[:, -1], torch.tensor([4, 1]), 1, EOS, ())
    assert scores[0, -1].isinf().tolist() == [False, False, True, False, False]
    assert scores[1, -1].isinf().tolist() == [True, True, False, True, True]
    assert scores[:, :2].eq(0).all()


def answer(seconds: float, peak: int = 10**9) -> dict[str, float]:
    return {"tokens": 300, "sentences": 20, "seconds": seconds, "peak_bytes": peak}


def test_ratios_are_taken_within_a_round():
    rounds = [
        {"a": answer(1.0), "b": answer(2.0)},
        {"a": answer(4.0, 2 * 10**9), "b": answer(4.0)},
        {"a": answer(2.0), "b": answer(8.0)},
    ]
    row = decoding.side_figures(rounds, "a", batch=64, reference="b")
    assert row["tokens_per_second"] == {"median": 150.0, "low": 75.0, "high": 300.0}
    assert row["ratio"] == {"median": 2.0, "low": 1.0, "high": 4.0}
    assert (row["sentences_per_second"], row["peak_bytes"]) == (10.0, 2 * 10**9)
    assert decoding.side_figures(rounds, "a", batch=64, reference=None)["ratio"] is None


def test_the_table_has_a_row_for_each_side():
    row = decoding.side_figures([{"a": answer(1.0)}], "a", batch=7, reference="a")
    lines = decoding.table([row, row | {"bleu": 37.5}]).split("\n")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert cells[0] == ["a", "7", "300 (300 to 300)", "20.0", "1.00", "-", "1.00 (1.00 to 1.00)"]
    assert cells[1][5] == "37.50"
    assert len({len(line) for line in lines}) == 1


def test_the_same_weights_have_to_have_the_same_score():
    def rows(theirs: float) -> list[dict[str, object]]:
        return [
            {"side": "nmt --precision fp32", "bleu": 37.0},
            {"side": "CTranslate2 float32", "bleu": theirs},
            {"side": decoding.YARDSTICK, "bleu": 30.0},
        ]

    reference = "nmt --precision fp32"
    assert decoding.problems(rows(37.15), reference) == []
    assert decoding.problems(rows(36.5), reference) == [
        "the same weights have 37.00 BLEU in nmt and 36.50 in CTranslate2 float32"
    ]
    marian = {"side": "MarianMT fp32 as it comes", "bleu": 36.0}
    assert decoding.problems([*rows(37.0), marian], reference) == [
        "the same weights have 37.00 BLEU in nmt and 36.00 in MarianMT fp32 as it comes"
    ]
    assert decoding.unchecked(rows(36.5), reference) == []


@pytest.mark.parametrize(
    ("sides", "reference"),
    [
        ({"nmt fp32": None, "CTranslate2 float32": 30.0}, "nmt fp32"),
        ({"nmt fp32": 37.0}, "nmt fp32"),
        ({"nmt bf16": 37.0, "CTranslate2 float32": 30.0}, None),
    ],
)
def test_a_comparison_that_could_not_be_checked_is_said(
    sides: dict[str, float | None], reference: str | None
):
    rows = [{"side": name, "bleu": bleu} for name, bleu in sides.items()]
    rows.append({"side": decoding.YARDSTICK, "bleu": 30.0})
    assert decoding.problems(rows, reference) == []
    (line,) = decoding.unchecked(rows, reference)
    assert "--no-shortlist" in line
    assert decoding.unchecked(rows[:-1], reference) == []  # nothing is compared with it


@pytest.mark.parametrize(
    "words",
    [
        ["--rounds", "0"],
        ["--beams", "0"],
        ["--batch-sizes", "fast"],
        ["--batch-sizes", "0"],
        ["--src", "lines"],
    ],
)
def test_wrong_options_are_refused(words: list[str], capsys):
    with pytest.raises(SystemExit):
        bench_decoding.parse(["--model", "run", *words])
    assert words[0] in capsys.readouterr().err


def test_peers_get_the_shape_of_each_side():
    options = types.SimpleNamespace(
        type="transformer", num_layers=3, hidden_size=8, num_heads=2, feedforward_size=16, dropout=0
    )
    assert bench_decoding._shape(options) == {
        "num_layers": 3,
        "hidden_size": 8,
        "num_heads": 2,
        "feedforward_size": 16,
    }
