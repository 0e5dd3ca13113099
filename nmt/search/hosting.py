"""The one place where numbers cross between search and the device."""

from collections.abc import Sequence
from typing import Any

import torch


def to_host(tensor: torch.Tensor) -> Any:
    """Returns the numbers of a small tensor as nested lists, after the device has computed them.

    Everything else in this package is queued without waiting, so a test may replace the functions
    of this module and walk a whole search on a device that computes nothing.
    """
    return tensor.tolist()


def to_device(numbers: Sequence[Any], device: torch.device) -> torch.Tensor:
    """Returns whole numbers, in nested lists of equal lengths, as an int64 tensor on the device."""
    return torch.tensor(numbers, dtype=torch.int64).to(device)


def floats_to_device(numbers: Sequence[float], device: torch.device) -> torch.Tensor:
    """Returns numbers [B] in the widest floating-point type that the device has."""
    return torch.tensor(numbers, dtype=widest(device)).to(device)


def widest(device: torch.device) -> torch.dtype:
    """Returns float64, but float32 on Apple's GPUs, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64
