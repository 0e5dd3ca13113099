"""Attention that is taught where to look: the loss of given word alignments."""

import torch


def alignment_loss(attention_BTS: torch.Tensor | None, links_2L: torch.Tensor) -> torch.Tensor:
    """Returns the cross-entropy of attention and alignments, summed over aligned target pieces.

    The alignments of a target piece are a distribution, the same for each source piece that it is
    aligned with; target pieces without any have no loss.

    Source: Chen et al. 2016, "Guided Alignment Training for Topic-Aware Neural Machine Translation",
    section 3, equation 6, with the sum over tokens in place of the mean of a sentence.

    Args:
        attention_BTS: weights that sum to 1 over the source.
        links_2L: int64, as in `batches.Piece`.
    """
    assert attention_BTS is not None, "who asks for it has seen to it that the model attends"
    place_L, src_L = links_2L
    # Not below the smallest number of half the digits: its logarithm and gradient stay finite.
    attention_NS = attention_BTS.flatten(0, 1)
    attention_NS = attention_NS.to(torch.promote_types(attention_NS.dtype, torch.float32))
    logs_L = attention_NS[place_L, src_L].clamp_min(1e-10).log()
    # Not bincount, for whose size a host waits. Sums of ones are exact in any order.
    counts_N = attention_NS.new_zeros(attention_NS.shape[0])
    counts_N = counts_N.index_add(0, place_L, torch.ones_like(logs_L))
    return -(logs_L / counts_N[place_L]).sum()
