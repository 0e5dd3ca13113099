import json
import random
import sys
from pathlib import Path

import bench_training
import pytest
from benchmarks import bucketing, corpus, environments, processes, results, shapes

from nmt.config import loading
from nmt.models import seq2seq

VOCAB_SIZE = 50
LENGTHS = [
    (rng.randint(2, 30), rng.randint(2, 30)) for rng in [random.Random(1)] for _ in range(900)
]


def plan(seed: int = 1, lengths: list[tuple[int, int]] = LENGTHS) -> list[list[int]]:
    return bucketing.plan_epoch(lengths, batch_tokens=200, rng=random.Random(seed))


def test_an_epoch_holds_every_pair_once():
    assert sorted(index for batch in plan() for index in batch) == list(range(len(LENGTHS)))


def test_batches_keep_to_the_budget_and_use_it():
    sizes = [sum(LENGTHS[index][1] for index in batch) for batch in plan()]
    assert max(sizes) <= 200
    assert sorted(sizes)[1] > 170  # all but the last of the pool


def test_a_pair_beyond_the_budget_is_a_batch_of_its_own():
    batches = plan(lengths=[(3, 5), (3, 500), (3, 6)])
    assert sorted(map(sorted, batches)) == [[0, 2], [1]]


def test_batches_have_sentences_of_like_length_and_come_in_random_order():
    batches = plan()
    spreads = [
        max(LENGTHS[i][1] for i in batch) - min(LENGTHS[i][1] for i in batch) for batch in batches
    ]
    assert max(spreads) <= 3
    shortest = [LENGTHS[batch[0]][1] for batch in batches]
    assert shortest != sorted(shortest)
    assert plan(1) == batches
    assert plan(2) != batches


def test_pools_bound_how_far_sorting_reaches(monkeypatch):
    monkeypatch.setattr(bucketing, "POOL_BATCHES", 1)
    spreads = [
        max(LENGTHS[i][1] for i in batch) - min(LENGTHS[i][1] for i in batch) for batch in plan()
    ]
    assert sum(spreads) / len(spreads) > 15


def test_positions_count_the_padding_of_both_sides():
    assert bucketing.positions([(3, 7), (5, 2)]) == 2 * (5 + 7)


TINY = {
    "transformer": shapes.Transformer(layers=2, width=12, feedforward=20, heads=2),
    "lstm": shapes.Lstm(width=10),
    "cnn": shapes.ConvS2S(encoder_layers=3, decoder_layers=2, width=8, kernel=3),
}


@pytest.mark.parametrize("name", TINY)
def test_a_token_is_worth_the_weights_that_it_meets(name: str, monkeypatch):
    """Against the matrices of the model that nmt builds: one pair of one token, without attention."""
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY[name])
    config = loading.parse(json.dumps(corpus.configuration("multi30k", "tiny")), "tiny")
    model = seq2seq.build(config.model, VOCAB_SIZE, VOCAB_SIZE, shared=True)
    matrices = sum(
        weight.numel()
        for key, weight in model.named_parameters()
        if weight.dim() == 2 and min(weight.shape) > 1 and "positions" not in key
    )
    one = shapes.LengthSums(pairs=1, src=1, tgt=1, src_src=0, tgt_tgt=0, tgt_src=0)
    assert TINY[name].multiply_adds(one, VOCAB_SIZE) == matrices


@pytest.mark.parametrize(
    ("name", "products"),
    [
        # Two layers; pairs of positions: 9 in the encoder, 10 under the causal mask, 12 across.
        ("transformer", 2 * 2 * 12 * (9 + 10 + 12)),
        ("lstm", 2 * 10 * 12),
        ("cnn", 2 * 2 * 8 * 12),
    ],
)
def test_attention_costs_two_products_for_each_pair_of_positions(name: str, products: int):
    sums = shapes.LengthSums.of([(3, 4)])
    bare = shapes.LengthSums(pairs=1, src=3, tgt=4, src_src=0, tgt_tgt=0, tgt_src=0)
    shape = TINY[name]
    assert shape.multiply_adds(sums, 50) - shape.multiply_adds(bare, 50) == products


def test_operations_are_those_of_forward_and_backward_by_target_token():
    sums = shapes.LengthSums.of([(1, 1), (1, 1)])
    # Width 2: encoder 4*4 + 2*2*3, keys and values 2*4, decoder 6*4 + 2*2*3, output 2*5, attention 3.
    shape = shapes.Transformer(layers=1, width=2, feedforward=3, heads=1)
    assert shapes.operations_per_token(shape, sums, 5) == 6 * (28 + 8 + 36 + 10 + 2 * 2 * 3)


def test_sums_of_lengths():
    assert shapes.LengthSums.of([(2, 3), (4, 1)]) == shapes.LengthSums(
        pairs=2, src=6, tgt=4, src_src=4 + 16, tgt_tgt=6 + 1, tgt_src=6 + 4
    )


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_the_configuration_of_every_model_is_valid(shape: str):
    config = loading.parse(json.dumps(corpus.configuration("demo", shape)), shape)
    assert config.training.batch_tokens == corpus.BATCH_TOKENS
    assert config.model.encoder.dropout == config.model.decoder.dropout == shapes.DROPOUT


def answer(tokens: int, seconds: float, loss: float = 1.0) -> dict:
    times = {"seconds": seconds, "processor_seconds": seconds / 2}
    return {"tokens": tokens, "loss": loss, "peak_bytes": 10, **times}


def rounds() -> list[dict]:
    """The machine is three times slower in the last round."""
    rates = {"fp32": {"a": 4.0, "b": 8.0}, "bf16": {"a": 1.0, "b": 2.0}}
    slow = {"fp32": {"a": 9.0, "b": 1.0}, "bf16": {"a": 1.0, "b": 2.0}}
    return [
        {"gemm": {"rates": rates}, "nmt": answer(200, 1.0, 9.0), "x": answer(100, 1.0)},
        {"gemm": {"rates": rates}, "nmt": answer(260, 1.0, 8.0), "x": answer(100, 1.0)},
        {"gemm": {"rates": slow}, "nmt": answer(70, 1.0, 7.0), "x": answer(33, 1.0)},
    ]


def test_ratios_are_taken_within_each_round():
    found = results.ratios(rounds(), "nmt", "x")
    assert found == results.Spread(70 / 33, 2.0, 2.6)


def test_the_fastest_peer_has_the_highest_median():
    found = rounds()
    for index, speed in enumerate((1000, 90, 30)):
        found[index]["y"] = answer(speed, 1.0)
    assert results.fastest_peer(found, ["x", "y"]) == "x"
    assert results.fastest_peer(found, []) is None


def test_the_machine_is_measured_by_its_best_size():
    assert results.machine_rate(rounds(), "fp32") == 8.0


def figures(**changes: object) -> dict:
    said = description() | {"precision": "fp32"}
    settings = {"operations": 2e7, "reference": "x", "alike": None} | changes
    return results.side_figures(rounds(), "nmt", said, **settings)


def test_figures_of_a_side():
    found = figures()
    assert found["tokens_per_second"]["median"] == 200
    assert found["useful_gflops"] == pytest.approx(200 * 2e7 / 1e9)
    assert found["matrix_product_share"] == pytest.approx(4.0 / 8.0)
    assert found["padding_share"] == pytest.approx(0.25)
    assert (found["first_loss"], found["last_loss"]) == (9.0, 7.0)
    assert found["ratio"]["median"] == 70 / 33
    assert found["ratio_alike"] is None


def test_the_processor_share_is_that_of_the_most_disturbed_turn():
    found = rounds()
    found[1]["x"]["processor_seconds"] = 0.3
    assert results.processor_share(found, ["nmt", "x"], 1) == pytest.approx(0.3)
    assert results.processor_share(found, ["nmt"], 2) == pytest.approx(0.25)


def test_what_is_wanted_of_models_without_a_peer_is_scaled():
    scaled = results.wanted_ratio("lstm-512", "auto", is_against_marian=True)
    assert scaled == pytest.approx(1.5 * 1068 / 2823)
    assert results.wanted_ratio("transformer-128", "auto", is_against_marian=False) == 2.0
    assert results.wanted_ratio("lstm-512", "fp32", is_against_marian=True) is None


def description(**changes: object) -> dict:
    return {
        "shape": "s",
        "parameters": 96,
        "parameters_lacking": 4,
        "epoch_pairs": 10,
        "epoch_src_tokens": 70,
        "epoch_tokens": 80,
        "epoch_positions": 200,
        "largest_batch": 40,
        "dropout_is_on": True,
    } | changes


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"epoch_pairs": 9}, "numbers of pairs"),
        ({"epoch_src_tokens": 9}, "numbers of source tokens"),
        ({"epoch_tokens": 9}, "numbers of target tokens"),
        ({"parameters": 97}, "numbers of parameters"),
        ({"dropout_is_on": False}, "b: dropout is off"),
        ({"largest_batch": 51}, "b: a batch has 51 target tokens"),
    ],
)
def test_what_makes_a_comparison_unfair_is_told(changes: dict, complaint: str):
    said = {"a": description(parameters=100, parameters_lacking=0), "b": description()}
    assert results.problems(said, [figures()], batch_tokens=50) == []
    said["b"] |= changes
    (line,) = results.problems(said, [figures()], batch_tokens=50)
    assert complaint in line


def test_parameters_are_compared_within_a_shape_only():
    said = {"a": description(), "b": description(shape="other", parameters=7)}
    assert results.problems(said, [], batch_tokens=50) == []


def test_a_loss_that_does_not_fall_is_told():
    row = figures() | {"last_loss": 9.0}
    (line,) = results.problems({"a": description()}, [row], batch_tokens=50)
    assert "nmt: the loss did not fall (9.00 to 9.00)" in line


def test_the_table_is_aligned_and_shows_the_ratio():
    lines = results.table([figures() | {"wanted": 2.0}, figures(reference=None) | {"wanted": None}])
    first, _, *rows = lines.split("\n")
    assert len({len(line) for line in lines.split("\n")}) == 1
    assert first.split("|")[1].strip() == "side"
    assert "2.12 (2.00 to 2.60)" in rows[0]
    assert "2.12" not in rows[1]


def test_all_sides_get_the_same_environment(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")
    found = processes.environment(3, "default")
    assert found["OMP_NUM_THREADS"] == "3"
    assert not {"OMP_WAIT_POLICY", "GLIBC_TUNABLES", "THP_MEM_ALLOC_ENABLE"} & set(found)
    assert processes.environment(3, "tuned")["THP_MEM_ALLOC_ENABLE"] == "1"


def test_a_side_that_does_not_start_says_why(tmp_path: Path):
    job = {"program": "missing", "allocator": "default", "threads": 1}
    with pytest.raises(environments.UnavailableError, match=r"No module named .*missing_side"):
        processes.SideProcess("missing", Path(sys.executable), job, tmp_path / "log")


def test_an_environment_is_made_once_for_the_same_packages(tmp_path: Path, monkeypatch):
    commands: list[list[str]] = []
    monkeypatch.setattr(environments, "_run", commands.append)
    (tmp_path / "venv").mkdir()
    for packages in (["a==1"], ["a==1"], ["a==2"]):
        python = environments.make(tmp_path / "venv", packages)
    assert python == tmp_path / "venv" / "bin" / "python"
    assert [command[-1] for command in commands if "pip" in command] == ["a==1", "a==2"]


def test_a_failed_installation_gives_its_reason():
    script = "print('ERROR: no such package'); print('a notice'); raise SystemExit(1)"
    with pytest.raises(environments.UnavailableError, match="^not installable: ERROR: no such"):
        environments._run([sys.executable, "-c", script])


def test_models_without_a_peer_are_held_against_marian_of_width_128():
    for shape in shapes.SHAPES:
        found = bench_training.entries(shape, threads=1)
        assert [entry.precision for entry in found[:2]] == ["auto", "fp32"]
        (reference,) = [entry for entry in found if entry.name == bench_training.MARIAN]
        expected = "transformer-128" if shape in results.FAIRSEQ_BEFORE else shape
        assert (reference.shape, reference.precision, reference.attention) == (
            expected,
            "fp32",
            "sdpa",
        )


def test_a_run_of_no_rounds_is_refused(capsys):
    with pytest.raises(SystemExit):
        bench_training.parse(["--rounds", "0"])
    assert "--rounds: has to be at least 1 (given: 0)" in capsys.readouterr().err


class FakeSide:
    """Loses one a turn, and counts how many are alive."""

    alive = 0

    def __init__(self) -> None:
        FakeSide.alive += 1
        self.description = {"parameters": 1}
        self._loss = 9.0

    def turn(self, number: int) -> dict:
        self._loss -= number
        return {"loss": self._loss}

    def close(self) -> None:
        FakeSide.alive -= 1


def test_a_restarted_side_is_warmed_up_each_time_and_leaves_nothing_alive():
    side = processes.RestartedSide("a", FakeSide, warmup=2)
    assert side.description == {"parameters": 1}
    for _ in range(2):
        assert FakeSide.alive == 0
        assert side.turn(3) == {"loss": 4.0, "first_loss": 7.0}
    assert FakeSide.alive == 0


def test_sides_that_do_not_fit_into_memory_are_not_alive_together(monkeypatch):
    monkeypatch.setattr(processes, "available_bytes", lambda: 25e9)

    def is_short(shape: str, threads: int) -> bool:
        return bench_training.is_memory_short(shape, bench_training.entries(shape, threads))

    assert is_short("transformer-512", threads=1)
    assert not is_short("transformer-128", threads=1)
    # A second process of one side wants memory of its own.
    assert is_short("transformer-128", threads=2)


def test_sides_are_chosen_by_the_beginnings_of_their_names() -> None:
    found = bench_training.entries("transformer-512", 2, ["nmt fp32", "MarianMT fp32"])
    assert [side.name for side in found] == ["nmt fp32", "MarianMT fp32", "MarianMT fp32 eager"]
    with pytest.raises(SystemExit):
        bench_training.parse(["--models", "transformer-512", "--sides", "fairseq"])


@pytest.mark.parametrize(("threads", "expected"), [(1, []), (2, [2]), (3, []), (8, [2])])
def test_two_ranks_take_part_where_each_has_as_many_threads(threads, expected):
    found = bench_training.entries("transformer-128", threads)
    assert [entry.ranks for entry in found if entry.ranks > 1] == expected


def test_available_memory_is_told_in_bytes():
    assert processes.available_bytes() > 1e7
