"""What may stand in the place of a Transformer decoder's self-attention, made for fast decoding.

Self-attention compares a position with all before it, so a step costs more the later it is, and needs
a cache of keys and values. The layers here carry one vector a hypothesis from step to step. In teacher
forcing all positions go at once: the weights meet them in one product, and only element-wise work is
left that has an order.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd import function

from nmt.config import families
from nmt.models import blocks, layers


class Ssru(nn.Module):
    """A Simpler Simple Recurrent Unit, with its block around it.

    Source: Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine
    Translation", section 2.2: a forget gate between the last cell and the new value, and a ReLU. One
    deviation: values have a bias like the gates, so that both are one product.
    """

    def __init__(self, options: families.TransformerDecoderOptions) -> None:
        super().__init__()
        self.block = blocks.Block(options)
        # Values, then forget gates; each half is initialised as a layer of its own.
        self.projection = layers.linear(options.hidden_size, 2 * options.hidden_size)
        for half_DD in self.projection.weight.chunk(2):
            nn.init.xavier_uniform_(half_DD)

    def forward(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the states [B, T, D] after the block, all positions at once."""
        value_BTD, forget_BTD = self._values_and_gates(states_BTD)
        return self._after(states_BTD, linear_recurrence(forget_BTD, value_BTD))

    def step(
        self, states_BKD: torch.Tensor, cell_ND: torch.Tensor, position: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the states [B, K, D] after the block and the next cell [N, D].

        Args:
            states_BKD: of all hypotheses at one position.
            cell_ND: float32 or wider, of the position before; zeros at the first.
            position: counted from 0; a cell does not depend on it.
        """
        del position
        value_BKD, forget_BKD = self._values_and_gates(states_BKD)
        cell_BKD = torch.lerp(value_BKD, cell_ND.view_as(value_BKD), forget_BKD)
        return self._after(states_BKD, cell_BKD), cell_BKD.flatten(0, 1)

    def _values_and_gates(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        value, gate = self.projection(self.block.before(states)).chunk(2, dim=-1)
        return _wide(value), _wide(gate).sigmoid()

    def _after(self, states: torch.Tensor, cell: torch.Tensor) -> torch.Tensor:
        return self.block.after(states, cell.relu().to(states.dtype))


class AverageAttention(nn.Module):
    """An average attention network, with its block around it.

    Source: Zhang et al. 2018, "Accelerating Neural Transformer via an Average Attention Network",
    section 3: the mean of a position and those before it (equation 6: a product with a masked matrix),
    a feed-forward layer over it (equation 1), and gates for the position and its mean (equations 2
    and 3). The feed-forward layer has the options of the others of its decoder.
    """

    def __init__(self, options: families.TransformerDecoderOptions) -> None:
        super().__init__()
        size = options.hidden_size
        self.block = blocks.Block(options)
        self.feed_forward = blocks.FeedForward(options) if options.average_feedforward else None
        # Gates of the position, then of the mean; each half is initialised as a layer of its own.
        self.gates = layers.linear(2 * size, 2 * size) if options.average_gates else None
        if self.gates is not None:
            for half_DC in self.gates.weight.chunk(2):
                nn.init.xavier_uniform_(half_DC)

    def forward(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the states [B, T, D] after the block, all positions at once."""
        inputs_BTD = self.block.before(states_BTD)
        wide_BTD = _wide(inputs_BTD)
        # Cumulative sums are slower on CPU, and on CUDA have no deterministic kernel.
        share_TT = wide_BTD.new_ones((wide_BTD.shape[1],) * 2).tril_()
        share_TT /= share_TT.sum(1, keepdim=True)
        with torch.autocast(wide_BTD.device.type, enabled=False):
            mean_BTD = torch.matmul(share_TT, wide_BTD)
        return self._after(states_BTD, inputs_BTD, mean_BTD)

    def step(
        self, states_BKD: torch.Tensor, sum_ND: torch.Tensor, position: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the states [B, K, D] after the block and the next sum [N, D].

        Args:
            states_BKD: of all hypotheses at one position.
            sum_ND: float32 or wider, of the inputs of all positions before; zeros at the first.
            position: counted from 0.
        """
        inputs_BKD = self.block.before(states_BKD)
        sum_BKD = sum_ND.view_as(inputs_BKD) + inputs_BKD
        states_BKD = self._after(states_BKD, inputs_BKD, sum_BKD / (position + 1))
        return states_BKD, sum_BKD.flatten(0, 1)

    def _after(
        self, states: torch.Tensor, inputs: torch.Tensor, mean: torch.Tensor
    ) -> torch.Tensor:
        mean = mean.to(inputs.dtype)
        change: torch.Tensor = mean if self.feed_forward is None else self.feed_forward(mean)
        if self.gates is not None:
            gates = self.gates(torch.cat([inputs, change], dim=-1)).sigmoid()
            input_gate, mean_gate = gates.chunk(2, dim=-1)
            change = input_gate * inputs + mean_gate * change
        return self.block.after(states, change)


Layer = Ssru | AverageAttention


def build(options: families.TransformerDecoderOptions) -> Layer | None:
    """Returns the layer that takes the place of self-attention, or None where it stays."""
    if options.autoregressive_layer == "ssru":
        return Ssru(options)
    if options.autoregressive_layer == "average_attention":
        return AverageAttention(options)
    return None


def start(memory_BSM: torch.Tensor, size: int) -> torch.Tensor:
    """Returns what either layer carries into the first position, zeros [B, D]."""
    dtype = torch.promote_types(memory_BSM.dtype, torch.float32)
    return memory_BSM.new_zeros((memory_BSM.shape[0], size), dtype=dtype)


def linear_recurrence(forget_BTD: torch.Tensor, value_BTD: torch.Tensor) -> torch.Tensor:
    """Returns cells [B, T, D]: each is forget * the one before + (1 - forget) * value.

    The first cell has zero before it. One operation a position, over whole batches; a parallel scan
    does log2(T) times the work.
    """
    cells_BTD: torch.Tensor = _LinearRecurrence.apply(  # type: ignore[no-untyped-call]
        forget_BTD, value_BTD
    )
    return cells_BTD


class _LinearRecurrence(function.Function):
    @staticmethod
    def forward(ctx: Any, forget_BTD: torch.Tensor, value_BTD: torch.Tensor) -> torch.Tensor:
        cells_BTD = torch.empty_like(value_BTD, memory_format=torch.contiguous_format)
        cell_BD = torch.zeros_like(cells_BTD[:, 0])
        for forget_BD, value_BD, out_BD in zip(
            forget_BTD.unbind(1), value_BTD.unbind(1), cells_BTD.unbind(1), strict=True
        ):
            cell_BD = torch.lerp(value_BD, cell_BD, forget_BD, out=out_BD)
        ctx.save_for_backward(forget_BTD, value_BTD, cells_BTD)
        return cells_BTD

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        forget_BTD, value_BTD, cells_BTD = ctx.saved_tensors
        grad_BTD = grad_outputs[0].clone(memory_format=torch.contiguous_format)
        grads, forgets = grad_BTD.unbind(1), forget_BTD.unbind(1)
        for position in range(len(grads) - 2, -1, -1):
            grads[position].addcmul_(forgets[position + 1], grads[position + 1])
        # What a gate moves between is the cell before and the value.
        moved_BTD = torch.neg(value_BTD)
        moved_BTD[:, 1:] += cells_BTD[:, :-1]
        return moved_BTD.mul_(grad_BTD), grad_BTD - grad_BTD * forget_BTD


def _wide(states: torch.Tensor) -> torch.Tensor:
    """Returns the states in float32 at least: many positions add up in what is carried."""
    return states.to(torch.promote_types(states.dtype, torch.float32))
