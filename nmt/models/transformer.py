"""The Transformer (Vaswani et al. 2017).

Options: normalisation before or after each block (pre-norm: Xiong et al. 2020), LayerNorm or RMSNorm
(Zhang and Sennrich 2019), ReLU, GELU or SwiGLU (Shazeer 2020), and sinusoidal, learned or rotary
positions (Su et al. 2021).

The decoder's self-attention has one body for both phases: `decode` gives it all target positions under
a causal mask, `step` one position of every hypothesis over the slots of the history. What may stand in
its place is in `autoregression.py`; it carries one vector a hypothesis instead.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from nmt.config import families
from nmt.models import attention, autoregression, base, blocks, layers, sublayers
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
        self.input = sublayers.Input(options)
        self.layers = layers.Stack[_EncoderLayer](
            _EncoderLayer(options) for _ in range(options.num_layers)
        )
        self.final_norm = _final_norm(options)

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> base.Memory:
        """Reads the source; see `base.Encoder.encode`."""
        states_BSD, rotation = self.input(embedded_BSE, 0)
        mask_B11S = attention.additive_mask(mask_BS, states_BSD)[:, None, None, :]
        rows = position_rows.where_they_pay(states_BSD, mask_BS)
        states = rows.take(states_BSD)
        for layer in self.layers:
            states = layer(states, mask_B11S, rotation, rows)
        states_BSD = rows.put(self.final_norm(states))
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
        self.input = sublayers.Input(options)
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
        source = sublayers.Source.of(memory, may_be_rows=True)
        # What stands in the place of self-attention goes along the sentences by itself.
        has_attention = all(layer.autoregression is None for layer in self.layers)
        rows = position_rows.AS_THEY_ARE
        if has_attention:
            rows = position_rows.where_they_pay(states_BTD)
        states = rows.take(states_BTD)
        weights_BTS = None
        for layer in self.layers:
            wanted = with_attention and layer is self.layers.at(-1)
            states, weights_BTS = layer(
                states, source, (causal_TT, mask_B11S), rotation, rows, with_attention=wanted
            )
        return rows.put(self.final_norm(states)), weights_BTS

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
            key_BHSE, value_BHSE = layer.cross_attention.keys_values(sublayers.Source.of(memory))
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


class _EncoderLayer(nn.Module):
    def __init__(self, options: Options) -> None:
        super().__init__()
        self.self_attention = sublayers.SelfAttention(options)
        self.feed_forward = blocks.FeedForwardBlock(options)

    def forward(
        self,
        states: torch.Tensor,
        mask_B11S: torch.Tensor,
        rotation: torch.Tensor | None,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
    ) -> torch.Tensor:
        heads = self.self_attention.project(states, rotation, rows)
        states = self.self_attention(states, *heads, mask_B11S, rows)
        after: torch.Tensor = self.feed_forward(states)
        return after


class _DecoderLayer(nn.Module):
    self_attention: sublayers.SelfAttention  # only where nothing stands in its place

    def __init__(self, options: families.TransformerDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.autoregression = autoregression.build(options)
        if self.autoregression is None:
            self.self_attention = sublayers.SelfAttention(options)
        self.cross_attention = sublayers.CrossAttention(options, memory_size)
        self.feed_forward = blocks.FeedForwardBlock(options)

    def forward(
        self,
        states: torch.Tensor,
        source: sublayers.Source,
        masks: tuple[torch.Tensor, torch.Tensor],
        rotation: torch.Tensor | None,
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
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
        rows: position_rows.Rows = position_rows.AS_THEY_ARE,
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


def _final_norm(options: Options) -> nn.Module:
    """Returns the normalisation that pre-norm needs once more at the end."""
    is_pre = options.norm_position == "pre"
    return layers.norm(options.norm, options.hidden_size) if is_pre else nn.Identity()
