"""The work of Muon, divided among the ranks.

Muon turns each matrix of momenta into an orthogonal one by fifteen products of matrices, whose cost
does not depend on the batch: with small batches a quarter of an update. All ranks have the same summed
gradient, so that each of them would do the same. Here each does it for a share of the matrices and gives
the others the new weights, as in the distributed Muon of Liu et al. 2025 (section 2.3), but with whole
matrices. Weights and momenta stay the same on all ranks, which is what checkpoints rely on.
"""

from collections.abc import Sequence
from typing import Any

import torch

from nmt.runtime import distributed

_MOMENTUM = "momentum_buffer"


def divide(muon: torch.optim.Optimizer, group: distributed.Group) -> None:
    """Makes each step of the optimiser one that the ranks of the group do together.

    Args:
        muon: torch's, over whole parameters, that are the same on all ranks; its gradients are, too, at
            each step.
        group: of the run.
    """
    if group.size == 1:
        return
    weights = [weight for settings in muon.param_groups for weight in settings["params"]]
    owners = dict(
        zip(weights, _owners([weight.shape for weight in weights], group.size), strict=True)
    )
    put_aside: dict[torch.Tensor, torch.Tensor] = {}

    def before(*_: Any) -> None:
        # Matrices without a gradient are passed over by the optimiser.
        for weight, owner in owners.items():
            if owner != group.rank and weight.grad is not None:
                put_aside[weight], weight.grad = weight.grad, None

    @torch.no_grad()
    def after(*_: Any) -> None:
        for settings in muon.param_groups:
            for weight in settings["params"]:
                if weight in put_aside:
                    weight.grad = put_aside.pop(weight)
                    _follow(muon.state[weight], weight.grad, settings["momentum"])
        moved = [weight for weight in weights if weight.grad is not None]
        group.share([weight.detach() for weight in moved], [owners[weight] for weight in moved])

    muon.register_step_pre_hook(before)
    muon.register_step_post_hook(after)


def _follow(state: dict[str, Any], gradient: torch.Tensor, momentum: float) -> None:
    """Updates the momentum of a matrix as the optimiser does on the rank that owns it, to the bit."""
    if _MOMENTUM not in state:
        state[_MOMENTUM] = torch.zeros_like(gradient)
    state[_MOMENTUM].lerp_(gradient, 1 - momentum)


def _owners(shapes: Sequence[torch.Size], num_ranks: int) -> list[int]:
    """Returns the rank of each matrix, so that the ranks have about as much to compute.

    The largest first, each to the rank that has least yet (Graham 1969).
    """
    loads = [0] * num_ranks
    owners = [0] * len(shapes)
    costs = [shape.numel() * min(shape) for shape in shapes]
    for index in sorted(range(len(shapes)), key=lambda index: -costs[index]):
        owners[index] = loads.index(min(loads))
        loads[owners[index]] += costs[index]
    return owners
