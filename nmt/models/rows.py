"""The positions of a batch as rows of a matrix: without padding, and in few numbers.

What is done to each position by itself need not be done to padding. And what is done with weights is
a product, whose shapes should repeat (see `products`): so rows are filled up with zeros to a multiple
of `products.STEP`. Attention alone needs sentences; for that rows are put back.

For training on CPU. Sums over positions come in another order than without, so a sentence's result
is not the same bit for bit in all company, which inference has to promise.
"""

import math
from typing import Any

import torch
from torch.autograd import function

from nmt.models import products

# Share of padding from which on leaving it out saves more than the copies cost (docs/performance.md).
MIN_PADDING = 0.03
# Of fewer rows, filling up would be too large a part.
MIN_ROWS = 8 * products.STEP


class Rows:
    """What stands for the positions of a batch [B, S, D]: here its states as they are."""

    def take(self, states_BSD: torch.Tensor) -> torch.Tensor:
        """Returns the rows of sentences: as they are."""
        return states_BSD

    def put(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the sentences of rows: as they are."""
        return states


AS_THEY_ARE = Rows()


class PackedRows(Rows):
    """Rows [R, D] for the real positions of a batch [B, S, D]."""

    def __init__(self, shape: tuple[int, int], real_N: torch.Tensor | None) -> None:
        """Takes B and S, and which positions are real, counted through all sentences; None is all."""
        self._shape, self._real_N = shape, real_N
        self._num_real = math.prod(shape) if real_N is None else len(real_N)
        is_long = self._num_real >= MIN_ROWS
        self._num_rows = products.rounded(self._num_real) if is_long else self._num_real

    @property
    def are_all_positions(self) -> bool:
        """Whether there is a row for each position and none besides."""
        return self._num_rows == math.prod(self._shape)

    def take(self, states_BSD: torch.Tensor) -> torch.Tensor:
        """Returns the rows [R, D] of sentences."""
        taken: torch.Tensor = _Take.apply(  # type: ignore[no-untyped-call]
            states_BSD.flatten(0, 1), self._real_N, self._num_rows
        )
        return taken

    def put(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the sentences [B, S, D] of rows [R, D], zero where padding was left out."""
        if self._real_N is None:
            flat_PD = states[: self._num_real]
        else:
            flat_PD = _Put.apply(  # type: ignore[no-untyped-call]
                states, self._real_N, math.prod(self._shape)
            )
        return flat_PD.view(*self._shape, -1)


def where_they_pay(states_BSD: torch.Tensor, mask_BS: torch.Tensor | None = None) -> Rows:
    """Returns the rows for states on their way to a gradient on CPU, or for them as they are.

    Args:
        states_BSD: states of sentences.
        mask_BS: True at real positions; None where most are.
    """
    if states_BSD.device.type != "cpu" or not torch.is_grad_enabled():
        return AS_THEY_ARE
    shape, real_N = (states_BSD.shape[0], states_BSD.shape[1]), None
    if mask_BS is not None and int(mask_BS.sum()) <= (1.0 - MIN_PADDING) * mask_BS.numel():
        real_N = mask_BS.flatten().nonzero()[:, 0]
    rows = PackedRows(shape, real_N)
    return AS_THEY_ARE if rows.are_all_positions else rows


def _taken(flat_PD: torch.Tensor, real_N: torch.Tensor | None, num_rows: int) -> torch.Tensor:
    """Returns the real positions, then zeros."""
    num_real = flat_PD.shape[0] if real_N is None else len(real_N)
    rows_RD = flat_PD.new_empty(num_rows, flat_PD.shape[1])
    if real_N is None:
        rows_RD[:num_real] = flat_PD
    else:
        torch.index_select(flat_PD, 0, real_N, out=rows_RD[:num_real])
    rows_RD[num_real:] = 0
    return rows_RD


def _put(rows_RD: torch.Tensor, real_N: torch.Tensor, num_positions: int) -> torch.Tensor:
    """Returns the positions, zero where there is no row."""
    flat_PD = rows_RD.new_zeros(num_positions, rows_RD.shape[1])
    return flat_PD.index_copy_(0, real_N, rows_RD[: len(real_N)])


class _Take(function.Function):
    @staticmethod
    def forward(
        ctx: Any, flat_PD: torch.Tensor, real_N: torch.Tensor | None, num_rows: int
    ) -> torch.Tensor:
        ctx.real_N, ctx.num_positions = real_N, flat_PD.shape[0]
        return _taken(flat_PD, real_N, num_rows)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_RD,) = grad_outputs
        if ctx.real_N is None:
            return grad_RD[: ctx.num_positions], None, None
        return _put(grad_RD, ctx.real_N, ctx.num_positions), None, None


class _Put(function.Function):
    @staticmethod
    def forward(
        ctx: Any, rows_RD: torch.Tensor, real_N: torch.Tensor, num_positions: int
    ) -> torch.Tensor:
        ctx.real_N, ctx.num_rows = real_N, rows_RD.shape[0]
        return _put(rows_RD, real_N, num_positions)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _taken(grad_outputs[0], ctx.real_N, ctx.num_rows), None, None
