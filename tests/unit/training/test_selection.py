"""Frozen parameters and rates of their own, by name pattern."""

from collections.abc import Callable

import pytest
from torch import nn

from nmt import errors
from nmt.config import schema
from nmt.models import seq2seq
from nmt.training import optimizers, selection

MakeConfig = Callable[..., schema.TrainingConfig]


@pytest.fixture
def model(family: tuple[dict, dict], build_model: Callable[..., nn.Module]) -> nn.Module:
    return build_model(family)


def trained(model: nn.Module) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_frozen_is_what_the_patterns_name(training_config: MakeConfig, model: nn.Module) -> None:
    selection.freeze(training_config(freeze=("encoder.*", "src_embedding*")), model)
    names = {name for name, _ in model.named_parameters()}
    assert trained(model) == {n for n in names if not n.startswith(("encoder.", "src_emb"))}


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])
def test_each_parameter_has_the_factor_of_its_first_pattern(
    training_config: MakeConfig, model: nn.Module, kind: str
) -> None:
    given = {"encoder.*": 0.5, "*embedding*": 0.0625, "encoder*": 7.0}
    config = training_config(freeze=("output*",), rate_factors=given, optimizer=kind)
    selection.freeze(config, model)
    optimizer = optimizers.build(config, model)
    optimizers.set_rate(optimizer, 2.0)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    found = {name: rates.get(id(p)) for name, p in model.named_parameters()}
    for name, rate in found.items():
        if name.startswith("output"):
            assert rate is None
        elif name.startswith("encoder."):
            assert rate == 1.0, name
        else:
            assert rate == (0.125 if "embedding" in name else 2.0), name


def test_a_pattern_that_names_nothing_is_refused_with_near_names(
    training_config: MakeConfig, model: nn.Module
) -> None:
    with pytest.raises(errors.ConfigError, match=r"freeze: .*given: src_embeding.*src_embedding"):
        selection.freeze(training_config(freeze=("src_embeding.weight",)), model)
    assert trained(model) == {name for name, _ in model.named_parameters()}
    with pytest.raises(errors.ConfigError, match=r"rate_factors: .*given: Encoder"):
        selection.rate_factors(training_config(rate_factors={"Encoder.*": 2.0}), model)


def test_a_factor_on_what_is_frozen_is_refused(
    training_config: MakeConfig, model: nn.Module
) -> None:
    config = training_config(freeze=("output*",), rate_factors={"output*": 2.0})
    selection.freeze(config, model)
    with pytest.raises(errors.ConfigError, match="no parameter that is trained"):
        selection.rate_factors(config, model)


@pytest.fixture
def tied() -> nn.Module:
    """A model whose embeddings and output layer are one matrix."""
    side = {"type": "rnn", "embedding_size": 8, "hidden_size": 8}
    config = schema.ModelConfig.model_validate({"encoder": side, "decoder": side})
    return seq2seq.build(config, 13, 13, shared=True)


@pytest.mark.parametrize("pattern", ["src_embedding.*", "output.weight"])
def test_tied_parameters_have_all_their_names(
    training_config: MakeConfig,
    tied: nn.Module,
    pattern: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = training_config(freeze=(pattern,))
    with caplog.at_level("INFO", "nmt"):
        selection.freeze(config, tied)
    assert not tied.output.weight.requires_grad
    others = {"src_embedding.weight", "tgt_embedding.weight", "output.weight"} - {
        pattern.replace("*", "weight")
    }
    told = {line.split(": ")[1].split(" is frozen")[0] for line in caplog.messages}
    assert told == others


@pytest.mark.parametrize("pattern", ["src_embedding.*", "output.weight"])
def test_a_factor_of_a_tied_parameter_may_have_any_of_its_names(
    training_config: MakeConfig, tied: nn.Module, pattern: str
) -> None:
    found = selection.rate_factors(training_config(rate_factors={pattern: 3.0}), tied)
    assert found.pop("src_embedding.weight") == 3.0
    assert set(found.values()) == {1.0}


def test_freezing_everything_is_refused(training_config: MakeConfig, model: nn.Module) -> None:
    with pytest.raises(errors.ConfigError, match="nothing is left"):
        selection.freeze(training_config(freeze=("*",)), model)
