"""The Transformer (Vaswani et al. 2017).

Options: normalisation before or after each block (pre-norm: Xiong et al. 2020), LayerNorm or RMSNorm
(Zhang and Sennrich 2019), ReLU, GELU or SwiGLU (Shazeer 2020), and sinusoidal, learned or rotary
positions (Su et al. 2021).

One decoder layer has one body for both phases (`attend`): `decode` gives it all target positions under a
causal mask, `step` one position of every hypothesis over the slots of the history.
"""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from nmt.config import families
from nmt.models import attention, base, dropout, fused, layers
from nmt.models import state as decoder_state

Options = families.TransformerEncoderOptions | families.TransformerDecoderOptions


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
        for layer in self.layers:
            states_BSD = layer(states_BSD, mask_B11S, rotation)
        states_BSD = self.final_norm(states_BSD)
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
        weights_BTS = None
        for layer in self.layers:
            wanted = with_attention and layer is self.layers.at(-1)
            states_BTD, weights_BTS = layer(
                states_BTD, memory, (causal_TT, mask_B11S), rotation, with_attention=wanted
            )
        return self.final_norm(states_BTD), weights_BTS

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the layers; see `base.Decoder.shardable`."""
        return list(self.layers)

    def start(self, memory: base.Memory) -> decoder_state.DecoderState:
        """Computes the keys and values of the memory once; see `base.Decoder.start`."""
        num_sentences, num_positions, _ = memory.states_BSM.shape
        memory = memory.padded_to(decoder_state.padded_length(num_positions))
        sentence = {"source": memory.mask_BS[:, :num_positions]}
        history = {}
        sentence["mask"] = attention.additive_mask(memory.mask_BS, memory.states_BSM)[:, None, None]
        for index, layer in enumerate(self.layers):
            key_BHSE, value_BHSE = layer.cross_attention.keys_values(memory)
            sentence[f"{index}.key"] = key_BHSE.contiguous()
            sentence[f"{index}.value"] = value_BHSE.contiguous()
            for name in ("key", "value"):
                history[f"{index}.{name}"] = decoder_state.History.empty(key_BHSE)
        return decoder_state.DecoderState(
            sentence=sentence,
            history=history,
            visible_BKL=decoder_state.start_history(num_sentences, memory.states_BSM),
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
        visible_BKL = decoder_state.see_own_slot(state)
        num_slots = state.num_slots + beam
        history = dict(state.history)
        weights_BKS = None
        for index, layer in enumerate(self.layers):
            query_BHKE, key_BHKE, value_BHKE = layer.self_attention.project(states_BKD, rotation)
            for name, entries in ((f"{index}.key", key_BHKE), (f"{index}.value", value_BHKE)):
                history[name] = history[name].append(entries, state.num_slots)
            own = (history[f"{index}.{name}"].padded(num_slots) for name in ("key", "value"))
            cross = (state.sentence[f"{index}.{name}"] for name in ("key", "value"))
            sources = _Sources(
                (query_BHKE, *own, visible_BKL[:, None]), (*cross, state.sentence["mask"])
            )
            wanted = with_attention and layer is self.layers.at(-1)
            states_BKD, weights_BKS = layer.attend(states_BKD, sources, with_attention=wanted)
        if weights_BKS is not None:
            weights_BKS = weights_BKS[..., : state.sentence["source"].shape[1]].flatten(0, 1)
        states_ND = self.final_norm(states_BKD).flatten(0, 1)
        next_state = dataclasses.replace(
            state, position=state.position + 1, history=history, visible_BKL=visible_BKL
        )
        return states_ND, weights_BKS, next_state


@dataclasses.dataclass(frozen=True)
class _Sources:
    """What the two attentions of a decoder layer read.

    Attributes:
        own: queries, keys and values of the target, and the additive mask.
        cross: keys and values of the memory, and the additive mask.
    """

    own: tuple[torch.Tensor, ...]
    cross: tuple[torch.Tensor, ...]


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
        self.block = _Block(options)
        self.heads = _heads(options)
        # One product for queries, keys and values; each third is initialised as a layer of its own.
        self.projection = layers.linear(size, 3 * size)
        for third_DD in self.projection.weight.chunk(3):
            nn.init.xavier_uniform_(third_DD)

    def project(
        self, states_BTD: torch.Tensor, rotation: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns queries, keys and values [B, H, T, E], the first two rotated."""
        thirds = self.projection(self.block.before(states_BTD)).chunk(3, dim=-1)
        query_BHTE, key_BHTE, value_BHTE = (self.heads.split(third) for third in thirds)
        if rotation is not None:
            query_BHTE = layers.rotate(query_BHTE, rotation)
            key_BHTE = layers.rotate(key_BHTE, rotation)
        return query_BHTE, key_BHTE, value_BHTE

    def forward(
        self,
        states_BTD: torch.Tensor,
        query_BHTE: torch.Tensor,
        key_BHLE: torch.Tensor,
        value_BHLE: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Returns the states after the block."""
        change_BTD, _ = self.heads(query_BHTE, key_BHLE, value_BHLE, mask)
        return self.block.after(states_BTD, change_BTD)


class _CrossAttention(nn.Module):
    """Multi-head attention over the memory, with its block around it."""

    def __init__(self, options: Options, memory_size: int) -> None:
        super().__init__()
        size = options.hidden_size
        self.block = _Block(options)
        self.heads = _heads(options)
        self.query = layers.linear(size, size)
        self.key = layers.linear(memory_size, size)
        self.value = layers.linear(memory_size, size)

    def keys_values(self, memory: base.Memory) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns keys and values [B, H, S, E] of the memory."""
        key_BSD, value_BSD = self.key(memory.states_BSM), self.value(memory.values_BSM)
        return self.heads.split(key_BSD), self.heads.split(value_BSD)

    def forward(
        self,
        states_BTD: torch.Tensor,
        key_BHSE: torch.Tensor,
        value_BHSE: torch.Tensor,
        mask_B11S: torch.Tensor,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states after the block, and weights [B, T, S] if wanted (mean over heads)."""
        query_BHTE = self.heads.split(self.query(self.block.before(states_BTD)))
        change_BTD, weights_BHTS = self.heads(query_BHTE, key_BHSE, value_BHSE, mask_B11S)
        states_BTD = self.block.after(states_BTD, change_BTD)
        if not with_attention:
            return states_BTD, None
        if weights_BHTS is None:
            weights_BHTS = attention.attention_weights(
                query_BHTE, key_BHSE, mask_B11S, scale=self.heads.scale
            )
        return states_BTD, weights_BHTS.mean(1)


class _Block(nn.Module):
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


class _FeedForward(nn.Module):
    """Two linear maps with an activation between (section 3.3; SwiGLU: Shazeer 2020, eq. 6)."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._activation = options.activation
        gates = 2 if options.activation == "swiglu" else 1
        self.block = _Block(options)
        self.inner = layers.linear(options.hidden_size, gates * options.feedforward_size)
        self.outer = layers.linear(options.feedforward_size, options.hidden_size)
        inner_rate = options.activation_dropout
        self._dropout_rate = options.dropout if inner_rate is None else inner_rate

    def forward(self, states_BTD: torch.Tensor) -> torch.Tensor:
        """Returns the states after the block."""
        inputs_BTD = self.block.before(states_BTD)
        if self._activation == "relu" and fused.applies_to(inputs_BTD, self.inner.weight):
            rate = self._dropout_rate if self.training else 0.0
            change_BTD = fused.feed_forward(inputs_BTD, self.inner, self.outer, rate)
            return self.block.after(states_BTD, change_BTD)
        inner = self.inner(inputs_BTD)
        if self._activation == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        else:
            inner = F.relu(inner) if self._activation == "relu" else F.gelu(inner)
        inner = dropout.dropout(inner, self._dropout_rate, self.training)
        return self.block.after(states_BTD, self.outer(inner))


class _EncoderLayer(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.self_attention = _SelfAttention(options)
        self.feed_forward = _FeedForward(options)

    def forward(
        self, states_BSD: torch.Tensor, mask_B11S: torch.Tensor, rotation: torch.Tensor | None
    ) -> torch.Tensor:
        heads = self.self_attention.project(states_BSD, rotation)
        states_BSD = self.self_attention(states_BSD, *heads, mask_B11S)
        after_BSD: torch.Tensor = self.feed_forward(states_BSD)
        return after_BSD


class _DecoderLayer(nn.Module):
    def __init__(self, options: Options, memory_size: int) -> None:
        super().__init__()
        self.self_attention = _SelfAttention(options)
        self.cross_attention = _CrossAttention(options, memory_size)
        self.feed_forward = _FeedForward(options)

    def forward(
        self,
        states_BTD: torch.Tensor,
        memory: base.Memory,
        masks: tuple[torch.Tensor, torch.Tensor],
        rotation: torch.Tensor | None,
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns all positions after the layer; the masks are those of the target and of the memory.

        All that teacher forcing does with its parameters is in here; see `base.Decoder.shardable`.
        """
        causal_TT, mask_B11S = masks
        heads = self.self_attention.project(states_BTD, rotation)
        cross_heads = self.cross_attention.keys_values(memory)
        sources = _Sources((*heads, causal_TT), (*cross_heads, mask_B11S))
        return self.attend(states_BTD, sources, with_attention=with_attention)

    def attend(
        self, states_BTD: torch.Tensor, sources: _Sources, *, with_attention: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the states after the layer, at all positions or at one; the body of both phases."""
        states_BTD = self.self_attention(states_BTD, *sources.own)
        states_BTD, weights_BTS = self.cross_attention(
            states_BTD, *sources.cross, with_attention=with_attention
        )
        return self.feed_forward(states_BTD), weights_BTS


def _heads(options: Options) -> attention.Heads:
    return attention.Heads(options.hidden_size, options.num_heads, options.attention_dropout)


def _final_norm(options: Options) -> nn.Module:
    """Returns the normalisation that pre-norm needs once more at the end."""
    is_pre = options.norm_position == "pre"
    return layers.norm(options.norm, options.hidden_size) if is_pre else nn.Identity()
