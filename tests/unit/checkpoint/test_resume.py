"""Resume states: exact, whole, and never lost."""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt import errors
from nmt.checkpoint import resume

VALUES = {
    "floats": [0.1, 1e-323, -0.0, 1e308 * 10, 2 / 3],
    "big": 2**200 + 1,
    "text": "ü\udc80\n",
    "none": None,
    "deep": {"a": [True, {"b": []}]},
}


def state(update: int, value: float = 0.5) -> resume.ResumeState:
    return resume.ResumeState(
        update,
        {**VALUES, "value": value},
        {
            "weights": {"w": torch.full((4,), value)},
            "optimizer": {"w.exp_avg": torch.full((4,), value, dtype=torch.float64)},
            "random": {"cpu": torch.arange(9, dtype=torch.uint8)},
        },
    )


def assert_same(found: resume.ResumeState | None, wanted: resume.ResumeState) -> None:
    assert found is not None
    assert found.update == wanted.update
    assert found.values == wanted.values
    assert found.tensors.keys() == wanted.tensors.keys()
    for stem, tensors in wanted.tensors.items():
        assert found.tensors[stem].keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.tensors[stem][name], tensor)
            assert found.tensors[stem][name].dtype == tensor.dtype


def save_with_best(run_dir: Path, update: int, best: int | None) -> None:
    """Saves a state that needs another one; two are kept."""
    values = {**VALUES, "best": best}
    found = dataclasses.replace(state(update), values=values)
    resume.save(run_dir, found, keep=2, best_of=lambda values: values["best"])


def names(run_dir: Path) -> list[str]:
    return sorted(os.listdir(run_dir / "checkpoints"))


def test_a_state_comes_back_exactly(tmp_path: Path) -> None:
    assert resume.latest(tmp_path) is None
    resume.save(tmp_path, state(7), keep=2)
    found = resume.latest(tmp_path)
    assert_same(found, state(7))
    assert found is not None
    assert repr(found.values) == repr(state(7).values)
    assert_same(resume.load(tmp_path, 7), state(7))


def test_not_a_number_comes_back(tmp_path: Path) -> None:
    resume.save(tmp_path, resume.ResumeState(1, {"loss": float("nan")}, {}), keep=1)
    assert repr(resume.load(tmp_path, 1).values["loss"]) == "nan"


@pytest.mark.parametrize("value", [(1, 2), {1: 2}, torch.ones(1), {"a": [{"b": {2}}]}])
def test_what_json_would_change_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"content\.values\.x"):
        resume.save(tmp_path, resume.ResumeState(1, {"x": value}, {}), keep=1)
    assert names(tmp_path) == []


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    for update in range(10, 60, 10):
        save_with_best(tmp_path, update, 20 if update >= 20 else None)
    assert resume.updates(tmp_path) == [20, 40, 50]
    assert names(tmp_path) == ["00000020", "00000040", "00000050"]


def test_updates_are_ordered_as_numbers(tmp_path: Path) -> None:
    resume.save(tmp_path, state(99_999_999), keep=2)
    resume.save(tmp_path, state(100_000_000), keep=2)
    assert resume.updates(tmp_path) == [99_999_999, 100_000_000]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_kill_leaves_the_states_as_before_or_as_after(
    tmp_path: Path, kills: Callable[..., Iterator[int]], keep: int, again: bool
) -> None:
    origin, target = tmp_path / "origin", tmp_path / "target"
    for update in (10, 20, 30):
        resume.save(origin, state(update, 0.25), keep=keep)
    update = 30 if again else 40
    shutil.copytree(origin, target)
    seen = []
    for _ in kills(lambda: resume.save(target, state(update, 0.75), keep=keep)):
        found = resume.latest(target)
        assert found is not None
        is_new = found.values["value"] == 0.75
        assert_same(found, state(update, 0.75) if is_new else state(30, 0.25))
        seen.append(is_new)
        for number in resume.updates(target):
            resume.load(target, number)
        # Cleaning may be killed too, and leaves good names only.
        for _ in kills_of_cleaning(target, kills):
            assert_same(resume.latest(target), found)
        assert_same(resume.latest(target), found)
        assert all(name.isdigit() for name in names(target))
        resume.save(target, state(update, 0.75), keep=keep)
        assert resume.updates(target) == [10, 20, 30, 40][: update // 10][-keep:]
        shutil.rmtree(target)
        shutil.copytree(origin, target)
    assert seen == sorted(seen)
    assert set(seen) == {False, True}
    assert resume.updates(target) == [10, 20, 30, 40][: update // 10][-keep:]


def kills_of_cleaning(target: Path, kills: Callable[..., Iterator[int]]) -> Iterator[int]:
    try:
        yield from kills(lambda: resume.clean(target))
    except AssertionError as error:  # little or nothing to clean up
        if "not counted" not in str(error):
            raise


def test_a_full_disk_leaves_the_older_states_untouched(
    tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    resume.save(tmp_path, state(10), keep=1)
    for allowed in range(1000):
        with full_disk(allowed).installed() as disk, contextlib.suppress(errors.FileError):
            resume.save(tmp_path, state(20), keep=1)
        if not disk.has_failed:
            break
        found = resume.latest(tmp_path)
        assert found is not None
        assert_same(found, state(found.update))
        if found.update == 10:
            assert names(tmp_path) == ["00000010"]
        resume.clean(tmp_path)
        shutil.rmtree(tmp_path / "checkpoints")
        resume.save(tmp_path, state(10), keep=1)
    assert resume.updates(tmp_path) == [20]


def test_a_state_that_cannot_be_replaced_is_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume.save(tmp_path, state(10, 0.25), keep=1)
    rename = os.rename

    def rename_only_away(source: Path, target: Path) -> None:
        if Path(source).name.startswith(".tmp-"):
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", rename_only_away)
    with pytest.raises(errors.FileError, match="Input/output error"):
        resume.save(tmp_path, state(10, 0.75), keep=1)
    assert names(tmp_path) == ["00000010"]
    assert_same(resume.latest(tmp_path), state(10, 0.25))


def test_a_write_that_fails_leaves_no_temporary_directory(
    tmp_path: Path, full_disk: Callable[[int], Any]
) -> None:
    resume.save(tmp_path, state(10), keep=1)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for allowed in range(1, 20):  # 0 is the folder, which is there already
        with full_disk(allowed).installed(), pytest.raises(errors.FileError):
            resume.save(tmp_path, state(20), keep=1)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
        assert names(tmp_path) == ["00000010"]


@pytest.mark.parametrize("name", ["state.json", "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "shorter", "altered"])
def test_a_damaged_state_is_passed_over_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, damage: str
) -> None:
    for update in (10, 20):
        resume.save(tmp_path, state(update), keep=2)
    path = tmp_path / "checkpoints" / "00000020" / name
    data = path.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    damaged = {"empty": b"", "half": data[:middle], "shorter": data[:-2], "altered": flipped}
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        assert_same(resume.latest(tmp_path), state(10))
    assert str(path) in caplog.text
    with pytest.raises(errors.TrainingError, match=name):
        resume.load(tmp_path, 20)


def test_without_a_whole_state_the_run_does_not_start(tmp_path: Path) -> None:
    for update in (10, 20):
        resume.save(tmp_path, state(update), keep=2)
        (tmp_path / "checkpoints" / f"{update:08d}" / "weights.safetensors").write_bytes(b"torn")
    with pytest.raises(errors.TrainingError, match="--fresh"):
        resume.latest(tmp_path)


def test_a_state_under_another_number_is_not_good(tmp_path: Path) -> None:
    resume.save(tmp_path, state(10), keep=2)
    (tmp_path / "checkpoints" / "00000010").rename(tmp_path / "checkpoints" / "00000030")
    with pytest.raises(errors.TrainingError, match="another update, 10"):
        resume.load(tmp_path, 30)


def test_states_of_an_abandoned_future_do_not_count_as_newest(tmp_path: Path) -> None:
    for update in (10, 20, 30):
        resume.save(tmp_path, state(update), keep=3)
    resume.save(tmp_path, state(15), keep=1)
    assert resume.updates(tmp_path) == [15]
    resume.save(tmp_path, state(25), keep=2)
    resume.clean(tmp_path, after=15)
    assert resume.updates(tmp_path) == [15]


def test_cleaning_removes_leftovers_only(tmp_path: Path) -> None:
    resume.clean(tmp_path)
    resume.save(tmp_path, state(10), keep=2)
    for name in (".tmp-00000020", ".old-00000005"):
        shutil.copytree(tmp_path / "checkpoints" / "00000010", tmp_path / "checkpoints" / name)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    assert resume.updates(tmp_path) == [10]
    resume.clean(tmp_path)
    assert names(tmp_path) == ["00000010", "notes.txt"]
    assert_same(resume.latest(tmp_path), state(10))


def test_a_state_is_on_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, events = os.rename, []

    def record(source: Path, target: Path) -> None:
        if Path(source).is_dir():
            wanted = {source.stat().st_ino, *(path.stat().st_ino for path in source.iterdir())}
            events.append(wanted <= synced)
            synced.clear()
        rename(source, target)

    synced: set[int] = set()
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    monkeypatch.setattr(os, "rename", record)
    resume.save(tmp_path, state(10), keep=1)
    assert events == [True]
    assert (tmp_path / "checkpoints").stat().st_ino in synced


def test_a_moved_run_resumes(tmp_path: Path) -> None:
    resume.save(tmp_path / "a", state(10), keep=2)
    (tmp_path / "a").rename(tmp_path / "b")
    assert_same(resume.latest(tmp_path / "b"), state(10))


def test_the_best_of_every_state_that_is_kept_stays(tmp_path: Path) -> None:
    for update in (10, 20, 30):
        save_with_best(tmp_path, update, 10)
    save_with_best(tmp_path, 40, 40)
    assert resume.updates(tmp_path) == [10, 30, 40], "30 may have to be gone on from"
    save_with_best(tmp_path, 50, 40)
    assert resume.updates(tmp_path) == [40, 50]
    # Of a damaged state nothing is known.
    (tmp_path / "checkpoints" / "00000050" / "state.json").write_text("{")
    save_with_best(tmp_path, 60, 60)
    assert resume.updates(tmp_path) == [50, 60]
