"""Building blocks that more than one family uses."""

import math
from collections.abc import Iterator
from typing import Generic, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional as F

from nmt.models import fused

LayerT = TypeVar("LayerT", bound=nn.Module)


class Stack(nn.ModuleList, Generic[LayerT]):
    """A list of layers of one class, so that types know which."""

    def __iter__(self) -> Iterator[LayerT]:
        """Yields the layers in order."""
        return cast("Iterator[LayerT]", super().__iter__())

    def at(self, index: int) -> LayerT:
        """Returns one layer."""
        return cast("LayerT", self[index])


def linear(in_size: int, out_size: int, *, bias: bool = True) -> nn.Linear:
    """Returns a linear layer with Glorot-uniform weights and zero bias (Glorot and Bengio 2010)."""
    layer = fused.Linear(in_size, out_size, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich 2019, equation 4)."""

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self._eps = eps

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns states [..., D] with root mean square one, scaled by the weight."""
        weight = self.weight.to(states.dtype)  # mixed dtypes have no fast kernel
        return F.rms_norm(states, weight.shape, weight, self._eps)


def norm(kind: str, size: int) -> nn.Module:
    """Returns the normalisation layer of this name (`layernorm`, `rmsnorm`)."""
    return RMSNorm(size) if kind == "rmsnorm" else nn.LayerNorm(size)


def sinusoids(positions: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns sinusoidal position vectors [P, D], the sines first, then the cosines.

    Source: Vaswani et al. 2017, section 3.5. Deviations, both those of the authors' own code
    (tensor2tensor): sines and cosines stand in two halves rather than in turn, and the slowest of
    the D / 2 rates is exactly 1 / 10,000 (the exponent is i / (D / 2 - 1)).

    Args:
        positions: [P] positions counted from 0.
        size: D, even.
        dtype: of the result; angles are computed in float32 at least, since they grow with the
            position.
    """
    half = size // 2
    angles_PE = _angles(positions, half, -math.log(10_000.0) / max(half - 1, 1), dtype)
    return torch.cat([angles_PE.sin(), angles_PE.cos()], dim=1).to(dtype)


def rotation(positions: torch.Tensor, size: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns the cosines and sines [2, P, E/2] that `rotate` turns heads of width E by.

    Source: Su et al. 2021 (RoFormer), equation 34.

    Args:
        positions: [P] positions counted from 0.
        size: E, the width of one head, even.
        dtype: of the result.
    """
    half = size // 2
    angles_PE = _angles(positions, half, -math.log(10_000.0) / half, dtype)
    return torch.stack([angles_PE.cos(), angles_PE.sin()]).to(dtype)


def _angles(
    positions: torch.Tensor, count: int, log_ratio: float, dtype: torch.dtype
) -> torch.Tensor:
    """Returns the angles [P, count] of each position at rates that fall by `exp(log_ratio)` each."""
    # Not float64 in any case: not every device has it.
    dtype = torch.promote_types(dtype, torch.float32)
    steps = torch.arange(count, dtype=dtype, device=positions.device)
    return positions.to(dtype).unsqueeze(1) * torch.exp(steps * log_ratio)


def rotate(heads_BHPE: torch.Tensor, rotation_2PE: torch.Tensor) -> torch.Tensor:
    """Returns queries or keys [B, H, P, E] turned by the angles of their positions."""
    cos_PE, sin_PE = rotation_2PE[0], rotation_2PE[1]
    first_BHPE, second_BHPE = heads_BHPE.chunk(2, dim=-1)
    turned = torch.cat(
        [
            first_BHPE * cos_PE - second_BHPE * sin_PE,
            first_BHPE * sin_PE + second_BHPE * cos_PE,
        ],
        dim=-1,
    )
    return turned.to(heads_BHPE.dtype)


class LearnedPositions(nn.Module):
    """A learned vector for each position (Gehring et al. 2017, section 3.1)."""

    def __init__(self, max_positions: int, size: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(max_positions, size).normal_(0.0, std))

    def forward(self, begin: int, end: int) -> torch.Tensor:
        """Returns the vectors [end - begin, D] of these positions."""
        assert end <= self.weight.shape[0], "callers cut sequences at max_positions"
        return self.weight[begin:end]
