"""What is refused rather than ignored, and which arithmetic a loaded model has."""

import contextlib
import dataclasses

import pytest
import torch

from nmt import api, errors
from nmt.checkpoint import manifests
from nmt.inference import loading, scorer, translator
from nmt.models import packed, quantized
from nmt.runtime import device as devices


def test_a_float64_model_is_loaded_bit_for_bit(publish, make_model, tmp_path):
    model = make_model("rnn")
    path = publish(tmp_path / "run", "rnn", model, decoding="{precision: fp64}")
    loaded = loading.load(path)
    assert torch.equal(loaded.model.output.weight, model.output.weight)


def test_an_ensemble_computes_in_the_precision_of_the_first(publish, make_model, tmp_path):
    model = make_model("rnn", dtype=torch.float32)
    first = publish(tmp_path / "a", "rnn", model)
    second = publish(tmp_path / "b", "rnn", model, decoding="{precision: fp64}")
    joined = loading.load_all([first, second]).model
    assert {p.dtype for part in joined._models for p in part.parameters()} == {torch.float32}


@pytest.fixture
def model(publish, make_model, tmp_path):
    return api.load(publish(tmp_path / "run", "rnn", make_model("rnn", dtype=torch.float32)))


@pytest.mark.parametrize("num_best", [0, -1])
def test_fewer_than_one_translation_is_refused(model, num_best):
    with pytest.raises(errors.UsageError):
        model.translate_nbest(["a b"], num_best)


def test_a_precision_that_would_be_ignored_is_refused(model):
    with pytest.raises(errors.UsageError):
        model.translate(["a b"], precision="fp64")


def test_an_unknown_precision_is_an_error_of_ours(publish, make_model, tmp_path):
    path = publish(tmp_path / "run", "rnn", make_model("rnn", dtype=torch.float32))
    with pytest.raises(errors.UsageError):
        api.load(path, precision="double")


needs_int8 = pytest.mark.skipif(not packed.has_int8(), reason="this torch has no int8 products")


@needs_int8
@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_int8_finds_nearly_the_scores_of_float32(
    publish, make_model, corpus, tmp_path, monkeypatch, family
):
    monkeypatch.setattr(quantized, "MIN_WEIGHTS", 0)
    path = publish(tmp_path / "run", family, make_model(family, dtype=torch.float32))
    plain, rounded = (loading.load(path, precision=name) for name in ("fp32", "int8"))
    assert rounded.arithmetic.name == "int8"
    assert isinstance(rounded.model.output, packed.Int8Linear)
    sources, targets = corpus[:12], corpus[12:24]
    scores = [
        [
            pair.score
            for pair in scorer.Scorer(
                one.model, one.texts, one.config.decoding, one.arithmetic
            ).score(sources, targets)
        ]
        for one in (plain, rounded)
    ]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[1], rel=0.05)


@needs_int8
@pytest.mark.parametrize("family", ["rnn", "cnn", "transformer"])
def test_int8_translates_a_line_alike_alone_and_in_company(
    publish, make_model, corpus, tmp_path, monkeypatch, family
):
    monkeypatch.setattr(quantized, "MIN_WEIGHTS", 0)
    path = publish(tmp_path / "run", family, make_model(family, dtype=torch.float32))
    loaded = loading.load(path, precision="int8")
    decoding = loaded.config.decoding.model_copy(update={"max_length": 12})
    together, alone = (
        translator.Translator(
            loaded.model, loaded.texts, decoding, loaded.arithmetic, batch_sentences=size
        ).translate(corpus[:24])
        for size in (24, 1)
    )
    assert [found[0].tokens for found in together] == [found[0].tokens for found in alone]


def _decide(path, precision):
    stored = manifests.read(path)
    manifest = dataclasses.replace(stored.manifest, optimized={"precision": precision})
    manifests.write(path, manifests.Stored(manifest))


def test_auto_is_float32_until_a_decision_and_then_what_was_decided(
    publish, make_model, tmp_path, caplog
):
    path = publish(tmp_path / "run", "rnn", make_model("rnn", dtype=torch.float32))
    assert loading.load(path, device="cpu").arithmetic.name == "fp32"
    _decide(path, "bf16")
    with caplog.at_level("INFO", "nmt"):
        assert loading.load(path, device="cpu").arithmetic.name == "bf16"
    assert caplog.messages == ["precision: bf16, which `nmt optimize` chose"]
    assert loading.load(path, device="cpu", precision="fp32").arithmetic.name == "fp32"


def test_a_decision_that_this_torch_cannot_carry_out_is_said(
    publish, make_model, tmp_path, caplog, monkeypatch
):
    path = publish(tmp_path / "run", "rnn", make_model("rnn", dtype=torch.float32))
    _decide(path, "int8")
    monkeypatch.setattr(packed, "has_int8", lambda: False)
    assert loading.load(path, device="cpu").arithmetic.name == "fp32"
    assert "lacks int8" in caplog.text


def test_a_decision_in_the_configuration_is_not_overruled(publish, make_model, tmp_path):
    model = make_model("rnn", dtype=torch.float32)
    path = publish(tmp_path / "run", "rnn", model, decoding="{precision: fp32}")
    _decide(path, "bf16")
    assert loading.load(path, device="cpu").arithmetic.name == "fp32"


def test_int8_is_refused_where_it_is_not_for():
    with pytest.raises(errors.UsageError, match=r"^precision: int8 is for the CPU \(device: meta"):
        devices.inference_arithmetic("int8", torch.device("meta"))
    with pytest.raises(errors.UsageError, match=r"\(given: int8\)\. Allowed: auto, fp32"):
        devices.training_arithmetic("int8", torch.device("cpu"))


@pytest.mark.parametrize(("is_native", "wanted"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bf16_trains_in_fp16(monkeypatch, is_native, wanted):
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())

    def is_supported(including_emulation: bool = True) -> bool:
        return is_native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert devices.training_arithmetic("auto", torch.device("cuda", 1)).name == wanted
