"""Optimisers by name, what they decay, and that nothing they remember is lost."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nmt import errors
from nmt.checkpoint import weights
from nmt.config import schema
from nmt.models import layers
from nmt.training import optimizers

MakeConfig = Callable[..., schema.TrainingConfig]
KINDS = pytest.mark.parametrize("kind", ["adam", "adamw"])
ALL_KINDS = pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])


class Toy(nn.Module):
    """A matrix, a bias, a norm, and lengths as weight normalisation has them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.matrix = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.bias = nn.Parameter(torch.randn(3, generator=generator))
        self.norm = nn.LayerNorm(4)
        self.length = nn.Parameter(torch.randn(3, 1, generator=generator))
        self.kernel = nn.Parameter(torch.randn(2, 3, 2, generator=generator))


def update(
    model: nn.Module, optimizer: torch.optim.Optimizer, number: int, *, skip: str = ""
) -> None:
    """One update with gradients that the number decides; `skip` names one without gradient."""
    generator = torch.Generator().manual_seed(number)
    for name, parameter in model.named_parameters():
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = None if name == skip else gradient
    for group in optimizer.param_groups:
        group["lr"] = 0.01 / number
    for part in optimizers.parts(optimizer):
        part.step()


def copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype, name


@ALL_KINDS
@pytest.mark.parametrize("skip", ["", "bias"])
def test_restored_moments_give_bit_identical_updates(
    training_config: MakeConfig, tmp_path, kind: str, skip: str
) -> None:
    config = training_config(optimizer=kind)
    first = Toy()
    first_optimizer = optimizers.build(config, first)
    for number in (1, 2, 3):
        update(first, first_optimizer, number, skip=skip)
    weights.save_tensors(tmp_path / "o", optimizers.state_tensors(first_optimizer))
    second = Toy()
    second.load_state_dict(copies(first.state_dict()))
    second_optimizer = optimizers.build(config, second)
    optimizers.restore(second_optimizer, weights.load_tensors(tmp_path / "o"))
    for number in (4, 5):
        update(first, first_optimizer, number)
        update(second, second_optimizer, number)
        assert_equal(dict(second.named_parameters()), dict(first.named_parameters()))
    assert_equal(
        optimizers.state_tensors(second_optimizer), optimizers.state_tensors(first_optimizer)
    )


@ALL_KINDS
def test_without_the_moments_updates_differ(training_config: MakeConfig, kind: str) -> None:
    """So the test above compares something."""
    config = training_config(optimizer=kind)
    first, second = Toy(), Toy()
    first_optimizer = optimizers.build(config, first)
    update(first, first_optimizer, 1)
    second.load_state_dict(copies(first.state_dict()))
    update(first, first_optimizer, 2)
    update(second, optimizers.build(config, second), 2)
    for name, parameter in first.named_parameters():
        assert not torch.equal(parameter, dict(second.named_parameters())[name])


@KINDS
def test_state_tensors_are_named_by_moment_and_parameter(
    training_config: MakeConfig, kind: str
) -> None:
    model = Toy()
    optimizer = optimizers.build(training_config(optimizer=kind), model)
    assert optimizers.state_tensors(optimizer) == {}
    optimizers.restore(optimizer, {})
    update(model, optimizer, 1)
    names = {f"{name}.{i}" for name in ("step", "exp_avg", "exp_avg_sq") for i in range(6)}
    assert optimizers.state_tensors(optimizer).keys() == names


@KINDS
def test_restoring_keeps_the_settings_of_the_configuration(
    training_config: MakeConfig, kind: str
) -> None:
    model = Toy()
    optimizer = optimizers.build(training_config(optimizer=kind), model)
    update(model, optimizer, 1)
    other = optimizers.build(training_config(optimizer=kind, betas=(0.5, 0.6), eps=0.1), model)
    optimizers.restore(other, copies(optimizers.state_tensors(optimizer)))
    assert {group["betas"] for group in other.param_groups} == {(0.5, 0.6)}
    assert {group["eps"] for group in other.param_groups} == {0.1}


@ALL_KINDS
def test_every_weight_of_a_real_model_is_in_one_group(
    training_config: MakeConfig,
    family: tuple[dict, dict],
    build_model: Callable[..., nn.Module],
    kind: str,
) -> None:
    model = build_model(family)
    optimizer = optimizers.build(training_config(optimizer=kind), model)
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


@KINDS
def test_moments_and_epsilon_are_those_of_the_configuration(
    training_config: MakeConfig, kind: str
) -> None:
    """By hand: gradients 1 and -2, betas 0.5 and 0.75, epsilon 1, rate 1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    config = training_config(
        optimizer=kind, betas=(0.5, 0.75), eps=1.0, learning_rate=1.0, weight_decay=0.0
    )
    optimizer = optimizers.build(config, model)
    model.weight.grad = torch.ones(1, 1)
    optimizer.step()
    assert model.weight.item() == pytest.approx(-0.5)  # 1 / (1 + 1)
    model.weight.grad = torch.full((1, 1), -2.0)
    optimizer.step()
    mean = (0.5 * 0.5 * 1.0 + 0.5 * -2.0) / (1 - 0.5**2)
    square = (0.75 * 0.25 * 1.0 + 0.25 * 4.0) / (1 - 0.75**2)
    assert model.weight.item() == pytest.approx(-0.5 - mean / (square**0.5 + 1.0))


@KINDS
def test_frozen_parameters_are_left_out(training_config: MakeConfig, kind: str) -> None:
    model = Toy()
    model.matrix.requires_grad_(False)
    optimizer = optimizers.build(training_config(optimizer=kind), model)
    grouped = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(grouped) == 5
    assert all(parameter is not model.matrix for parameter in grouped)


def test_a_model_of_matrices_alone_can_be_trained(training_config: MakeConfig) -> None:
    model = nn.Linear(3, 3, bias=False)
    optimizer = optimizers.build(training_config(optimizer="adamw"), model)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01]


@KINDS
def test_decay_applies_to_matrices_under_adamw_only(training_config: MakeConfig, kind: str) -> None:
    model = Toy()
    before = copies(dict(model.named_parameters()))
    optimizer = optimizers.build(training_config(optimizer=kind, weight_decay=0.5), model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    optimizer.step()
    decayed = {"matrix", "kernel"} if kind == "adamw" else set()
    for name, parameter in model.named_parameters():
        factor = 1.0 - 0.1 * 0.5 if name in decayed else 1.0
        torch.testing.assert_close(parameter.detach(), factor * before[name])


def test_norms_biases_and_lengths_of_real_models_do_not_decay(
    training_config: MakeConfig,
    family: tuple[dict, dict],
    build_model: Callable[..., nn.Module],
) -> None:
    model = build_model(family)
    optimizer = optimizers.build(training_config(optimizer="adamw", weight_decay=0.5), model)
    decayed = {
        id(parameter)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if group["weight_decay"] == 0.5
    }
    names = {name for name, parameter in model.named_parameters() if id(parameter) in decayed}
    assert {"src_embedding.weight", "output.weight"} <= names
    wrong = ("bias", "length", "norm.weight")
    assert not [name for name in names if name.endswith(wrong)]
    grouped = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Five Newton-Schulz iterations, as Jordan et al. 2024 give them, in bfloat16."""
    x = matrix.bfloat16()
    x = x.T if matrix.shape[0] > matrix.shape[1] else x
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_muon_moves_hidden_matrices_and_adamw_the_others(training_config: MakeConfig) -> None:
    config = training_config(
        optimizer="muon", muon_momentum=0.8, muon_rate_factor=3.0, weight_decay=0.25
    )
    model, reference = Toy(), Toy()
    optimizer = optimizers.build(config, model)
    adamw = optimizers.build(training_config(optimizer="adamw", weight_decay=0.25), reference)
    for number in (1, 2):
        update(reference, adamw, number)
    moment, matrix = torch.zeros(3, 4), model.matrix.detach().clone()
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        gradients = [torch.randn(p.shape, generator=generator) for p in model.parameters()]
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient.clone()
        optimizers.set_rate(optimizer, 0.01 / number)
        optimizers.step(optimizer, torch.tensor(True))
        moment = 0.8 * moment + 0.2 * gradients[0]
        direction = orthogonal(0.2 * gradients[0] + 0.8 * moment)
        rate = 3.0 * 0.01 / number
        matrix = matrix * (1 - rate * 0.25) - rate * 0.2 * 4**0.5 * direction
    torch.testing.assert_close(model.matrix.detach(), matrix, rtol=1e-2, atol=1e-3)
    for name in ("bias", "norm.weight", "length", "kernel"):
        assert torch.equal(model.get_parameter(name), reference.get_parameter(name)), name
    assert not torch.equal(model.matrix, reference.matrix)


def test_muon_leaves_embeddings_and_the_output_layer_to_adamw(
    training_config: MakeConfig,
    family: tuple[dict, dict],
    build_model: Callable[..., nn.Module],
) -> None:
    model = build_model(family)
    muon, _ = optimizers.parts(optimizers.build(training_config(optimizer="muon"), model))
    ids = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in ids}
    assert names
    assert all(model.get_parameter(name).dim() == 2 for name in names)
    assert not [name for name in names if "embedding" in name or name.startswith("output")]
    # Learned positions are rows that are looked up, as embeddings are.
    tables = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, layers.LearnedPositions)
    }
    assert not tables & ids
    assert bool(tables) == (family[0]["type"] == "cnn")


def test_a_torch_without_muon_is_told_apart(
    training_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(errors.ConfigError, match="muon needs torch"):
        optimizers.build(training_config(optimizer="muon"), Toy())


def test_muon_without_hidden_matrices_is_refused(training_config: MakeConfig) -> None:
    model = Toy()
    model.matrix.requires_grad_(False)
    with pytest.raises(errors.ConfigError, match="no matrix of a hidden layer"):
        optimizers.build(training_config(optimizer="muon"), model)


def test_muon_alone_trains_where_only_matrices_are_left(training_config: MakeConfig) -> None:
    model = nn.Linear(3, 3, bias=False)
    optimizer = optimizers.build(training_config(optimizer="muon"), model)
    assert isinstance(optimizer, torch.optim.Muon)


@pytest.mark.parametrize("num_before", [0, 2])
@pytest.mark.parametrize("is_taken", [False, True])
def test_a_step_that_is_undone_leaves_no_trace(
    training_config: MakeConfig, num_before: int, is_taken: bool
) -> None:
    config = training_config(optimizer="muon")
    model, reference = Toy(), Toy()
    built = [optimizers.build(config, one) for one in (model, reference)]
    for number in range(num_before):
        for one, optimizer in zip((model, reference), built, strict=True):
            update(one, optimizer, number + 1)
    generator = torch.Generator().manual_seed(9)
    gradients = {n: torch.randn(p.shape, generator=generator) for n, p in model.named_parameters()}
    for one, optimizer in zip((model, reference), built, strict=True):
        for name, parameter in one.named_parameters():
            parameter.grad = gradients[name] if is_taken else gradients[name] * float("nan")
        for part in optimizers.parts(optimizer):
            if one is model:
                optimizers.step_and_undo(part, torch.tensor(is_taken))
            elif is_taken:
                part.step()
    assert_equal(dict(model.named_parameters()), dict(reference.named_parameters()))
    found, wanted = (optimizers.state_tensors(optimizer) for optimizer in built)
    if num_before or is_taken:
        assert_equal(found, wanted)
    else:
        assert not any(tensor.any() for tensor in found.values()), "all moments begin at zero"
