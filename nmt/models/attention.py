"""Attention over a padded axis, for every family and both phases.

Source: Vaswani et al. 2017, section 3.2.1, equation 1.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd import function
from torch.nn import functional as F

from nmt.models import dropout, layers
from nmt.models import rows as position_rows


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

    On CPU the plain products are faster than the fused kernel for sentences (docs/performance.md),
    and without gradients the weights come for free; elsewhere the fused kernel is taken, which keeps
    no weights.

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
    if torch.is_grad_enabled() and query_BHQE.requires_grad:
        attended: torch.Tensor = _Attend.apply(  # type: ignore[no-untyped-call]
            query_BHQE, key_BHLE, value_BHLE, mask, scale, dropout_rate
        )
        return attended, None
    if dropout_rate > 0 or torch.is_grad_enabled():
        weights_BHQL = attention_weights(query_BHQE, key_BHLE, mask, scale=scale)
        dropped_BHQL = dropout.dropout(weights_BHQL, dropout_rate, dropout_rate > 0)
        return torch.matmul(dropped_BHQL, value_BHLE), weights_BHQL
    return _attend_in_place(query_BHQE, key_BHLE, value_BHLE, mask, scale)


def _attend_in_place(
    query_BHQE: torch.Tensor,
    key_BHLE: torch.Tensor,
    value_BHLE: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns what `attend` returns, for few queries: the product is added to the mask in place.

    Between products of a few rows, every pass over the scores and every small tensor counts.
    """
    shape = (*query_BHQE.shape[:3], key_BHLE.shape[2])
    scores_BHQL = query_BHQE.new_empty(shape).copy_(mask)
    # X: one axis for sentences and heads.
    query_XQE, key_XLE, value_XLE = (
        heads.to(query_BHQE.dtype).flatten(0, 1) for heads in (query_BHQE, key_BHLE, value_BHLE)
    )
    scores_BHQL.flatten(0, 1).baddbmm_(query_XQE, key_XLE.transpose(1, 2), alpha=scale)
    weights_BHQL = torch.softmax(scores_BHQL, dim=-1)
    states_XQE = torch.bmm(weights_BHQL.to(value_XLE.dtype).flatten(0, 1), value_XLE)
    return states_XQE.view(query_BHQE.shape), weights_BHQL


# A softmax over fewer numbers than a vector register holds costs ten times as much for each of them.
MIN_KEYS = 16


class _Attend(function.Function):
    """`attend` for training on CPU: the softmax in float32, over no fewer than `MIN_KEYS` keys.

    The gradients are written here rather than left to autograd because of how they are laid out:
    every tensor that is handed back has the order of tokens, heads, width in memory, so that joining
    the heads again costs no copy, and joining queries, keys and values one fast one.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query_BHQE: torch.Tensor,
        key_BHLE: torch.Tensor,
        value_BHLE: torch.Tensor,
        mask: torch.Tensor,
        scale: float,
        dropout_rate: float,
    ) -> torch.Tensor:
        num_sentences, num_heads, num_queries, _ = query_BHQE.shape
        num_keys = key_BHLE.shape[2]
        extra = max(MIN_KEYS - num_keys, 0)
        # X: one axis for sentences and heads; P: keys with padding.
        query_XQE = (query_BHQE * scale).flatten(0, 1).contiguous()
        key_XPE = F.pad(key_BHLE, (0, 0, 0, extra)).flatten(0, 1).contiguous()
        value_XPE = F.pad(value_BHLE, (0, 0, 0, extra)).flatten(0, 1).contiguous()
        dtype = torch.promote_types(query_XQE.dtype, torch.float32)
        scores_XQP = torch.bmm(query_XQE, key_XPE.transpose(1, 2)).to(dtype)
        scores_BHQP = scores_XQP.view(num_sentences, num_heads, num_queries, -1)
        scores_BHQP += F.pad(mask.to(dtype), (0, extra), value=float("-inf"))
        weights_XQP = torch.softmax(scores_XQP, -1).to(query_XQE.dtype)
        factors_XQP, dropped_XQP = None, weights_XQP
        if not dropout.is_negligible(dropout_rate):
            factors_XQP = dropout.random_factors(weights_XQP, dropout_rate)
            dropped_XQP = weights_XQP * factors_XQP
        attended_XQE = torch.bmm(dropped_XQP, value_XPE)
        ctx.save_for_backward(query_XQE, key_XPE, value_XPE, weights_XQP, factors_XQP, dropped_XQP)
        ctx.scale, ctx.num_keys, ctx.dtype = scale, num_keys, dtype
        return _tokens_first(attended_XQE, num_sentences, num_queries)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query_XQE, key_XPE, value_XPE, weights_XQP, factors_XQP, dropped_XQP = ctx.saved_tensors
        grad_BHQE = grad_outputs[0]
        num_sentences, _, num_queries, _ = grad_BHQE.shape
        grad_XQE = grad_BHQE.flatten(0, 1).contiguous()
        grad_value_XPE = torch.bmm(dropped_XQP.transpose(1, 2), grad_XQE)
        grad_XQP = torch.bmm(grad_XQE, value_XPE.transpose(1, 2))
        if factors_XQP is not None:
            grad_XQP *= factors_XQP
        grad_scores_XQP = torch._softmax_backward_data(
            grad_XQP.to(ctx.dtype), weights_XQP.to(ctx.dtype), -1, ctx.dtype
        ).to(grad_XQE.dtype)
        grad_query_XQE = torch.bmm(grad_scores_XQP, key_XPE).mul_(ctx.scale)
        grad_key_XPE = torch.bmm(grad_scores_XQP.transpose(1, 2), query_XQE)
        return (
            _tokens_first(grad_query_XQE, num_sentences, num_queries),
            _tokens_first(grad_key_XPE, num_sentences, ctx.num_keys),
            _tokens_first(grad_value_XPE, num_sentences, ctx.num_keys),
            None,
            None,
            None,
        )


def _tokens_first(states_XPE: torch.Tensor, num_sentences: int, length: int) -> torch.Tensor:
    """Returns the first positions as [B, H, L, E], in memory in the order B, L, H, E."""
    states_BHPE = states_XPE.view(num_sentences, -1, *states_XPE.shape[1:])
    states_BHLE = states_BHPE[:, :, :length]
    return states_BHLE.transpose(1, 2).contiguous().transpose(1, 2)


def attention_weights(
    query_BHQE: torch.Tensor, key_BHLE: torch.Tensor, mask: torch.Tensor, *, scale: float
) -> torch.Tensor:
    """Returns softmax(scale * query key^T + mask), [B, H, Q, L]; arguments as in `attend`."""
    scores_BHQL = torch.matmul(query_BHQE * scale, key_BHLE.transpose(-1, -2))
    return torch.softmax(scores_BHQL + mask.to(scores_BHQL.dtype), dim=-1)


class Heads(nn.Module):
    """Heads taken apart, attention in each, and the projection that joins them.

    Source: Vaswani et al. 2017, section 3.2.2.
    """

    def __init__(self, size: int, num_heads: int, dropout_rate: float) -> None:
        super().__init__()
        self.scale = (size // num_heads) ** -0.5
        self._num_heads = num_heads
        self._dropout_rate = dropout_rate
        self.output = layers.linear(size, size)

    def split(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the heads apart, [B, H, T, E]."""
        num_sentences, length, _ = states_BTD.shape
        return states_BTD.view(num_sentences, length, self._num_heads, -1).transpose(1, 2)

    def forward(
        self,
        query_BHTE: torch.Tensor,
        key_BHLE: torch.Tensor,
        value_BHLE: torch.Tensor,
        mask: torch.Tensor,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the joined result [B, T, D] and the weights, where `attend` made them.

        With `rows`, the result is theirs, [R, D].
        """
        states_BHTE, weights_BHTL = attend(
            query_BHTE,
            key_BHLE,
            value_BHLE,
            mask,
            scale=self.scale,
            dropout_rate=self._dropout_rate if self.training else 0.0,
        )
        joined = rows.take(states_BHTE.transpose(1, 2).flatten(2))
        return self.output(joined), weights_BHTL
