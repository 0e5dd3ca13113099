"""Training on CPU with fewer passes over memory: products with bias, feed-forward blocks, residuals.

With narrow layers an update spends more time on moving elements than on products. torch adds a bias
by copying it into every row first, makes a tensor for each of ReLU, dropout and sum, and keeps most
of them for backward. The functions here do the same sums in fewer steps; they are taken on CPU while
gradients are wanted, and everything else goes through torch's own.
"""

from typing import Any

import torch
from torch.autograd import function
from torch.nn import functional as F

from nmt.models import dropout, packed, products


def applies_to(states: torch.Tensor, weight: torch.Tensor) -> bool:
    """Returns whether states (on CPU, of a usual dtype) are on their way to a gradient."""
    return (
        states.device.type == "cpu"
        and torch.is_grad_enabled()
        and weight.dtype == torch.float32
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def product_dtype(states: torch.Tensor) -> torch.dtype:
    """Returns the dtype that a product of these states is computed in."""
    if torch.is_autocast_enabled(states.device.type):
        return torch.get_autocast_dtype(states.device.type)
    return states.dtype


def linear(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Returns states weight^T + bias, the bias added inside the product.

    Args:
        states: [..., in].
        weight: [out, in], float32.
        bias: [out], float32.
    """
    product: torch.Tensor = _Linear.apply(  # type: ignore[no-untyped-call]
        states, weight, bias, product_dtype(states)
    )
    return product


def feed_forward(
    states: torch.Tensor,
    inner: torch.nn.Linear,
    outer: torch.nn.Linear,
    dropout_rate: float,
) -> torch.Tensor:
    """Returns outer(dropout(relu(inner(states)))).

    Args:
        states: [..., D].
        inner: D to F, with bias.
        outer: F to D, with bias.
        dropout_rate: in [0, 1).
    """
    changed: torch.Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]
        states,
        inner.weight,
        inner.bias,
        outer.weight,
        outer.bias,
        dropout_rate,
        product_dtype(states),
    )
    return changed


def add_dropped(
    states: torch.Tensor, change: torch.Tensor, rate: float, training: bool
) -> torch.Tensor:
    """Returns states + dropout(change), of the same shape; arguments as for `dropout.dropout`."""
    if not training or dropout.is_negligible(rate):
        return states + change
    if change.device.type != "cpu":
        return states + dropout.dropout(change, rate, training)
    total: torch.Tensor = _AddDropped.apply(states, change, rate)  # type: ignore[no-untyped-call]
    return total


def _product(
    states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "none"
) -> torch.Tensor:
    """Returns the product of tensors of one dtype; where oneDNN makes it, bias and activation with it."""
    in_bf16 = states.dtype == torch.bfloat16 and packed.has_packed_bf16()
    if not in_bf16 and not products.onednn_takes(states):
        # The kernel for float16 is missing on many a processor.
        product = F.linear(states, weight, bias)
        return product.relu_() if activation == "relu" else product
    fused: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        states, weight, bias, activation, [], ""
    )
    return fused


class _Linear(function.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        inputs, cast = states.to(dtype), weight.to(dtype)
        ctx.save_for_backward(inputs, cast)
        ctx.states_dtype, ctx.weight_dtype = states.dtype, weight.dtype
        return _product(inputs, cast, None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, cast = ctx.saved_tensors
        grad_NO = grad_outputs[0].flatten(0, -2)
        wants_states, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_states = grad_weight = grad_bias = None
        if wants_states:
            grad_states = products.by_rows(grad_NO, cast).view(inputs.shape).to(ctx.states_dtype)
        if wants_weight:
            grad_weight = products.over_rows(grad_NO, inputs.flatten(0, -2)).to(ctx.weight_dtype)
        if wants_bias:
            grad_bias = grad_NO.sum(0).to(ctx.weight_dtype)
        return grad_states, grad_weight, grad_bias, None


class _FeedForward(function.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: torch.Tensor,
        inner_FD: torch.Tensor,
        inner_bias_F: torch.Tensor,
        outer_DF: torch.Tensor,
        outer_bias_D: torch.Tensor,
        rate: float,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        inputs, inner_FD = states.to(dtype), inner_FD.to(dtype)
        hidden = _product(inputs, inner_FD, inner_bias_F.to(dtype), "relu")
        # What dropout keeps would be scaled up; the weights are smaller and are scaled instead.
        scale = 1.0 if dropout.is_negligible(rate) else 1.0 / (1.0 - rate)
        if scale != 1.0:
            dropout.drop_(hidden, rate)
        scaled_DF = (outer_DF * scale).to(dtype)
        ctx.save_for_backward(inputs, hidden, inner_FD, scaled_DF)
        ctx.scale, ctx.states_dtype, ctx.weight_dtype = scale, states.dtype, outer_DF.dtype
        return _product(hidden, scaled_DF, outer_bias_D.to(dtype))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        inputs, hidden, inner_FD, scaled_DF = ctx.saved_tensors
        grad_ND, hidden_NF = grad_outputs[0].flatten(0, -2), hidden.flatten(0, -2)
        wants = ctx.needs_input_grad
        grads: list[torch.Tensor | None] = [None] * 7
        if wants[3]:
            grad_DF = products.over_rows(grad_ND, hidden_NF).to(ctx.weight_dtype)
            grads[3] = grad_DF.mul_(ctx.scale)
        if wants[4]:
            grads[4] = grad_ND.sum(0).to(ctx.weight_dtype)
        # Zero where ReLU or dropout made a zero: one condition for both.
        grad_NF = torch.ops.aten.threshold_backward(
            products.by_rows(grad_ND, scaled_DF), hidden_NF, 0
        )
        if wants[0]:
            grads[0] = products.by_rows(grad_NF, inner_FD).view(inputs.shape).to(ctx.states_dtype)
        if wants[1]:
            grads[1] = products.over_rows(grad_NF, inputs.flatten(0, -2)).to(ctx.weight_dtype)
        if wants[2]:
            grads[2] = grad_NF.sum(0).to(ctx.weight_dtype)
        return tuple(grads)


class _AddDropped(function.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, change: torch.Tensor, rate: float) -> torch.Tensor:
        factors = dropout.random_factors(change, rate)
        ctx.save_for_backward(factors)
        return torch.addcmul(states, change, factors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (factors,) = ctx.saved_tensors
        return grad_outputs[0], grad_outputs[0] * factors, None


class Linear(torch.nn.Linear):
    """A linear layer that takes the faster way where there is one."""

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns states weight^T + bias."""
        if applies_to(states, self.weight):
            return linear(states, self.weight, self.bias)
        return F.linear(states, self.weight, self.bias)
