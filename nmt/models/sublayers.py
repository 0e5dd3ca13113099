"""What the layers of a Transformer begin with and are made of, besides its feed-forward layer.

States come as sentences [B, T, D], or while a model learns on CPU as their rows [R, D] (see `rows`);
attention is what needs sentences.
"""

import dataclasses
import math

import torch
from torch import nn

from nmt.models import attention, base, blocks, dropout, fused, layers
from nmt.models import rows as position_rows

Options = blocks.Options


@dataclasses.dataclass(frozen=True)
class Source:
    """What the layers of a decoder make keys and values of: the memory, or its rows.

    Attributes:
        states: [B, S, M], or with `rows` [R, M].
        values: likewise.
        rows: what they are rows of.
    """

    states: torch.Tensor
    values: torch.Tensor
    rows: position_rows.Rows = position_rows.AS_THEY_ARE

    @classmethod
    def of(cls, memory: base.Memory, *, may_be_rows: bool = False) -> "Source":
        """Returns the source, as rows where they may be and pay."""
        states, values = memory.states_BSM, memory.values_BSM
        rows = position_rows.where_they_pay(states) if may_be_rows else position_rows.AS_THEY_ARE
        taken = rows.take(states)
        return cls(taken, taken if values is states else rows.take(values), rows)


class Input(nn.Module):
    """Scaled embeddings with positions; rotary positions are handed on instead of added."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._kind = options.positions
        self._head_size = options.hidden_size // options.num_heads
        self._dropout_rate = options.dropout
        self.learned = None
        if options.positions == "learned":
            size = options.hidden_size
            self.learned = layers.LearnedPositions(options.max_positions, size, size**-0.5)

    def forward(
        self, embedded_BTD: torch.Tensor, begin: int, *, same_position: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the input states and, for rotary positions, the rotation.

        Args:
            embedded_BTD: rows of the embedding table.
            begin: position of the first one.
            same_position: the second axis has hypotheses at one position, not positions.
        """
        size = embedded_BTD.shape[-1]
        end = begin + (1 if same_position else embedded_BTD.shape[1])
        # Section 3.4 of the paper: embeddings are multiplied by the root of their width.
        states_BTD = embedded_BTD * math.sqrt(size)
        # Under autocast all that is added to the residual stream has its dtype; mixed sums are slow.
        states_BTD = states_BTD.to(fused.product_dtype(states_BTD))
        rotation = None
        if self.learned is not None:
            # Scaled alike, so that a position weighs as much as a word.
            learned_TD = self.learned(begin, end) * math.sqrt(size)
            states_BTD = states_BTD + learned_TD.to(states_BTD.dtype)
        else:
            positions = torch.arange(begin, end, device=embedded_BTD.device)
            if self._kind == "sinusoidal":
                states_BTD = states_BTD + layers.sinusoids(positions, size, states_BTD.dtype)
            else:
                rotation = layers.rotation(positions, self._head_size, states_BTD.dtype)
        return dropout.dropout(states_BTD, self._dropout_rate, self.training), rotation


class SelfAttention(nn.Module):
    """Multi-head attention of a sequence over itself (section 3.2.2), with its block around it."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        size = options.hidden_size
        self.block = blocks.Block(options)
        self.heads = _heads(options)
        # One product for queries, keys and values; each third is initialised as a layer of its own.
        self.projection = layers.linear(size, 3 * size)
        for third_DD in self.projection.weight.chunk(3):
            nn.init.xavier_uniform_(third_DD)

    def project(
        self,
        states: torch.Tensor,
        rotation: torch.Tensor | None,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns queries, keys and values [B, H, T, E], the first two rotated.

        Args:
            states: [B, T, D], or with `rows` [R, D].
            rotation: of rotary positions.
            rows: what the states are rows of.
        """
        projected = rows.put(self.projection(self.block.before(states)))
        thirds = projected.chunk(3, dim=-1)
        query_BHTE, key_BHTE, value_BHTE = (self.heads.split(third) for third in thirds)
        if rotation is not None:
            query_BHTE = layers.rotate(query_BHTE, rotation)
            key_BHTE = layers.rotate(key_BHTE, rotation)
        return query_BHTE, key_BHTE, value_BHTE

    def forward(
        self,
        states: torch.Tensor,
        query_BHTE: torch.Tensor,
        key_BHLE: torch.Tensor,
        value_BHLE: torch.Tensor,
        mask: torch.Tensor,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
    ) -> torch.Tensor:
        """Returns the states after the block, in the shape that they come in (see `project`)."""
        change, _ = self.heads(query_BHTE, key_BHLE, value_BHLE, mask, rows)
        return self.block.after(states, change)


class CrossAttention(nn.Module):
    """Multi-head attention over the memory, with its block around it."""

    def __init__(self, options: Options, memory_size: int) -> None:
        super().__init__()
        size = options.hidden_size
        self.block = blocks.Block(options)
        self.heads = _heads(options)
        self.query = layers.linear(size, size)
        self.key = layers.linear(memory_size, size)
        self.value = layers.linear(memory_size, size)

    def keys_values(self, source: Source) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values [B, H, S, E] of the memory."""
        key_BSD = source.rows.put(self.key(source.states))
        value_BSD = source.rows.put(self.value(source.values))
        return self.heads.split(key_BSD), self.heads.split(value_BSD)

    def forward(
        self,
        states: torch.Tensor,
        key_BHSE: torch.Tensor,
        value_BHSE: torch.Tensor,
        mask_B11S: torch.Tensor,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states after the block, and weights [B, T, S] if wanted (mean over heads).

        The states are [B, T, D], or with `rows` [R, D].
        """
        query_BHTE = self.heads.split(rows.put(self.query(self.block.before(states))))
        change, weights_BHTS = self.heads(query_BHTE, key_BHSE, value_BHSE, mask_B11S, rows)
        states = self.block.after(states, change)
        if not with_attention:
            return states, None
        if weights_BHTS is None:
            weights_BHTS = attention.attention_weights(
                query_BHTE, key_BHSE, mask_B11S, scale=self.heads.scale
            )
        return states, weights_BHTS.mean(1)


def _heads(options: Options) -> attention.Heads:
    return attention.Heads(options.hidden_size, options.num_heads, options.attention_dropout)
