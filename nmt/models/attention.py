"""Attention over a padded axis, for every family and both phases.

Source: Vaswani et al. 2017, section 3.2.1, equation 1.
"""

import torch
from torch.nn import functional as F

from nmt.models import dropout


def additive_mask(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns 0 where the bool mask is True and -inf elsewhere, in the dtype of `like`."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=mask.device).masked_fill_(
        ~mask, float("-inf")
    )


def causal_mask(length: int, like: torch.Tensor) -> torch.Tensor:
    """Returns the additive mask [T, T] under which a position sees itself and those before it."""
    full_TT = torch.full((length, length), float("-inf"), dtype=like.dtype, device=like.device)
    return full_TT.triu_(1)


def attend(
    query_BHQE: torch.Tensor,
    key_BHLE: torch.Tensor,
    value_BHLE: torch.Tensor,
    mask: torch.Tensor,
    *,
    scale: float,
    dropout_rate: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the attended values [B, H, Q, E] and, where they were made, the weights [B, H, Q, L].

    On CPU the three plain products are faster than the fused kernel for sentences
    (docs/performance.md), and the weights come for free; elsewhere the fused kernel is taken, which
    keeps no weights.

    Args:
        query_BHQE: queries, any Q.
        key_BHLE: keys.
        value_BHLE: values.
        mask: additive, broadcastable to [B, H, Q, L]; no row may be all -inf.
        scale: factor on the scores.
        dropout_rate: dropout on the weights; 0 outside training.
    """
    if query_BHQE.device.type != "cpu":
        states_BHQE = F.scaled_dot_product_attention(
            query_BHQE,
            key_BHLE,
            value_BHLE,
            attn_mask=mask.to(query_BHQE.dtype),
            dropout_p=dropout_rate,
            scale=scale,
        )
        return states_BHQE, None
    weights_BHQL = attention_weights(query_BHQE, key_BHLE, mask, scale=scale)
    dropped_BHQL = dropout.dropout(weights_BHQL, dropout_rate, dropout_rate > 0)
    return torch.matmul(dropped_BHQL, value_BHLE), weights_BHQL


def attention_weights(
    query_BHQE: torch.Tensor, key_BHLE: torch.Tensor, mask: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Returns softmax(scale * query key^T + mask), [B, H, Q, L]; arguments as in `attend`."""
    scores_BHQL = torch.matmul(query_BHQE * scale, key_BHLE.transpose(-1, -2))
    return torch.softmax(scores_BHQL + mask.to(scores_BHQL.dtype), dim=-1)
