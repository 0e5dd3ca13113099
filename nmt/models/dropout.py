"""Dropout (Srivastava et al. 2014), with random numbers drawn 16 bits at a time on CPU.

torch draws a whole random number for every element, which is a fifth of the time of a training
update here. Sixteen bits decide as well: the rate is met to within 1 / 65,536, and every element is
still decided on its own.
"""

from typing import Any

import torch
from torch.autograd import function
from torch.nn import functional as F

# 16 random bits, read as a signed number, are uniform over this range.
LOWEST, COUNT = -(2**15), 2**16


def dropout(states: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Returns the states with a share of elements zero and the others scaled up to make up for it.

    Args:
        states: any shape.
        rate: the share, in [0, 1).
        training: whether anything is dropped at all.
    """
    if not training or is_negligible(rate):
        return states
    if states.device.type != "cpu":
        return F.dropout(states, rate)
    dropped: torch.Tensor = _Dropout.apply(states, rate)  # type: ignore[no-untyped-call]
    return dropped


def is_negligible(rate: float) -> bool:
    """Returns whether a rate is nearer to none than to the least that can be drawn."""
    return round(rate * COUNT) == 0


class _Dropout(function.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, rate: float) -> torch.Tensor:
        factors = random_factors(states, rate)
        ctx.save_for_backward(factors)
        return torch.mul(states, factors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factors,) = ctx.saved_tensors
        return torch.mul(grad_outputs[0], factors), None


def random_factors(states: torch.Tensor, rate: float) -> torch.Tensor:
    """Returns what dropout multiplies states by: zeros at that rate, 1 / (1 - rate) elsewhere.

    Args:
        states: on CPU; the factors have its shape and dtype, to which they are rounded.
        rate: below 1, not negligible.
    """
    kept = _kept(states, rate)
    factor = torch.tensor(1.0 / (1.0 - rate), dtype=states.dtype)
    if states.element_size() == kept.element_size():
        # Times the bits of the factor these are numbers of the wanted dtype already.
        factors = kept.mul_(factor.view(torch.int16)).view(states.dtype)
    else:
        factors = kept.to(states.dtype).mul_(factor)
    return factors


def drop_(states: torch.Tensor, rate: float) -> None:
    """Sets a share of elements to zero, in place, and leaves the others as they are.

    Args:
        states: on CPU, contiguous.
        rate: below 1, not negligible.
    """
    kept = _kept(states, rate)
    if states.element_size() == kept.element_size():
        # As numbers -1 has all bits set, so that only what is to be dropped loses its bits.
        states.view(torch.int16).bitwise_and_(kept.neg_())
    else:
        states.mul_(kept)


def _kept(states: torch.Tensor, rate: float) -> torch.Tensor:
    """Returns int16 zeros at that rate and ones elsewhere, of the states' shape."""
    numbers = torch.empty(-(-states.numel() // 4), dtype=torch.int64, device=states.device)
    # All 64 bits of each number: four decisions.
    bits = numbers.random_(-(2**63), None).view(torch.int16)[: states.numel()]
    # Below the threshold becomes 0, from it on 1, in two passes that vectorise.
    threshold = LOWEST + min(round(rate * COUNT), COUNT - 1)
    return bits.clamp_(threshold - 1, threshold).sub_(threshold - 1).view(states.shape)
