"""Tensors on disk."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from nmt import errors
from nmt.checkpoint import weights


def some_tensors() -> dict[str, torch.Tensor]:
    return {
        "b.weight": torch.randn(3, 4, generator=torch.Generator().manual_seed(1)),
        "a.bias": torch.arange(5),
        "scale": torch.tensor(0.1, dtype=torch.float64),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "bits": torch.tensor([True, False]),
        "state": torch.arange(7, dtype=torch.uint8),
        "empty": torch.zeros(0, 3),
        "odd": torch.tensor([float("nan"), float("-inf"), -0.0]),
    }


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype
        and left[name].shape == right[name].shape
        and left[name].numpy(force=True).tobytes() == right[name].numpy(force=True).tobytes()
        if left[name].dtype != torch.bfloat16
        else torch.equal(left[name], right[name])
        for name in left
    )


def test_save_and_load_is_identity(tmp_path: Path) -> None:
    weights.save_tensors(tmp_path / "x.safetensors", some_tensors())
    assert same(weights.load_tensors(tmp_path / "x.safetensors"), some_tensors())


def test_equal_tensors_give_equal_bytes() -> None:
    tensors = some_tensors()
    backwards = {name: tensors[name] for name in reversed(tensors)}
    strided = {**tensors, "b.weight": tensors["b.weight"].t().contiguous().t()}
    assert weights.serialize(backwards) == weights.serialize(tensors)
    assert weights.serialize(strided) == weights.serialize(tensors)


def test_tensors_that_share_memory_are_written_in_full(tmp_path: Path) -> None:
    whole = torch.arange(6.0)
    tensors = {"whole": whole, "again": whole, "part": whole[2:4]}
    weights.save_tensors(tmp_path / "x.safetensors", tensors)
    assert same(weights.load_tensors(tmp_path / "x.safetensors"), tensors)


def test_loaded_tensors_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    weights.save_tensors(path, {"a": torch.ones(4000)})
    loaded = weights.load_tensors(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(loaded["a"], torch.ones(4000))
    loaded["a"].add_(1)


class Tied(nn.Module):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 2)
        self.output = nn.Linear(2, size)
        self.output.weight = self.embedding.weight
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


def test_tied_parameters_are_saved_once_and_scratch_buffers_never() -> None:
    assert list(weights.module_tensors(Tied())) == ["embedding.weight", "output.bias", "kept"]


def test_load_into_fills_tied_parameters() -> None:
    source, target = Tied(), Tied()
    source.kept += 1
    weights.load_into(target, weights.module_tensors(source), "x")
    assert target.output.weight is target.embedding.weight
    assert same(weights.module_tensors(target), weights.module_tensors(source))
    assert target.embedding.weight.requires_grad


def test_misfits_are_listed_together_and_nothing_is_loaded() -> None:
    target = Tied()
    before = {name: value.clone() for name, value in weights.module_tensors(target).items()}
    tensors = {
        "embedding.weight": torch.ones(3, 2),
        "output.bias": torch.ones(4),
        "stray": torch.ones(1),
    }
    with pytest.raises(errors.ModelError) as caught:
        weights.load_into(target, tensors, "here")
    message = str(caught.value)
    assert message.startswith("here: ")
    assert "missing: kept; unexpected: stray; misshapen: output.bias is [4] for [3]" in message
    assert same(weights.module_tensors(target), before)


def test_long_lists_of_misfits_are_cut() -> None:
    with pytest.raises(errors.ModelError, match="t19 and 5 more"):
        weights.check_fit({f"t{number}": () for number in range(25)}, {}, "here")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 60, -1])
def test_a_torn_file_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(weights.serialize(some_tensors())[:length])
    with pytest.raises(errors.ModelError, match=r"x\.safetensors: torn.*nmt train"):
        weights.load_tensors(path)


def test_garbage_and_absence_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(errors.ModelError, match=r"x\.safetensors: missing"):
        weights.load_tensors(path)
    path.write_text("<html>not found</html>" * 50)
    with pytest.raises(errors.ModelError, match=r"x\.safetensors: torn, or not"):
        weights.load_tensors(path)
    with pytest.raises(errors.FileError, match="cannot be read"):
        weights.load_tensors(tmp_path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_pickles_are_never_loaded(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    else:
        torch.save({"a": torch.ones(2)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(errors.ModelError, match="pickles are never loaded"):
        weights.load_tensors(path)


def test_a_tar_of_old_torch_is_refused_as_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"sys_info".ljust(257, b"\0") + b"ustar\x0000")
    with pytest.raises(errors.ModelError, match="pickles are never loaded"):
        weights.load_tensors(path)


def test_no_length_of_the_header_is_mistaken_for_a_pickle(tmp_path: Path) -> None:
    """The first byte of a safetensors file is the lowest one of a length, 0x80 among them."""
    path, starts = tmp_path / "x.safetensors", set()
    for length in range(1, 400, 8):
        tensors = {"n" * length: torch.ones(1)}
        weights.save_tensors(path, tensors)
        starts.add(path.read_bytes()[0])
        assert same(weights.load_tensors(path), tensors)
    assert 0x80 in starts
