"""The model folder: whole before, whole after, and every damage found."""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nmt import errors
from nmt.checkpoint import folder, manifests, sealed, weights

OLD: dict[str, Any] = {"config_text": "a: 1 # ü\n", "scores": {"bleu": 12.5}, "update": 10}
NEW: dict[str, Any] = {"config_text": "a: 2\n", "scores": {"bleu": float("nan")}, "update": 20}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.full((3, 2), value), "b": torch.arange(4)}


def make_tokenizer(path: Path) -> None:
    (path / "tokenizer").mkdir(parents=True)
    (path / "tokenizer" / "shared.model").write_bytes(b"pieces" * 9)
    (path / "tokenizer" / "shared.vocab").write_text("a\nb\n")
    (path / "tokenizer" / ".hidden").write_text("not ours")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path / "run")
    folder.publish(tmp_path / "run", tensors=tensors(1.0), **OLD)
    return tmp_path / "run"


def contents(path: Path) -> dict[str, bytes]:
    return {
        entry.name: entry.read_bytes()
        for entry in path.iterdir()
        if entry.is_file() and not entry.name.startswith(".tmp-")
    }


def put_back(path: Path, files: dict[str, bytes]) -> None:
    for entry in path.iterdir():
        if entry.is_file() and entry.name not in files:
            entry.unlink()
    for name, data in files.items():
        (path / name).write_bytes(data)


def which(path: Path) -> str:
    """Returns the model that a folder is, after a check that all of it is that model."""
    model = folder.read(path)
    name = "old" if model.config_text == OLD["config_text"] else "new"
    settings, value = (OLD, 1.0) if name == "old" else (NEW, 2.0)
    assert model.config_text == settings["config_text"] == folder.read_config(path)
    assert model.manifest.update == settings["update"]
    assert repr(model.manifest.scores) == repr(settings["scores"])
    assert torch.equal(model.tensors["w"], tensors(value)["w"])
    assert folder.verify(path) == model.manifest or name == "new"  # NaN is not equal to itself
    return name


def test_a_published_folder_is_read_back_wherever_it_is_moved(run_dir: Path) -> None:
    moved = run_dir.rename(run_dir.with_name("elsewhere"))
    model = folder.read(moved)
    assert which(moved) == "old"
    assert sorted(model.manifest.files) == [
        "config.yaml",
        "model.safetensors",
        "tokenizer/shared.model",
        "tokenizer/shared.vocab",
    ]
    assert {"python", "torch", "sentencepiece", "nmt-toolkit"} <= model.manifest.versions.keys()
    assert json.loads((moved / "manifest.json").read_text())["format"] == 1
    assert str(run_dir.parent) not in (moved / "manifest.json").read_text()


def test_publishing_the_same_gives_the_same_bytes(run_dir: Path) -> None:
    before = contents(run_dir)
    folder.publish(run_dir, tensors=tensors(1.0), **OLD)
    after = contents(run_dir)
    assert after == before
    assert sorted(after) == ["config.yaml", "manifest.json", "model.safetensors"]


def test_a_kill_leaves_the_old_model_or_the_new_one(
    run_dir: Path, kills: Callable[..., Iterator[int]]
) -> None:
    original, seen = contents(run_dir), []
    for _ in kills(lambda: folder.publish(run_dir, tensors=tensors(2.0), **NEW)):
        seen.append(which(run_dir))
        folder.publish(run_dir, tensors=tensors(2.0), **NEW)  # the run goes on
        assert which(run_dir) == "new"
        assert not list(run_dir.glob(".tmp-*"))
        put_back(run_dir, original)
    assert seen == sorted(seen, reverse=True)
    assert {"old", "new"} == set(seen)
    assert which(run_dir) == "new"


def test_two_kills_leave_one_of_the_models_whole(
    run_dir: Path, kills: Callable[..., Iterator[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "versions", lambda: {"python": "3"})  # slow to find out
    original, seen = contents(run_dir), []
    for _ in kills(lambda: folder.publish(run_dir, tensors=tensors(2.0), **NEW)):
        once_killed = contents(run_dir)
        if once_killed not in seen:
            seen.append(once_killed)
            for _ in kills(lambda: folder.publish(run_dir, tensors=tensors(1.0), **OLD)):
                model = folder.read(run_dir)
                found = (model.config_text, model.manifest.update, float(model.tensors["w"][0, 0]))
                assert found in {(OLD["config_text"], 10, 1.0), (NEW["config_text"], 20, 2.0)}
                put_back(run_dir, once_killed)
            assert which(run_dir) == "old"
        put_back(run_dir, original)
    assert len(seen) > 3


@pytest.mark.parametrize("changed", ["config", "weights"])
def test_a_replacement_of_one_file_is_whole_too(
    run_dir: Path, kills: Callable[..., Iterator[int]], changed: str
) -> None:
    """The configuration alone changes when a finished run is prolonged, the weights in between."""
    original = contents(run_dir)
    config_text = "a: 3\n" if changed == "config" else OLD["config_text"]
    value = 1.0 if changed == "config" else 3.0
    settings = {"config_text": config_text, "scores": {}, "update": 30}
    for _ in kills(lambda: folder.publish(run_dir, tensors=tensors(value), **settings)):
        model = folder.read(run_dir)
        found = (model.config_text, model.manifest.update, float(model.tensors["w"][0, 0]))
        assert found in {(OLD["config_text"], 10, 1.0), (config_text, 30, value)}
        put_back(run_dir, original)


def test_a_kill_at_the_first_publication_leaves_no_model_or_a_whole_one(
    tmp_path: Path, kills: Callable[..., Iterator[int]]
) -> None:
    target = tmp_path / "run"
    make_tokenizer(target)
    for _ in kills(lambda: folder.publish(target, tensors=tensors(1.0), **OLD)):
        try:
            found = which(target)
        except errors.ModelError as error:
            found = str(error)
        assert found == "old" or "manifest.json" in found
        shutil.rmtree(target)
        make_tokenizer(target)
    assert which(target) == "old"


def test_a_full_disk_is_a_file_error_and_harms_nothing(
    tmp_path: Path, run_dir: Path, full_disk: Callable[[int], Any]
) -> None:
    for allowed in range(1000):
        target = tmp_path / f"target{allowed}"
        shutil.copytree(run_dir, target)
        with full_disk(allowed).installed() as disk:
            try:
                folder.publish(target, tensors=tensors(2.0), **NEW)
            except errors.FileError:
                assert disk.has_failed
        assert which(target) in {"old", "new"}
        if not disk.has_failed:
            break
    assert which(target) == "new"


FILES = ["config.yaml", "model.safetensors", "tokenizer/shared.model", "tokenizer/shared.vocab"]


@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "shorter", "longer", "altered"])
def test_damage_is_found_and_named(run_dir: Path, name: str, damage: str) -> None:
    path = run_dir / name
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = {
        "empty": b"",
        "half": data[:middle],
        "shorter": data[:-2],
        "longer": data + b"x",
        "altered": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
    }
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    for command in (folder.verify, folder.read):
        with pytest.raises(errors.ModelError) as caught:
            command(run_dir)
        assert str(caught.value).startswith(f"{path}: ")
        assert "opy the f" in str(caught.value)
        assert "nmt train" in str(caught.value)


@pytest.mark.parametrize("name", ["config.yaml", "model.safetensors", "manifest.json"])
@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_publishing_puts_a_damaged_folder_right(
    run_dir: Path, name: str, content: bytes | None
) -> None:
    path = run_dir / name
    path.unlink() if content is None else path.write_bytes(content)
    folder.publish(run_dir, tensors=tensors(2.0), **NEW)
    assert which(run_dir) == "new"


def test_every_altered_byte_of_the_manifest_that_matters_is_found(run_dir: Path) -> None:
    path = run_dir / "manifest.json"
    data = path.read_bytes()
    whole = folder.verify(run_dir)
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        try:
            is_harmless, message = folder.verify(run_dir) == whole, ""
        except errors.ModelError as error:
            is_harmless, message = False, str(error)
        assert is_harmless or message.startswith(f"{path}: ")


def test_a_manifest_of_another_format_is_refused(run_dir: Path) -> None:
    path = run_dir / "manifest.json"
    path.write_text(sealed.render({"files": []}, 2))
    with pytest.raises(errors.ModelError, match=r"unknown format \(given: 2; this nmt reads 1\)"):
        folder.verify(run_dir)
    path.write_text(sealed.render({"files": []}, 1))
    with pytest.raises(errors.ModelError, match="incomplete"):
        folder.verify(run_dir)


def test_what_is_no_model_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    make_tokenizer(tmp_path / "young")
    cases = {
        "absent": "there is no such model folder",
        "file": "is a file, not a model folder",
        "empty": "is not a model folder",
        "young": "has no model yet, training has not saved one",
    }
    for name, message in cases.items():
        with pytest.raises(errors.ModelError, match=message):
            folder.verify(tmp_path / name)


def test_an_altered_tokenizer_is_not_published_as_good(run_dir: Path) -> None:
    folder.verify_tokenizer(run_dir)
    (run_dir / "tokenizer" / "shared.model").write_bytes(b"Pieces" * 9)
    with pytest.raises(errors.ModelError, match=r"shared\.model: altered.*--fresh"):
        folder.publish(run_dir, tensors=tensors(2.0), **NEW)
    with pytest.raises(errors.ModelError, match=r"shared\.model: altered"):
        folder.verify_tokenizer(run_dir)
    manifest = (run_dir / "manifest.json").read_bytes()
    (run_dir / "manifest.json").write_bytes(manifest[:-9])
    folder.verify_tokenizer(run_dir)
    folder.retract(run_dir)
    folder.verify_tokenizer(run_dir)
    folder.publish(run_dir, tensors=tensors(2.0), **NEW)
    assert which(run_dir) == "new"


def test_a_folder_without_tokenizer_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(errors.ModelError, match="tokenizer: missing or empty"):
        folder.publish(tmp_path, tensors=tensors(1.0), **OLD)


def test_readers_get_one_model_while_another_is_published(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, turns = weights.load_tensors, iter([NEW, OLD, NEW])

    def publish_meanwhile(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
        settings = next(turns, None)
        if settings is not None:
            value = 1.0 if settings is OLD else 2.0
            folder.publish(run_dir, tensors=tensors(value), **settings)
        return load(path, device)

    monkeypatch.setattr(weights, "load_tensors", publish_meanwhile)
    assert which(run_dir) == "new"


def test_a_publication_during_verification_is_no_damage(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, turns = manifests.fault, iter([True])

    def publish_meanwhile(path: Path, *allowed: manifests.FileEntry) -> str | None:
        if next(turns, False):
            folder.publish(run_dir, tensors=tensors(2.0), **NEW)
        return fault(path, *allowed)

    monkeypatch.setattr(manifests, "fault", publish_meanwhile)
    assert folder.verify(run_dir).update == 20


def test_a_folder_that_never_rests_is_given_up(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, count = weights.load_tensors, iter(range(100))

    def publish_meanwhile(path: Path, device: str = "cpu") -> dict[str, torch.Tensor]:
        settings = {**OLD, "update": next(count)}
        folder.publish(run_dir, tensors=tensors(1.0), **settings)
        return load(path, device)

    monkeypatch.setattr(weights, "load_tensors", publish_meanwhile)
    with pytest.raises(errors.ModelError, match="changed 10 times"):
        folder.read(run_dir)


def test_the_default_model_is_the_named_one_then_the_last_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NMT_MODEL", raising=False)
    with pytest.raises(errors.ModelError, match="--model RUN_DIR"):
        folder.default_model()
    folder.record_last_run(Path("runs/one"))
    folder.record_last_run(Path("runs/a name\nof two lines é"))
    path, source = folder.default_model()
    assert path == Path("runs/a name\nof two lines é")
    assert "nmt train" in source
    assert "last-run" in source
    monkeypatch.setenv("NMT_MODEL", "other")
    assert folder.default_model() == (Path("other"), "$NMT_MODEL")
    monkeypatch.setenv("NMT_MODEL", "")
    assert folder.default_model()[0] == path


def test_a_working_directory_that_takes_no_note_is_no_reason_not_to_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".nmt").write_text("a file stands where the folder should be")
    with caplog.at_level(logging.WARNING):
        folder.record_last_run(Path("runs/one"))
    assert "--model runs/one" in caplog.text


def test_what_a_killed_process_left_unfinished_is_swept(run_dir: Path) -> None:
    for name in ("model.safetensors", "config.yaml", "manifest.json"):
        (run_dir / f".tmp-7-{name}").write_bytes(b"cut short")
    folder.publish(run_dir, tensors=tensors(1.0), **OLD)
    names = sorted(os.listdir(run_dir))
    assert names == ["config.yaml", "manifest.json", "model.safetensors", "tokenizer"]


def test_a_decision_is_kept_with_the_model_and_forgotten_with_it(run_dir):
    folder.record_optimized(run_dir, {"precision": "int8", "measured": [{"bleu": 12.5}]})
    manifest = folder.verify(run_dir)
    assert manifest.optimized == {"precision": "int8", "measured": [{"bleu": 12.5}]}
    assert which(run_dir) == "old"
    assert dict(manifest.scores) == OLD["scores"]
    folder.record_optimized(run_dir, {"precision": "bf16"})
    assert folder.verify(run_dir).optimized == {"precision": "bf16"}
    folder.publish(run_dir, tensors=tensors(2.0), **NEW)
    assert folder.verify(run_dir).optimized == {}
    with pytest.raises(errors.ModelError):
        folder.record_optimized(run_dir / "elsewhere", {"precision": "bf16"})


def test_a_kill_while_a_decision_is_written_leaves_the_old_or_the_new(run_dir, kills):
    before = contents(run_dir)
    found = set()

    def decide_twice() -> None:
        for precision in ("int8", "bf16"):
            folder.record_optimized(run_dir, {"precision": precision})

    for _ in kills(decide_twice):
        found.add(folder.verify(run_dir).optimized.get("precision"))
        put_back(run_dir, before)
    assert found == {None, "int8"}
