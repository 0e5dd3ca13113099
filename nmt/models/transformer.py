"""The Transformer (Vaswani et al. 2017).

Options: normalisation before or after each block (pre-norm: Xiong et al. 2020), LayerNorm or RMSNorm
(Zhang and Sennrich 2019), ReLU, GELU or SwiGLU (Shazeer 2020), and sinusoidal, learned or rotary
positions (Su et al. 2021).

The decoder's self-attention has one body for both phases: `decode` gives it all target positions under
a causal mask, `step` one position of every hypothesis over the slots of the history. What may stand in
its place is in `autoregression.py`; it carries one vector a hypothesis instead.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn

from nmt.config import families
from nmt.models import attention, autoregression, base, blocks, dropout, fused, layers
from nmt.models import rows as position_rows
from nmt.models import state as decoder_state

Options = blocks.Options


def build_encoder(options: families.TransformerEncoderOptions) -> base.Encoder:
    """Returns a Transformer encoder."""
    return TransformerEncoder(options)


def build_decoder(options: families.TransformerDecoderOptions, memory_size: int) -> base.Decoder:
    """Returns a Transformer decoder over a memory of width M."""
    return TransformerDecoder(options, memory_size)


class TransformerEncoder(base.Encoder):
    """A stack of self-attention and feed-forward blocks."""

    def __init__(self, options: families.TransformerEncoderOptions) -> None:
        super().__init__()
        self.embedding_size = options.hidden_size
        self.output_size = options.hidden_size
        self.max_positions = options.max_positions if options.positions == "learned" else None
        self.input = _Input(options)
        self.layers = layers.Stack[_EncoderLayer](
            _EncoderLayer(options) for _ in range(options.num_layers)
        )
        self.final_norm = _final_norm(options)

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> base.Memory:
        """Reads the source; see `base.Encoder.encode`."""
        states_BSD, rotation = self.input(embedded_BSE, 0)
        mask_B11S = attention.additive_mask(mask_BS, states_BSD)[:, None, None, :]
        rows = position_rows.Rows.where_they_pay(states_BSD, mask_BS)
        states = states_BSD if rows is None else rows.take(states_BSD)
        for layer in self.layers:
            states = layer(states, mask_B11S, rotation, rows)
        states = self.final_norm(states)
        states_BSD = states if rows is None else rows.put(states)
        return base.Memory(
            states_BSD, mask_BS, base.masked_mean(states_BSD, mask_BS), values_BSM=states_BSD
        )

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the layers; see `base.Encoder.shardable`."""
        return list(self.layers)


class TransformerDecoder(base.Decoder):
    """A stack of self-attention, attention over the memory, and feed-forward blocks."""

    def __init__(self, options: families.TransformerDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.embedding_size = options.hidden_size
        self.max_positions = options.max_positions if options.positions == "learned" else None
        self.input = _Input(options)
        self.layers = layers.Stack[_DecoderLayer](
            _DecoderLayer(options, memory_size) for _ in range(options.num_layers)
        )
        self.final_norm = _final_norm(options)

    def decode(
        self, embedded_BTE: torch.Tensor, memory: base.Memory, *, with_attention: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing; see `base.Decoder.decode`."""
        states_BTD, rotation = self.input(embedded_BTE, 0)
        causal_TT = attention.causal_mask(embedded_BTE.shape[1], states_BTD)
        mask_B11S = attention.additive_mask(memory.mask_BS, states_BTD)[:, None, None, :]
        source = _Source.of(memory, may_be_rows=True)
        # What stands in the place of self-attention goes along the sentences by itself.
        has_attention = all(layer.autoregression is None for layer in self.layers)
        rows = position_rows.Rows.where_they_pay(states_BTD) if has_attention else None
        states = states_BTD if rows is None else rows.take(states_BTD)
        weights_BTS = None
        for layer in self.layers:
            wanted = with_attention and layer is self.layers.at(-1)
            states, weights_BTS = layer(
                states, source, (causal_TT, mask_B11S), rotation, rows, with_attention=wanted
            )
        states = self.final_norm(states)
        return states if rows is None else rows.put(states), weights_BTS

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the layers; see `base.Decoder.shardable`."""
        return list(self.layers)

    def start(self, memory: base.Memory) -> decoder_state.DecoderState:
        """Computes the keys and values of the memory once; see `base.Decoder.start`."""
        num_sentences, num_positions, _ = memory.states_BSM.shape
        memory = memory.padded_to(decoder_state.padded_length(num_positions))
        sentence = {"source": memory.mask_BS[:, :num_positions]}
        sentence["mask"] = attention.additive_mask(memory.mask_BS, memory.states_BSM)[:, None, None]
        history, hypothesis = {}, {}
        for index, layer in enumerate(self.layers):
            key_BHSE, value_BHSE = layer.cross_attention.keys_values(_Source.of(memory))
            sentence[f"{index}.key"] = key_BHSE.contiguous()
            sentence[f"{index}.value"] = value_BHSE.contiguous()
            if layer.autoregression is not None:
                carried_BD = autoregression.start(memory.states_BSM, self.embedding_size)
                hypothesis[f"{index}.carried"] = carried_BD
                continue
            for name in ("key", "value"):
                history[f"{index}.{name}"] = decoder_state.History.empty(key_BHSE)
        visible_BKL = decoder_state.start_history(num_sentences, memory.states_BSM)
        return decoder_state.DecoderState(
            sentence=sentence,
            hypothesis=hypothesis,
            history=history,
            visible_BKL=visible_BKL if history else None,
        )

    def step(
        self,
        embedded_NE: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Goes one position on; see `base.Decoder.step`.

        The K hypotheses of a sentence stand where teacher forcing has positions: they query one set
        of slots, and `visible_BKL` stands where the causal mask was.
        """
        beam = state.num_hypotheses
        embedded_BKE = embedded_NE.view(-1, beam, embedded_NE.shape[-1])
        states_BKD, rotation = self.input(embedded_BKE, state.position, same_position=True)
        visible_BKL = decoder_state.see_own_slot(state) if state.history else None
        history, hypothesis = dict(state.history), dict(state.hypothesis)
        weights_BKS = None
        for index, layer in enumerate(self.layers):
            if layer.autoregression is not None:
                name = f"{index}.carried"
                states_BKD, hypothesis[name] = layer.autoregression.step(
                    states_BKD, hypothesis[name], state.position
                )
            else:
                assert visible_BKL is not None, "self-attention has a history"
                heads = layer.self_attention.project(states_BKD, rotation)
                for name, entries_BHKE in zip(("key", "value"), heads[1:], strict=True):
                    entry = history[f"{index}.{name}"].append(entries_BHKE, state.num_slots)
                    history[f"{index}.{name}"] = entry
                num_slots = state.num_slots + beam
                own = (history[f"{index}.{name}"].padded(num_slots) for name in ("key", "value"))
                states_BKD = layer.self_attention(states_BKD, heads[0], *own, visible_BKL[:, None])
            key_BHSE, value_BHSE = (state.sentence[f"{index}.{name}"] for name in ("key", "value"))
            states_BKD, weights_BKS = layer.read_memory(
                states_BKD,
                (key_BHSE, value_BHSE, state.sentence["mask"]),
                with_attention=with_attention and layer is self.layers.at(-1),
            )
        if weights_BKS is not None:
            weights_BKS = weights_BKS[..., : state.sentence["source"].shape[1]].flatten(0, 1)
        next_state = dataclasses.replace(
            state,
            position=state.position + 1,
            hypothesis=hypothesis,
            history=history,
            visible_BKL=visible_BKL,
        )
        return self.final_norm(states_BKD).flatten(0, 1), weights_BKS, next_state


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the layers of a decoder make keys and values of: the memory, or its rows.

    Attributes:
        states: [B, S, M], or with `rows` [R, M].
        values: likewise.
        rows: what they are rows of.
    """

    states: torch.Tensor
    values: torch.Tensor
    rows: position_rows.Rows | None = None

    @classmethod
    def of(cls, memory: base.Memory, *, may_be_rows: bool = False) -> "_Source":
        """Returns the source, as rows where they may be and pay."""
        states, values = memory.states_BSM, memory.values_BSM
        rows = position_rows.Rows.where_they_pay(states) if may_be_rows else None
        if rows is None:
            return cls(states, values)
        taken = rows.take(states)
        return cls(taken, taken if values is states else rows.take(values), rows)


class _Input(nn.Module):
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


class _SelfAttention(nn.Module):
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
        rows: position_rows.Rows | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns queries, keys and values [B, H, T, E], the first two rotated.

        Args:
            states: [B, T, D], or with `rows` [R, D].
            rotation: of rotary positions.
            rows: what the states are rows of.
        """
        projected = self.projection(self.block.before(states))
        if rows is not None:
            projected = rows.put(projected)
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
        rows: position_rows.Rows | None = None,
    ) -> torch.Tensor:
        """Returns the states after the block, in the shape that they come in (see `project`)."""
        change, _ = self.heads(query_BHTE, key_BHLE, value_BHLE, mask, rows)
        return self.block.after(states, change)


class _CrossAttention(nn.Module):
    """Multi-head attention over the memory, with its block around it."""

    def __init__(self, options: Options, memory_size: int) -> None:
        super().__init__()
        size = options.hidden_size
        self.block = blocks.Block(options)
        self.heads = _heads(options)
        self.query = layers.linear(size, size)
        self.key = layers.linear(memory_size, size)
        self.value = layers.linear(memory_size, size)

    def keys_values(self, source: _Source) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values [B, H, S, E] of the memory."""
        projected = self.key(source.states), self.value(source.values)
        if source.rows is not None:
            projected = source.rows.put(projected[0]), source.rows.put(projected[1])
        return self.heads.split(projected[0]), self.heads.split(projected[1])

    def forward(
        self,
        states: torch.Tensor,
        key_BHSE: torch.Tensor,
        value_BHSE: torch.Tensor,
        mask_B11S: torch.Tensor,
        rows: position_rows.Rows | None = None,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states after the block, and weights [B, T, S] if wanted (mean over heads).

        The states are [B, T, D], or with `rows` [R, D].
        """
        query = self.query(self.block.before(states))
        query_BHTE = self.heads.split(query if rows is None else rows.put(query))
        change, weights_BHTS = self.heads(query_BHTE, key_BHSE, value_BHSE, mask_B11S, rows)
        states = self.block.after(states, change)
        if not with_attention:
            return states, None
        if weights_BHTS is None:
            weights_BHTS = attention.attention_weights(
                query_BHTE, key_BHSE, mask_B11S, scale=self.heads.scale
            )
        return states, weights_BHTS.mean(1)


class _EncoderLayer(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.self_attention = _SelfAttention(options)
        self.feed_forward = blocks.FeedForwardBlock(options)

    def forward(
        self,
        states: torch.Tensor,
        mask_B11S: torch.Tensor,
        rotation: torch.Tensor | None,
        rows: position_rows.Rows | None = None,
    ) -> torch.Tensor:
        heads = self.self_attention.project(states, rotation, rows)
        states = self.self_attention(states, *heads, mask_B11S, rows)
        after: torch.Tensor = self.feed_forward(states)
        return after


class _DecoderLayer(nn.Module):
    self_attention: _SelfAttention  # only where nothing stands in its place

    def __init__(self, options: families.TransformerDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.autoregression = autoregression.build(options)
        if self.autoregression is None:
            self.self_attention = _SelfAttention(options)
        self.cross_attention = _CrossAttention(options, memory_size)
        self.feed_forward = blocks.FeedForwardBlock(options)

    def forward(
        self,
        states: torch.Tensor,
        source: _Source,
        masks: tuple[torch.Tensor, torch.Tensor],
        rotation: torch.Tensor | None,
        rows: position_rows.Rows | None = None,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns all positions after the layer; the masks are those of the target and of the memory.

        All that teacher forcing does with its parameters is in here; see `base.Decoder.shardable`.
        """
        causal_TT, mask_B11S = masks
        if self.autoregression is None:
            heads = self.self_attention.project(states, rotation, rows)
            states = self.self_attention(states, *heads, causal_TT, rows)
        else:
            states = self.autoregression(states)
        key_BHSE, value_BHSE = self.cross_attention.keys_values(source)
        return self.read_memory(
            states, (key_BHSE, value_BHSE, mask_B11S), rows, with_attention=with_attention
        )

    def read_memory(
        self,
        states: torch.Tensor,
        source: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        rows: position_rows.Rows | None = None,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns what the rest of the layer makes of the states, at all positions or at one.

        Args:
            states: after the first block, [B, T, D], or with `rows` [R, D].
            source: keys and values of the memory, and its additive mask.
            rows: what the states are rows of.
            with_attention: also return the weights.
        """
        states, weights_BTS = self.cross_attention(
            states, *source, rows, with_attention=with_attention
        )
        return self.feed_forward(states), weights_BTS


def _heads(options: Options) -> attention.Heads:
    return attention.Heads(options.hidden_size, options.num_heads, options.attention_dropout)


def _final_norm(options: Options) -> nn.Module:
    """Returns the normalisation that pre-norm needs once more at the end."""
    is_pre = options.norm_position == "pre"
    return layers.norm(options.norm, options.hidden_size) if is_pre else nn.Identity()
