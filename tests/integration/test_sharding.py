"""Several processes keep a part each of one model: same losses, same files, and they resume."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors

FULL = "--set=training.sharding=full"


def curve(run: Any) -> list[list[float]]:
    """What the updates and the validations of a run have found."""
    names = {"train": ("loss", "grad_norm"), "validation": ("loss", "bleu", "chrf")}
    return [
        # JSON has no number that is not finite, which is what a skipped update has found.
        [math.nan if line[name] is None else line[name] for name in names[line["event"]]]
        for line in run.metrics
        if line["event"] in names
    ]


def assert_same_curve(one: Any, other: Any, rel: float = 1e-10) -> None:
    curves = curve(one), curve(other)
    assert len(curves[0]) == len(curves[1]) > 1
    for left, right in zip(*curves, strict=True):
        assert left == pytest.approx(right, rel=rel, nan_ok=True)


def layout(path: Path) -> dict[str, Any]:
    """The names, shapes and types in a file of weights."""
    with safetensors.safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {name: (part.get_shape(), part.get_dtype()) for name, part in slices.items()}


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        # A limit in tokens makes several pieces of a share, and other numbers of them on each rank.
        ("transformer", {"optimizer": "adamw", "ema_decay": 0.9, "max_device_tokens": 8}),
        ("cnn", {"freeze": ["*embedding*", "encoder.*"], "average_checkpoints": 2}),
        ("rnn", {"rate_factors": {"decoder.*": 0.5}, "clip_norm": 0.1}),
    ],
)
def test_losses_and_files_are_those_of_one_process(family, settings, exact, nmt, ranks, open_run):
    exact(family, **settings)
    assert nmt("train", "c.yaml").code == 0
    # Of three ranks some have no pair of some batches.
    ended = ranks(3, "three", FULL)
    assert (ended.codes, ended.messages[1:]) == ([0, 0, 0], [[], []])
    assert_same_curve(open_run(), open_run("three"))
    assert open_run().updates("average") == open_run("three").updates("average")
    paths = [Path("model.safetensors")]
    paths += [path.relative_to("run") for path in Path("run/checkpoints").rglob("*.safetensors")]
    assert len(paths) > 4
    for path in paths:
        assert layout(Path("three", path)) == layout(Path("run", path)), path
    assert nmt("inspect", "three").code == 0


def test_in_single_precision_losses_are_close_to_those_of_one_process(exact, nmt, ranks, open_run):
    exact(precision="fp32", batch_tokens=40)
    assert nmt("train", "c.yaml").code == 0
    assert ranks(2, "two", FULL).codes == [0, 0]
    assert_same_curve(open_run(), open_run("two"), rel=1e-4)


def test_a_rank_keeps_half_of_all_numbers(exact, ranks):
    exact(optimizer="adamw", ema_decay=0.9, max_updates=2)

    def held(run_dir: str, *argv: str) -> list[int]:
        assert ranks(2, run_dir, *argv, counts_bytes=True).codes == [0, 0]
        return [json.loads(Path(run_dir, f"bytes.{rank}").read_text()) for rank in range(2)]

    whole = held("whole")
    # Weights, gradients, two moments and the average, of which nothing whole is left between updates.
    assert whole[0] == whole[1] > 5 * 8 * 1000
    for part in (held("parts", FULL), held("parts", FULL, "--set=training.max_updates=4")):
        assert all(0.45 < found / whole[0] < 0.6 for found in part), (whole, part)


def test_a_killed_rank_ends_the_run_which_then_goes_on_bit_for_bit(exact, ranks, open_run):
    exact(dropout=0.1, precision="auto", ema_decay=0.9)
    assert ranks(2, "whole", FULL).codes == [0, 0]
    ended = ranks(2, "run", FULL, faults=[[1, 5, "KILL"]])
    assert ended.codes == [1, -9]
    message = ended.messages[0][-1]
    assert message.startswith("nmt: rank 0 of 2: has lost another process of this run (")
    ended = ranks(2, "run", FULL)
    assert ended.codes == [0, 0]
    assert "resumed from update 4" in ended.messages[0]
    assert open_run("run").sha256 == open_run("whole").sha256
    assert open_run("run").metrics == open_run("whole").metrics


def test_a_run_goes_on_without_sharding_and_with_it_again(exact, nmt, ranks, open_run):
    exact(optimizer="adamw")
    assert nmt("train", "c.yaml", "--set", "run_dir=alone").code == 0
    assert ranks(2, "run", FULL, faults=[[1, 3, "TERM"]]).codes == [143, 143]
    assert nmt("train", "c.yaml", "--set=training.max_updates=5").code == 0
    assert ranks(3, "run", FULL, "--set=training.max_updates=9").codes == [0, 0, 0]
    losses = [
        {
            line["update"]: line["loss"]
            for line in open_run(name).metrics
            if line["event"] == "train"
        }
        for name in ("alone", "run")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-10)


def test_ranks_skip_and_go_back_together(exact, ranks, open_run):
    exact(max_skipped_updates=2, batch_tokens=40)
    assert ranks(2, "run", FULL, faults=[[1, 5, "nan"], [1, 6, "nan"]]).codes == [0, 0]
    assert ranks(2, "none", faults=[[1, 5, "nan"], [1, 6, "nan"]]).codes == [0, 0]
    (line,) = [line for line in open_run("run").metrics if line["event"] == "rollback"]
    assert (line["update"], line["to_update"]) == (6, 4)
    assert_same_curve(open_run("run"), open_run("none"))


def test_a_piece_that_does_not_fit_ends_the_run_with_advice(exact, ranks):
    exact()
    ended = ranks(2, "run", FULL, "--set=training.batch_tokens=40", faults=[[1, 3, "memory"]])
    assert ended.codes == [1, 1]
    assert "out of memory" in ended.messages[1][-1]
    assert "training.max_device_tokens" in ended.messages[1][-1]


def test_one_process_has_nothing_to_shard_over_and_says_so(configure, nmt, open_run):
    configure("rnn")
    assert nmt("train", "c.yaml").code == 0
    done = nmt("train", "c.yaml", FULL, "--set=run_dir=full")
    assert done.code == 0
    (line,) = [line for line in done.messages if line.startswith("training.sharding")]
    assert "nothing to shard over" in line
    assert open_run("full").sha256 == open_run().sha256


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"optimizer": "muon"}, "muon"),
        ({"max_device_tokens": "auto"}, "max_device_tokens: auto"),
        ({"memory_limit": 1000}, "memory_limit"),
    ],
)
def test_what_does_not_go_with_sharding_is_refused(
    settings: dict[str, Any], text: str, configure: Callable[..., Path], nmt: Callable[..., Any]
) -> None:
    configure("rnn", training={"sharding": "full", **settings})
    nmt("train", "c.yaml").assert_refused(2, "sharding: full", text)
