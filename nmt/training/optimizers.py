"""The optimisers by name."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from nmt import errors
from nmt.config import schema
from nmt.models import layers
from nmt.runtime import distributed
from nmt.training import division, layouts, selection

# How much of the rate of the update a group of parameters gets.
FACTOR = "rate_factor"


class MuonWithAdamW:
    """Muon for the matrices of hidden layers, AdamW for all else.

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; rates are
    adjusted as in Liu et al. 2025, section 2.2, so that one rate suits both. Tensors of more
    dimensions (kernels of convolutions) are AdamW's here.
    """

    def __init__(self, muon: torch.optim.Optimizer, adamw: torch.optim.Optimizer) -> None:
        """Takes both; together they have every trained parameter once."""
        self.parts = (muon, adamw)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [group for part in self.parts for group in part.param_groups]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops all gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


AnyOptimizer = torch.optim.Optimizer | MuonWithAdamW


def build(
    config: schema.TrainingConfig, model: nn.Module, group: distributed.Group | None = None
) -> AnyOptimizer:
    """Returns the optimiser of a run, over the parameters that are not frozen.

    Weight decay (adamw and muon; Loshchilov and Hutter 2019) applies to matrices; norms, biases and
    the lengths of weight normalisation are left alone.

    Args:
        config: optimiser, moments, decay, factors of the rate. The rate is set at each update.
        model: the model whose parameters are trained.
        group: the ranks that share the work of a step where that pays, or None for this one alone.

    Raises:
        errors.ConfigError: a pattern of `rate_factors` names nothing; Muon has nothing to train, or
            this torch has no Muon.
    """
    factors = selection.rate_factors(config, model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "fused": True,
    }
    if config.optimizer == "adam":
        return torch.optim.Adam(_groups(trained, factors), **settings)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(_decayed(trained, factors, config), **settings)
    if not hasattr(torch.optim, "Muon"):
        raise errors.ConfigError(
            f"training.optimizer: muon needs torch 2.9 or newer (given: {torch.__version__}). "
            "Take adamw."
        )
    hidden = _hidden_matrices(model)
    others = {name: p for name, p in trained.items() if name not in hidden}
    matrices = {name: p for name, p in trained.items() if name in hidden}
    if not matrices:
        raise errors.ConfigError(
            "training.optimizer: muon has no matrix of a hidden layer to train (given: freeze "
            f"{', '.join(config.freeze) or 'nothing'}). Take adamw, or freeze less."
        )
    muon_factors = {name: factor * config.muon_rate_factor for name, factor in factors.items()}
    muon = torch.optim.Muon(
        _groups(matrices, muon_factors),
        lr=config.learning_rate,
        momentum=config.muon_momentum,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    division.divide(muon, group or distributed.Alone())
    if not others:
        return muon
    return MuonWithAdamW(muon, torch.optim.AdamW(_decayed(others, factors, config), **settings))


def parts(optimizer: AnyOptimizer) -> tuple[torch.optim.Optimizer, ...]:
    """Returns the optimisers of torch that an optimiser is made of."""
    return optimizer.parts if isinstance(optimizer, MuonWithAdamW) else (optimizer,)


def set_rate(optimizer: AnyOptimizer, rate: float) -> None:
    """Sets the rate of the next step, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(FACTOR, 1.0)


def step(optimizer: AnyOptimizer, is_taken: torch.Tensor) -> None:
    """Goes one step along the gradient; or none, with weights and moments as they were.

    Which of the two is known on the device only, and the host does not wait for it.

    Args:
        optimizer: with the gradient at its parameters.
        is_taken: bool on the device, laid out as `layouts.Layout.replicated` does it.
    """
    for part in parts(optimizer):
        if getattr(part, "_step_supports_amp_scaling", False):
            # How GradScaler tells a fused optimiser; the kernel itself leaves everything alone.
            part.found_inf = (~is_taken).float()  # type: ignore[attr-defined]
            part.step()
            del part.found_inf  # type: ignore[attr-defined]
        elif is_taken.device.type != "cpu":
            step_and_undo(part, is_taken)
        elif is_taken:
            # Nothing is queued on a CPU, so that asking waits for nothing, and saves the copies.
            part.step()


@torch.no_grad()
def step_and_undo(optimizer: torch.optim.Optimizer, is_taken: torch.Tensor) -> None:
    """Steps, then puts back what was there before if the step should not have been taken.

    Args:
        optimizer: one whose kernels do not know steps that are not taken.
        is_taken: bool, on the device.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    before = [weight.clone() for weight in weights]
    states = {
        weight: {name: tensor.clone() for name, tensor in optimizer.state[weight].items()}
        for weight in weights
        if weight in optimizer.state
    }
    optimizer.step()
    for weight, old in zip(weights, before, strict=True):
        weight.copy_(torch.where(is_taken, weight, old))
        for name, tensor in optimizer.state[weight].items():
            # What the step has made anew begins at zero, as all of torch's moments do.
            old = states.get(weight, {}).get(name, torch.zeros_like(tensor))
            if isinstance(tensor, torch.Tensor):
                tensor.copy_(torch.where(is_taken, tensor, old))


def state_tensors(optimizer: AnyOptimizer) -> dict[str, torch.Tensor]:
    """Returns all that the optimiser remembers, as named tensors (`exp_avg.17`).

    The names of a second part have its number before them (`1.exp_avg.17`).
    """
    return {
        f"{prefix}{name}.{index}": tensor
        for prefix, part in _prefixed(optimizer)
        for index, entries in part.state_dict()["state"].items()
        for name, tensor in entries.items()
    }


def restore(
    optimizer: AnyOptimizer,
    tensors: Mapping[str, torch.Tensor],
    layout: layouts.Layout | None = None,
) -> None:
    """Sets what the optimiser remembers to what `state_tensors` returned.

    Args:
        optimizer: over the same parameters.
        tensors: by name, whole.
        layout: of the parameters, or None if they are whole.
    """
    layout = layout or layouts.Whole()
    for prefix, part in _prefixed(optimizer):
        weights = [weight for group in part.param_groups for weight in group["params"]]
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in tensors.items():
            own, _, rest = key.rpartition(".")
            if own.startswith(prefix) and own.removeprefix(prefix).count(".") == 0:
                laid_out = layout.part(tensor, weights[int(rest)])
                state.setdefault(int(rest), {})[own.removeprefix(prefix)] = laid_out
        groups = part.state_dict()["param_groups"]
        part.load_state_dict({"state": state, "param_groups": groups})


def _prefixed(optimizer: AnyOptimizer) -> list[tuple[str, torch.optim.Optimizer]]:
    return [(f"{n}." if n else "", part) for n, part in enumerate(parts(optimizer))]


def _groups(
    parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float], **settings: Any
) -> list[dict[str, Any]]:
    """Returns one group for each factor of the rate, in the order of their first parameters."""
    found: dict[float, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        found.setdefault(factors[name], []).append(parameter)
    return [{"params": params, FACTOR: factor, **settings} for factor, params in found.items()]


def _decayed(
    parameters: Mapping[str, nn.Parameter],
    factors: Mapping[str, float],
    config: schema.TrainingConfig,
) -> list[dict[str, Any]]:
    """Returns the groups of matrices, which decay, and of others, which do not."""
    matrices = {name: p for name, p in parameters.items() if _is_matrix(p)}
    others = {name: p for name, p in parameters.items() if name not in matrices}
    return [
        *_groups(matrices, factors, weight_decay=config.weight_decay),
        *_groups(others, factors, weight_decay=0.0),
    ]


def _hidden_matrices(model: nn.Module) -> set[str]:
    """Returns the names of the matrices between embeddings (of positions, too) and output layer."""
    output = getattr(model, "output", None)
    outer_ids = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, nn.Embedding | layers.LearnedPositions) or module is output
        for parameter in module.parameters()
    }
    return {
        name
        for name, p in model.named_parameters()
        if p.dim() == 2 and _is_matrix(p) and id(p) not in outer_ids
    }


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Returns whether a parameter maps vectors; a column of lengths does not."""
    return parameter.dim() > 1 and min(parameter.shape) > 1
