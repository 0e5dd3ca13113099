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


def to_device(numbers: Sequence[int], device: torch.device) -> torch.Tensor:
    """Returns whole numbers as an int64 tensor on the device."""
    return torch.tensor(numbers).to(device)
