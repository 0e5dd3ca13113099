"""The one place where search waits for the device."""

import torch


def to_host(tensor: torch.Tensor) -> list[int]:
    """Returns the numbers of a small integer or bool tensor, after the device has computed them.

    Everything else in this package is queued without waiting, so a test may replace this function
    and walk a whole search on a device that computes nothing.
    """
    return [int(number) for number in tensor.tolist()]
