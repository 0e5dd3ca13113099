"""What is refused rather than ignored, and which arithmetic a loaded model has."""

import pytest
import torch

from nmt import api, errors
from nmt.inference import loading


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
