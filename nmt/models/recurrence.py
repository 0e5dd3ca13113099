"""Teacher forcing of an attentional LSTM with input feeding on CPU, with gradients made by hand.

With input feeding (Luong et al. 2015, section 3.3) positions go in turn, so autograd would make, for
each position, a gradient of every weight and of all of the memory, and add it to the one before. Here
a position only keeps what it has computed; the gradients of weights and memory are made at the end,
one product over all positions for each. Likewise the part of the gates that depends on embeddings
alone is one product before the first position.

Letters besides those of `models/base.py`: G gates (4 D), R what the gates read back (E + D).
"""

import dataclasses
from typing import Any

import torch
from torch.autograd import function

from nmt.models import dropout, products


@dataclasses.dataclass(frozen=True)
class Weights:
    """Those of the cell and of the attentional vector, in the order of `nn.LSTM`: i, f, g, o.

    Attributes:
        input_GX: for embedding and feed, [4 D, 2 E].
        hidden_GD: for the state.
        bias_G: both biases of the cell.
        combine_EC: for state and context, [E, D + M].
    """

    input_GX: torch.Tensor
    hidden_GD: torch.Tensor
    bias_G: torch.Tensor
    combine_EC: torch.Tensor


def run(
    embedded_BTE: torch.Tensor,
    first: tuple[torch.Tensor, ...],
    source: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    weights: Weights,
    dropout_rate: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns attentional vectors [B, T, E] and attention weights [B, T, S].

    Args:
        embedded_BTE: target embeddings, dropped out.
        first: h and c before the first position, [B, D] each.
        source: keys [B, S, D], values [B, S, M] and the bool mask [B, S].
        weights: float32.
        dropout_rate: of the attentional vectors; 0 for none.
        dtype: of the products.
    """
    states, attention = _Recurrence.apply(  # type: ignore[no-untyped-call]
        embedded_BTE,
        *first,
        *source,
        weights.input_GX,
        weights.hidden_GD,
        weights.bias_G,
        weights.combine_EC,
        dropout_rate,
        dtype,
    )
    return states, attention


class _Recurrence(function.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embedded_BTE: torch.Tensor,
        hidden_BD: torch.Tensor,
        cell_BD: torch.Tensor,
        keys_BSD: torch.Tensor,
        values_BSM: torch.Tensor,
        mask_BS: torch.Tensor,
        input_GX: torch.Tensor,
        hidden_GD: torch.Tensor,
        bias_G: torch.Tensor,
        combine_EC: torch.Tensor,
        rate: float,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = embedded_BTE.shape[-1]
        embedded_TBE = embedded_BTE.transpose(0, 1).contiguous().to(dtype)
        keys_BSD, values_BSM = keys_BSD.to(dtype), values_BSM.to(dtype)
        own_GE = input_GX[:, :size].to(dtype)
        back_GR = torch.cat([input_GX[:, size:], hidden_GD], dim=1).to(dtype)
        combine_EC = combine_EC.to(dtype)
        ahead_NG = products.by_rows(embedded_TBE.flatten(0, 1), own_GE.t()).add_(bias_G.to(dtype))
        ahead_TBG = ahead_NG.view(*embedded_TBE.shape[:2], -1)
        hidden_BD, cell_BD = hidden_BD.to(dtype), cell_BD.float()
        feed_BE = torch.zeros_like(embedded_TBE[0])
        kept: list[list[torch.Tensor]] = [[] for _ in range(6)]
        outputs = []
        for ahead_BG in ahead_TBG:
            read_BR = torch.cat([feed_BE, hidden_BD], dim=1)
            gates_BG = torch.addmm(ahead_BG, read_BR, back_GR.t()).float()
            i_BD, f_BD, g_BD, o_BD = gates_BG.chunk(4, dim=1)
            i_BD, f_BD, o_BD = i_BD.sigmoid_(), f_BD.sigmoid_(), o_BD.sigmoid_()
            cells = cell_BD
            cell_BD = f_BD * cell_BD + i_BD * g_BD.tanh_()
            hidden_BD = (o_BD * cell_BD.tanh()).to(dtype)
            scores_BS = torch.bmm(keys_BSD, hidden_BD.unsqueeze(2)).squeeze(2).float()
            weights_BS = torch.softmax(scores_BS.masked_fill_(~mask_BS, float("-inf")), dim=1)
            context_BM = torch.bmm(weights_BS.to(dtype).unsqueeze(1), values_BSM).squeeze(1)
            both_BC = torch.cat([hidden_BD, context_BM], dim=1)
            tanh_BE = torch.mm(both_BC, combine_EC.t()).tanh_()
            feed_BE = tanh_BE
            if not dropout.is_negligible(rate):
                factors_BE = dropout.random_factors(tanh_BE, rate)
                feed_BE = tanh_BE * factors_BE
                kept[5].append(factors_BE)
            outputs.append(feed_BE)
            for values, value in zip(
                kept, (read_BR, gates_BG, cells, weights_BS, both_BC), strict=False
            ):
                values.append(value)
        read_TBR, gates_TBG, cells_TBD, weights_TBS, both_TBC = (
            torch.stack(values) for values in kept[:5]
        )
        output_TBE = torch.stack(outputs)
        factors_TBE = torch.stack(kept[5]) if kept[5] else None
        ctx.save_for_backward(
            embedded_TBE, keys_BSD, values_BSM, own_GE, back_GR, combine_EC,
            read_TBR, gates_TBG, cells_TBD, weights_TBS, both_TBC, output_TBE, factors_TBE, cell_BD,
        )  # fmt: skip
        ctx.rate, ctx.weight_dtype = rate, input_GX.dtype
        # Seldom does anything depend on the weights.
        ctx.set_materialize_grads(False)
        return output_TBE.transpose(0, 1).contiguous(), weights_TBS.transpose(0, 1)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (
            embedded_TBE, keys_BSD, values_BSM, own_GE, back_GR, combine_EC,
            read_TBR, gates_TBG, cells_TBD, weights_TBS, both_TBC, output_TBE, factors_TBE, last_BD,
        ) = ctx.saved_tensors  # fmt: skip
        dtype, width = keys_BSD.dtype, combine_EC.shape[0]
        size = keys_BSD.shape[2]
        grad_TBE = torch.zeros_like(output_TBE)
        if grad_outputs[0] is not None:
            grad_TBE = grad_outputs[0].transpose(0, 1).to(dtype)
        guided_BTS = grad_outputs[1]
        # Of what follows: the state and the feed of a position are read by the next one.
        next_BR = torch.zeros_like(read_TBR[0])
        next_cell_BD = torch.zeros_like(last_BD)
        after_BD = last_BD
        made: list[list[torch.Tensor]] = [[] for _ in range(4)]
        for position in range(len(read_TBR) - 1, -1, -1):
            tanh_BE = output_TBE[position]
            grad_BE = grad_TBE[position] + next_BR[:, :width]
            if factors_TBE is not None:
                # What was dropped has no gradient, so its tanh does not matter; the rest is scaled.
                factors_BE = factors_TBE[position]
                grad_BE = grad_BE * factors_BE
                tanh_BE = tanh_BE * (1.0 - ctx.rate)
            grad_BE = torch.ops.aten.tanh_backward(grad_BE, tanh_BE)
            grad_both_BC = torch.mm(grad_BE, combine_EC)
            context_BM = grad_both_BC[:, size:]
            products_BS = torch.bmm(values_BSM, context_BM.unsqueeze(2)).squeeze(2).float()
            if guided_BTS is not None:
                products_BS = products_BS + guided_BTS[:, position]
            scores_BS = torch._softmax_backward_data(
                products_BS, weights_TBS[position], 1, torch.float32
            ).to(dtype)
            hidden_BD = torch.bmm(scores_BS.unsqueeze(1), keys_BSD).squeeze(1)
            hidden_BD = (hidden_BD + grad_both_BC[:, :size] + next_BR[:, width:]).float()
            gates_BG = gates_TBG[position]
            grad_gates_BG, next_cell_BD = _gate_gradients(
                gates_BG, cells_TBD[position], after_BD, hidden_BD, next_cell_BD
            )
            after_BD = cells_TBD[position]
            grad_gates_BG = grad_gates_BG.to(dtype)
            next_BR = torch.mm(grad_gates_BG, back_GR)
            for values, value in zip(
                made, (grad_gates_BG, grad_BE, scores_BS, context_BM), strict=True
            ):
                values.append(value)
        gates_TBG, combined_TBE, scores_TBS, contexts_TBM = (
            torch.stack(values[::-1]) for values in made
        )
        flat_NG = gates_TBG.flatten(0, 1)
        own = products.over_rows(flat_NG, embedded_TBE.flatten(0, 1))
        back = products.over_rows(flat_NG, read_TBR.flatten(0, 1))
        hidden_TBD = both_TBC[:, :, :size]
        return (
            products.by_rows(flat_NG, own_GE).view_as(embedded_TBE).transpose(0, 1),
            next_BR[:, width:],
            next_cell_BD,
            torch.bmm(scores_TBS.permute(1, 2, 0), hidden_TBD.transpose(0, 1)),
            torch.bmm(weights_TBS.to(dtype).permute(1, 2, 0), contexts_TBM.transpose(0, 1)),
            None,
            torch.cat([own, back[:, :width]], dim=1).to(ctx.weight_dtype),
            back[:, width:].to(ctx.weight_dtype),
            flat_NG.sum(0).to(ctx.weight_dtype),
            products.over_rows(combined_TBE.flatten(0, 1), both_TBC.flatten(0, 1)).to(
                ctx.weight_dtype
            ),
            None,
            None,
        )


def _gate_gradients(
    gates_BG: torch.Tensor,
    before_BD: torch.Tensor,
    after_BD: torch.Tensor,
    hidden_BD: torch.Tensor,
    cell_BD: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns gradients of the gates before their activation, and of the cell before the position.

    Args:
        gates_BG: after activation.
        before_BD: cell before the position.
        after_BD: cell after it.
        hidden_BD: gradient of the state after it.
        cell_BD: gradient of the cell after it, from the next position.
    """
    i_BD, f_BD, g_BD, o_BD = gates_BG.chunk(4, dim=1)
    tanh_BD = after_BD.tanh()
    cell_BD = torch.ops.aten.tanh_backward(hidden_BD * o_BD, tanh_BD) + cell_BD
    sigmoid_backward = torch.ops.aten.sigmoid_backward
    grads = (
        sigmoid_backward(cell_BD * g_BD, i_BD),
        sigmoid_backward(cell_BD * before_BD, f_BD),
        torch.ops.aten.tanh_backward(cell_BD * i_BD, g_BD),
        sigmoid_backward(hidden_BD * tanh_BD, o_BD),
    )
    return torch.cat(grads, dim=1), cell_BD * f_BD
