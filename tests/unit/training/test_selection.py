"""Frozen parameters and rates of their own, by name pattern."""

from collections.abc import Callable

import pytest
from torch import nn

from nmt import errors
from nmt.config import schema
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


def test_freezing_everything_is_refused(training_config: MakeConfig, model: nn.Module) -> None:
    with pytest.raises(errors.ConfigError, match="nothing is left"):
        selection.freeze(training_config(freeze=("*",)), model)
