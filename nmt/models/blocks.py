"""What surrounds the layers of a Transformer, and its feed-forward layer."""

import torch
from torch import nn
from torch.nn import functional as F

from nmt.config import families
from nmt.models import dropout, fused, layers

Options = families.TransformerEncoderOptions | families.TransformerDecoderOptions


class Block(nn.Module):
    """Residual connection, dropout and normalisation around a sub-layer (section 5.4)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.norm = layers.norm(options.norm, options.hidden_size)
        self._is_pre = options.norm_position == "pre"
        self._dropout_rate = options.dropout

    def before(self, states: torch.Tensor) -> torch.Tensor:
        """Returns what the sub-layer reads."""
        normed: torch.Tensor = self.norm(states) if self._is_pre else states
        return normed

    def after(self, states: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
        """Returns the states with the sub-layer's result added."""
        summed = fused.add_dropped(states, change, self._dropout_rate, self.training)
        normed: torch.Tensor = summed if self._is_pre else self.norm(summed)
        return normed


class FeedForward(nn.Module):
    """Two linear maps with an activation between (section 3.3; SwiGLU: Shazeer 2020, eq. 6)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._activation = options.activation
        gates = 2 if options.activation == "swiglu" else 1
        self.inner = layers.linear(options.hidden_size, gates * options.feedforward_size)
        self.outer = layers.linear(options.feedforward_size, options.hidden_size)
        inner_rate = options.activation_dropout
        self._dropout_rate = options.dropout if inner_rate is None else inner_rate

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Returns the result [..., D], of inputs of that shape."""
        if self._activation == "relu" and fused.applies_to(inputs, self.inner.weight):
            rate = self._dropout_rate if self.training else 0.0
            return fused.feed_forward(inputs, self.inner, self.outer, rate)
        inner = self.inner(inputs)
        if self._activation == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        else:
            inner = F.relu(inner) if self._activation == "relu" else F.gelu(inner)
        outer: torch.Tensor = self.outer(dropout.dropout(inner, self._dropout_rate, self.training))
        return outer


class FeedForwardBlock(FeedForward):
    """A feed-forward layer with its block around it."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.block = Block(options)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Returns the states [..., D] after the block."""
        return self.block.after(states, super().forward(self.block.before(states)))
