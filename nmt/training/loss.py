"""Label-smoothed cross-entropy of the output layer, without ever keeping the logits.

Logits are by far the largest tensor of a training run: tokens times vocabulary. Here they are made a
chunk of rows at a time, and the gradients of states and weights are made from them on the spot, in
the forward pass; backward only multiplies them by the gradient that comes in.
"""

from typing import Any

import torch
from torch.autograd import function

# Rows at a time: small enough to stay in the cache, large enough for full speed of the products.
CHUNK_ROWS = 256


def smoothed_cross_entropy(
    states_NE: torch.Tensor,
    weight_VE: torch.Tensor,
    targets_N: torch.Tensor,
    smoothing: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the summed smoothed loss (with gradient) and the summed negative log-likelihood.

    The loss of a token is (1 - s) * -log p(target) + s * mean over V of -log p(v).

    Source: Szegedy et al. 2016, section 7, with the uniform distribution over the vocabulary.

    Args:
        states_NE: decoder states at N real tokens.
        weight_VE: the output layer.
        targets_N: int64 target ids.
        smoothing: s in [0, 1).
    """
    device_type = states_NE.device.type
    dtype = states_NE.dtype
    if torch.is_autocast_enabled(device_type):
        dtype = torch.get_autocast_dtype(device_type)
    wants_gradient = torch.is_grad_enabled() and (
        states_NE.requires_grad or weight_VE.requires_grad
    )
    loss, nll = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        states_NE, weight_VE, targets_N, smoothing, dtype, wants_gradient
    )
    return loss, nll


class _LinearCrossEntropy(function.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states_NE: torch.Tensor,
        weight_VE: torch.Tensor,
        targets_N: torch.Tensor,
        smoothing: float,
        dtype: torch.dtype,
        wants_gradient: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sum_dtype = torch.promote_types(weight_VE.dtype, torch.float32)
        loss = torch.zeros((), dtype=sum_dtype, device=states_NE.device)
        nll = torch.zeros_like(loss)
        grad_states_NE = torch.empty_like(states_NE) if wants_gradient else None
        grad_weight_VE = torch.zeros_like(weight_VE) if wants_gradient else None
        with torch.autocast(states_NE.device.type, enabled=False):
            cast_VE = weight_VE.to(dtype)
            for begin in range(0, states_NE.shape[0], CHUNK_ROWS):
                rows = slice(begin, begin + CHUNK_ROWS)
                chunk_CE = states_NE[rows].to(dtype)
                target_C1 = targets_N[rows].unsqueeze(1)
                logits_CV = torch.mm(chunk_CE, cast_VE.t()).to(sum_dtype)
                log_probs_CV = torch.log_softmax(logits_CV, dim=1)
                chunk_nll = -log_probs_CV.gather(1, target_C1).sum()
                uniform = -log_probs_CV.mean(dim=1).sum()
                nll += chunk_nll
                loss += (1.0 - smoothing) * chunk_nll + smoothing * uniform
                if grad_states_NE is None or grad_weight_VE is None:
                    continue
                grad_CV = log_probs_CV.exp_()
                grad_CV -= smoothing / weight_VE.shape[0]
                ones_C1 = torch.full_like(grad_CV[:, :1], smoothing - 1.0)
                cast_CV = grad_CV.scatter_add_(1, target_C1, ones_C1).to(dtype)
                grad_states_NE[rows] = torch.mm(cast_CV, cast_VE)
                grad_weight_VE += torch.mm(cast_CV.t(), chunk_CE)
        ctx.save_for_backward(grad_states_NE, grad_weight_VE)
        ctx.mark_non_differentiable(nll)
        return loss, nll

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        grad_states_NE, grad_weight_VE = ctx.saved_tensors
        factor = grad_outputs[0]
        return (
            grad_states_NE * factor.to(grad_states_NE.dtype),
            grad_weight_VE * factor.to(grad_weight_VE.dtype),
            None,
            None,
            None,
            None,
        )
