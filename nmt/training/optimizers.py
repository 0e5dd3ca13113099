"""The optimisers by name."""

from typing import Any

import torch
from torch import nn

from nmt.config import schema


def build(config: schema.TrainingConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Returns the optimiser of a run.

    Weight decay (adamw, Loshchilov and Hutter 2019) applies to matrices; norms, biases and the
    lengths of weight normalisation are left alone.

    Args:
        config: optimiser, moments, decay. The rate is set at each update.
        model: the model whose parameters are trained.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "betas": config.betas,
        "eps": config.eps,
        "fused": True,
    }
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, **settings)
    decayed = [parameter for parameter in parameters if _is_matrix(parameter)]
    others = [parameter for parameter in parameters if not _is_matrix(parameter)]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], **settings)


def _is_matrix(parameter: nn.Parameter) -> bool:
    """Returns whether a parameter maps vectors; a column of lengths does not."""
    return parameter.dim() > 1 and min(parameter.shape) > 1


def state_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Returns all that the optimiser remembers, as named tensors (`exp_avg.17`)."""
    return {
        f"{name}.{index}": tensor
        for index, entries in optimizer.state_dict()["state"].items()
        for name, tensor in entries.items()
    }


def restore(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    """Sets what the optimiser remembers to what `state_tensors` returned."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, index = key.rsplit(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
