"""Tensors for other processes in fewer, larger messages."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

# Tensors go in runs of about so many bytes.
BYTES = 25 << 20


def exchange(tensors: Sequence[torch.Tensor], action: Callable[[torch.Tensor], Any]) -> None:
    """Does with tensors, in place, what the action does with one.

    Args:
        tensors: of the same shapes and types on each rank.
        action: changes a contiguous tensor in place, element by element.
    """
    for bucket in _buckets(tensors):
        if len(bucket) == 1 and bucket[0].is_contiguous():
            action(bucket[0])
            continue
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        action(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yields runs of tensors of one type, in their order, each of `BYTES` or one tensor."""
    bucket: list[torch.Tensor] = []
    num_bytes = 0
    for tensor in tensors:
        is_full = num_bytes + tensor.nbytes > BYTES
        if bucket and (is_full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, num_bytes = [], 0
        bucket.append(tensor)
        num_bytes += tensor.nbytes
    if bucket:
        yield bucket
