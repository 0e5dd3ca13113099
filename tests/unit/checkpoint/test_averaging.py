"""Snapshots and their average."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nmt import errors
from nmt.checkpoint import averaging


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2, 3), value), "n": torch.tensor(int(value))}


def save(run_dir: Path, update: int, value: float, keep: int = 9) -> None:
    averaging.save_snapshot(run_dir, update, tensors(value), keep=keep)


def test_the_average_is_the_mean_and_counts_are_the_last_ones(tmp_path: Path) -> None:
    for update, value in ((10, 1.0), (20, 2.0), (30, 6.0)):
        save(tmp_path, update, value)
    found = averaging.average(tmp_path, [30, 10, 20])
    assert torch.equal(found["w"], torch.full((2, 3), 3.0))
    assert found["w"].dtype == torch.float32
    assert torch.equal(found["n"], torch.tensor(6))


def test_sums_are_taken_in_float64(tmp_path: Path) -> None:
    for update, value in ((10, 1e8), (20, 1.0), (30, -1e8)):
        save(tmp_path, update, value)
    found = averaging.average(tmp_path, [10, 20, 30])["w"]
    assert torch.equal(found, torch.full((2, 3), 1 / 3))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_average_of_equal_weights_is_those_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = {"w": torch.randn(50, generator=torch.Generator().manual_seed(0)).to(dtype)}
    for update in (10, 20, 30, 40):
        averaging.save_snapshot(tmp_path, update, weights, keep=4)
    for updates in ([10], [10, 20], [10, 20, 30, 40]):
        found = averaging.average(tmp_path, updates)["w"]
        assert found.dtype == dtype
        assert torch.equal(found, weights["w"])


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for update in (10, 20, 30, 40):
        save(tmp_path, update, 1.0, keep=2)
    assert averaging.snapshot_updates(tmp_path) == [30, 40]
    assert len(list((tmp_path / "snapshots").iterdir())) == 2


def test_a_snapshot_saved_again_takes_the_place_of_the_first(tmp_path: Path) -> None:
    save(tmp_path, 10, 1.0)
    save(tmp_path, 10, 2.0)
    assert len(list((tmp_path / "snapshots").iterdir())) == 1
    assert torch.equal(averaging.average(tmp_path, [10])["w"], torch.full((2, 3), 2.0))


def test_the_worked_example_of_the_docstring(tmp_path: Path) -> None:
    states = {10: [], 20: [], 30: [20], 40: [20], 50: [20, 40]}
    for update, needed_by in states.items():
        averaging.save_snapshot(tmp_path, update, tensors(1.0), keep=2, needed_by=needed_by)
    assert averaging.snapshot_updates(tmp_path) == [10, 20, 30, 40, 50]
    (tmp_path / "snapshots" / ".tmp-7-00000060.safetensors").write_bytes(b"cut short")
    averaging.prune(tmp_path, 50, keep=2, needed_by=[40])
    assert len(list((tmp_path / "snapshots").iterdir())) == 3
    assert averaging.snapshot_updates(tmp_path) == [30, 40, 50]


def test_a_damaged_snapshot_is_named(tmp_path: Path) -> None:
    for update in (10, 20):
        save(tmp_path, update, 1.0)
    path = next((tmp_path / "snapshots").glob("00000020-*"))
    data = path.read_bytes()
    for damaged in (b"", data[:-1], data[:-1] + b"\xff"):
        path.write_bytes(damaged)
        with pytest.raises(errors.TrainingError, match=re.escape(path.name)):
            averaging.average(tmp_path, [10, 20])
    path.unlink()
    with pytest.raises(errors.TrainingError, match=r"00000020.*missing"):
        averaging.average(tmp_path, [10, 20])


def test_damaged_snapshots_are_told_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for update in (10, 20, 30):
        save(tmp_path, update, float(update))
    assert averaging.whole(tmp_path, [10, 20, 30]) == [10, 20, 30]
    assert not caplog.messages
    next((tmp_path / "snapshots").glob("00000020-*")).write_bytes(b"torn")
    assert averaging.whole(tmp_path, [10, 20, 30]) == [10, 30]
    (line,) = caplog.messages
    assert "00000020" in line


def test_snapshots_of_different_models_are_not_mixed(tmp_path: Path) -> None:
    save(tmp_path, 10, 1.0)
    averaging.save_snapshot(tmp_path, 20, {"w": torch.ones(3)}, keep=2)
    with pytest.raises(errors.ModelError, match=r"update 20.*missing: n.*misshapen: w"):
        averaging.average(tmp_path, [10, 20])


class Run:
    """A run of 1 update at a time, without tensors on disk: what the loop does, in small."""

    def __init__(self, run_dir: Path, *, average: int, snapshot: int, save: int, keep: int) -> None:
        self.run_dir, self.average, self.snapshot = run_dir, average, snapshot
        self.save, self.keep, self.best = save, keep, save
        self.states: list[int] = []

    def train(self, first: int, last: int) -> None:
        for update in range(first + 1, last + 1):
            if update % self.snapshot == 0:
                averaging.save_snapshot(
                    self.run_dir,
                    update,
                    {"w": torch.tensor([float(update)])},
                    keep=self.average,
                    needed_by=self.states,
                )
            if update % self.save == 0:
                kept = [*self.states, update]
                self.states = [u for u in kept if u in kept[-self.keep :] or u == self.best]

    def resume(self, update: int) -> None:
        self.states = [state for state in self.states if state <= update]
        averaging.prune(self.run_dir, update, keep=self.average, needed_by=self.states)


@settings(max_examples=25, deadline=None)
@given(
    average=st.integers(1, 4),
    snapshot=st.integers(1, 4),
    save=st.integers(1, 5),
    keep=st.integers(1, 3),
    stop=st.integers(1, 24),
    choice=st.integers(0, 9),
)
def test_a_resumed_run_ends_with_the_snapshots_of_an_undisturbed_one(
    tmp_path_factory: pytest.TempPathFactory,
    average: int,
    snapshot: int,
    save: int,
    keep: int,
    stop: int,
    choice: int,
) -> None:
    run = Run(
        tmp_path_factory.mktemp("run"), average=average, snapshot=snapshot, save=save, keep=keep
    )
    run.train(0, stop)
    start = ([0, *run.states])[choice % (len(run.states) + 1)]
    end = stop + snapshot  # so near that what was deleted would be missed
    run.resume(start)
    window = list(range(snapshot, start + 1, snapshot))[-average:]
    assert averaging.snapshot_updates(run.run_dir)[-average:] == window
    run.train(start, end)
    wanted = list(range(snapshot, end + 1, snapshot))[-average:]
    assert averaging.snapshot_updates(run.run_dir)[-average:] == wanted
    mean = averaging.average(run.run_dir, wanted)["w"]
    assert mean.item() == pytest.approx(sum(wanted) / len(wanted))
    bound = average * (len(run.states) + 1)
    assert len(averaging.snapshot_updates(run.run_dir)) <= bound + save // snapshot + 1
