"""What fits the device, found out by trying before training starts (`max_device_tokens: auto`)."""

import logging

import torch

from nmt.data import batches
from nmt.runtime import memory
from nmt.training import update

logger = logging.getLogger(__name__)

# Tensors as large as the weights that a run has besides them and the gradient: two moments, and
# one for what clipping and averaging make on their way.
COPIES = 3

# Memory is cut up by use, so what fits a fresh process does not always fit a used one.
MARGIN = 0.9


def find_device_tokens(
    updater: update.Updater, longest: tuple[int, int], batch_tokens: int
) -> int | None:
    """Returns how many positions of a piece fit, or None if any batch does.

    Forward and backward run on pieces of growing size, each of the longest pairs there can be, which
    take the most memory. Sizes double until one does not fit, or is twice the target tokens of an
    update; then one in the middle is tried.

    Args:
        updater: before its first update.
        longest: source and target tokens of the longest pair.
        batch_tokens: target tokens of an update.

    Raises:
        errors.TrainingError: not even one such pair fits.
    """
    width, device = max(longest), next(updater.model.parameters()).device
    ballast = [torch.zeros_like(p) for p in updater.model.parameters() for _ in range(COPIES)]
    fits, num_pairs = 0, 1
    most = max(2 * batch_tokens // width, 1)
    while updater.fits(_worst_piece(num_pairs, longest, device)):
        fits = num_pairs
        if num_pairs >= most:
            logger.info("max_device_tokens: pieces of %d tokens fit, no limit", fits * width)
            return None
        num_pairs = min(2 * num_pairs, most)
    if fits == 0:
        raise update.too_long(*longest)
    middle = (fits + num_pairs) // 2
    if middle > fits and updater.fits(_worst_piece(middle, longest, device)):
        fits = middle
    del ballast
    memory.give_back(device)
    return max(int(MARGIN * fits * width), width)


def _worst_piece(num_pairs: int, longest: tuple[int, int], device: torch.device) -> batches.Piece:
    """Returns a piece without padding; which ids it is made of does not matter."""
    src_length, tgt_length = longest
    src = torch.zeros(num_pairs, src_length, dtype=torch.int64, device=device)
    tgt = torch.zeros(num_pairs, tgt_length, dtype=torch.int64, device=device)
    return batches.Piece(
        src_BS=src,
        src_mask_BS=torch.ones_like(src, dtype=torch.bool),
        tgt_in_BT=tgt,
        real_N=torch.arange(tgt.numel(), device=device),
        tgt_out_N=tgt.flatten(),
    )
