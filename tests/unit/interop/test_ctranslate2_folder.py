"""An exported folder is whole or not there, says what it was made from, and is verified."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nmt import errors
from nmt.checkpoint import folder, sealed
from nmt.inference import loading
from nmt.interop import ctranslate2_export, ctranslate2_folder

NOTE = ctranslate2_folder.Note(
    quantization="int8",
    positions=(1024, None),
    decoding={"beam_size": 3, "length_penalty": 0.0, "max_length": 50},
    made_from={"model": "demo", "update": 7, "weights_sha256": "ab"},
    versions={"torch": "2"},
    agreement={"greedy": 0.5},
)


@pytest.fixture
def written(make_run: Callable[..., Path], tmp_path: Path) -> Path:
    """A folder with a note, and a file in the place of the model."""
    output = tmp_path / "out"
    with ctranslate2_folder.unfinished(output, make_run()) as path:
        (path / "model.bin").write_bytes(b"weights")
        ctranslate2_folder.write_note(path, NOTE)
    return output


def test_what_was_noted_comes_back(written: Path):
    assert ctranslate2_folder.read(written) == NOTE
    decoding = ctranslate2_folder.read(written).decoding_config()
    assert (decoding.beam_size, decoding.max_length) == (3, 50)


def test_the_tokenizer_goes_along(written: Path):
    assert len(loading.load_texts(written).src.vocab) == 310


@pytest.mark.parametrize("name", ["model.bin", "tokenizer/spm.model", "export.json"])
def test_an_altered_file_is_named(written: Path, name: str):
    data = (written / name).read_bytes()
    (written / name).write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises(errors.ModelError, match=f"{name}: .*altered"):
        ctranslate2_folder.read(written)


def test_a_missing_file_is_named(written: Path):
    (written / "model.bin").unlink()
    with pytest.raises(errors.ModelError, match=r"model\.bin: missing"):
        ctranslate2_folder.read(written)


def test_an_incomplete_note_is_refused(written: Path):
    content = sealed.parse((written / "export.json").read_bytes(), 1)
    del content["positions"]
    (written / "export.json").write_text(sealed.render(content, 1))
    with pytest.raises(errors.ModelError, match=r"export\.json: incomplete.*positions"):
        ctranslate2_folder.read(written)


def test_each_kind_of_folder_is_told_from_the_other(written: Path, make_run):
    with pytest.raises(errors.ModelError, match="is not an exported model"):
        ctranslate2_folder.read(make_run())
    with pytest.raises(errors.ModelError, match="--engine ctranslate2"):
        folder.read(written)


def test_a_failure_leaves_nothing_behind(make_run, tmp_path: Path):
    run_dir = make_run()
    before = sorted(tmp_path.iterdir())

    def fail() -> None:
        with ctranslate2_folder.unfinished(tmp_path / "out", run_dir) as path:
            (path / "model.bin").write_bytes(b"weights")
            assert path.parent == tmp_path  # so that a rename is enough
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten(tmp_path: Path):
    ctranslate2_folder.check_free(tmp_path / "new")
    (tmp_path / "there").mkdir()
    ctranslate2_folder.check_free(tmp_path / "there")
    (tmp_path / "there" / "file").touch()
    for path in (tmp_path / "there", tmp_path / "there" / "file"):
        with pytest.raises(errors.UsageError, match="--output: is there already"):
            ctranslate2_folder.check_free(path)


@pytest.fixture
def _package() -> None:
    pytest.importorskip("ctranslate2", reason="the extra ctranslate2 is not installed")


@pytest.mark.usefixtures("_package")
def test_an_export_says_what_it_was_made_from(make_run, tmp_path: Path, corpus):
    run_dir, output = make_run(model={"tie_embeddings": "none"}, seed=1), tmp_path / "out"
    result = ctranslate2_export.export(run_dir, output, "int8", corpus[:40])
    note = json.loads((output / "export.json").read_text())
    manifest = folder.verify(run_dir)
    assert note["made_from"] == {
        "model": run_dir.name,
        "update": 7,
        "weights_sha256": manifest.files["model.safetensors"].sha256,
    }
    assert note["quantization"] == "int8"
    assert note["agreement"] == {name: found.share for name, found in result.agreements.items()}
    assert set(note["files"]) >= {"model.bin", "config.json", "tokenizer/spm.model"}
    assert result.left_out == {"length_penalty": 1.0}
    assert (output / "model.bin").stat().st_size < (run_dir / "model.safetensors").stat().st_size


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_weights_that_translate_differently_are_an_error_in_float32(
    quantization: str, make_run, tmp_path: Path, corpus, monkeypatch, caplog
):
    build = ctranslate2_export.ctranslate2_spec.build

    def wrong(*args):
        spec = build(*args)
        spec.decoder.embeddings.weight = spec.decoder.embeddings.weight[::-1].copy()
        return spec

    monkeypatch.setattr(ctranslate2_export.ctranslate2_spec, "build", wrong)
    run_dir, output = make_run(model={"tie_embeddings": "none"}, seed=1), tmp_path / "out"
    if quantization == "int8":
        result = ctranslate2_export.export(run_dir, output, quantization, corpus[:40])
        assert result.agreements["greedy"].share < 0.5
        assert "most lines are translated differently" in caplog.text
        return
    with pytest.raises(errors.ModelError, match=r"of \d+ lines differently \(greedy"):
        ctranslate2_export.export(run_dir, output, quantization, corpus[:40])
    assert not output.exists()


def test_one_line_may_differ(tmp_path: Path):
    agreement = ctranslate2_export.Agreement
    ctranslate2_export._insist({"greedy": agreement(9, 10)}, tmp_path)
    ctranslate2_export._insist({"greedy": agreement(490, 500)}, tmp_path)
    with pytest.raises(errors.ModelError, match="11 of 500"):
        ctranslate2_export._insist(
            {"greedy": agreement(500, 500), "beam 5": agreement(489, 500)}, tmp_path
        )


@pytest.mark.usefixtures("_package")
@pytest.mark.parametrize("quantization", ["float32", "int8"])
def test_an_export_that_could_not_be_compared_is_not_written(
    quantization, make_run, tmp_path: Path, corpus
):
    """With room for a single token no translation gets to its end."""
    run_dir = make_run(model={"tie_embeddings": "none"}, seed=1, decoding={"max_length": 1})
    with pytest.raises(errors.ModelError, match="nothing could be compared"):
        ctranslate2_export.export(run_dir, tmp_path / "out", quantization, corpus[:20])
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("_package")
def test_an_export_leaves_torch_as_it_was(make_run, tmp_path: Path, corpus):
    threads = torch.get_num_threads()
    run_dir = make_run(model={"tie_embeddings": "none"}, seed=1)
    ctranslate2_export.export(run_dir, tmp_path / "out", "int8", corpus[:20])
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("_package")
def test_settings_that_ctranslate2_lacks_are_named_and_left_out(make_run, tmp_path: Path, corpus):
    decoding = {"beam_size": 4, "diversity_groups": 2, "no_repeat_ngram_size": 2}
    decoding["max_length_ratio"] = 0.5
    run_dir = make_run(model={"tie_embeddings": "none"}, seed=1, decoding=decoding)
    result = ctranslate2_export.export(run_dir, tmp_path / "out", "float32", corpus[:20])
    assert result.left_out == {
        "diversity_groups": 2,
        "no_repeat_ngram_size": 2,
        "max_length_ratio": 0.5,
        "length_penalty": 1.0,
    }
    note = json.loads((tmp_path / "out" / "export.json").read_text())
    assert note["decoding"]["beam_size"] == 4
