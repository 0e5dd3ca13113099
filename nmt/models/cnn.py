"""ConvS2S, the convolutional encoder-decoder (Gehring et al. 2017).

Equations and section numbers below are those of the paper. A convolution is written as a product of
its window with one matrix, so that training over all positions and a step over the last k - 1 inputs
use the same weights in the same way.
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

# Residual sums are scaled so that they keep their variance (section 3.4).
HALF_VARIANCE = math.sqrt(0.5)


def build_encoder(options: families.CnnEncoderOptions) -> base.Encoder:
    """Returns a convolutional encoder."""
    return CnnEncoder(options)


def build_decoder(options: families.CnnDecoderOptions, memory_size: int) -> base.Decoder:
    """Returns a convolutional decoder over a memory of width M."""
    return CnnDecoder(options, memory_size)


class CnnEncoder(base.Encoder):
    """Gated convolutions over embeddings with positions."""

    def __init__(self, options: families.CnnEncoderOptions) -> None:
        super().__init__()
        self.embedding_size = options.embedding_size
        self.output_size = options.embedding_size
        self.max_positions = options.max_positions
        self._dropout_rate = options.dropout
        self._side = options.kernel_size // 2
        self.positions = layers.LearnedPositions(
            options.max_positions, options.embedding_size, options.embedding_size**-0.5
        )
        self.widen = WeightNormLinear(options.embedding_size, options.hidden_size)
        self.convolutions = layers.Stack[_Convolution](
            _Convolution(options.hidden_size, options.kernel_size, options.dropout)
            for _ in range(options.num_layers)
        )
        self.narrow = WeightNormLinear(options.hidden_size, options.embedding_size)

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> base.Memory:
        """Reads the source; see `base.Encoder.encode`."""
        real_BS1 = mask_BS.unsqueeze(-1)
        embedded_BSE = embedded_BSE + self.positions(0, embedded_BSE.shape[1])
        # Under autocast all that is added to the residual stream has its dtype; mixed sums are slow.
        embedded_BSE = embedded_BSE.to(fused.product_dtype(embedded_BSE))
        embedded_BSE = dropout.dropout(embedded_BSE, self._dropout_rate, self.training)
        states_BSD = self.widen(embedded_BSE)
        for convolution in self.convolutions:
            # A window that reaches over the end must see zeros there, not a neighbour's length.
            inputs_BSD = dropout.dropout(states_BSD, self._dropout_rate, self.training) * real_BS1
            padded_BSD = F.pad(inputs_BSD, (0, 0, self._side, self._side))
            gated_BSD = convolution(_windows(padded_BSD, 2 * self._side + 1))
            states_BSD = (states_BSD + gated_BSD) * HALF_VARIANCE
        states_BSE = self.narrow(states_BSD)
        # Section 3.3: what is read is the output plus the input embedding.
        values_BSE = (states_BSE + embedded_BSE) * HALF_VARIANCE
        pooled_BE = base.masked_mean(states_BSE, mask_BS)
        return base.Memory(states_BSE, mask_BS, pooled_BE, values_BSE)

    def shardable(self) -> Sequence[nn.Module]:
        """Returns the convolutions; see `base.Encoder.shardable`."""
        return list(self.convolutions)


class CnnDecoder(base.Decoder):
    """Causal gated convolutions, each with an attention of its own (multi-step attention)."""

    def __init__(self, options: families.CnnDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.embedding_size = options.embedding_size
        self.max_positions = options.max_positions
        self._dropout_rate = options.dropout
        self._kernel_size = options.kernel_size
        self.positions = layers.LearnedPositions(
            options.max_positions, options.embedding_size, options.embedding_size**-0.5
        )
        self.widen = WeightNormLinear(options.embedding_size, options.hidden_size)
        self.convolutions = layers.Stack[_Convolution](
            _Convolution(options.hidden_size, options.kernel_size, options.dropout)
            for _ in range(options.num_layers)
        )
        self.attentions = layers.Stack[_Attention](
            _Attention(options, memory_size) for _ in range(options.num_layers)
        )
        self.narrow = WeightNormLinear(options.hidden_size, options.embedding_size)

    def decode(
        self, embedded_BTE: torch.Tensor, memory: base.Memory, *, with_attention: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing; see `base.Decoder.decode`."""
        if self.training:
            memory = self._scale_gradient(memory)
        source = _source(memory)
        embedded_BTE = self._embed(embedded_BTE, 0, embedded_BTE.shape[1])
        states_BTD = self.widen(embedded_BTE)
        mean_BTS = None
        for convolution, attend in zip(self.convolutions, self.attentions, strict=True):
            inputs_BTD = dropout.dropout(states_BTD, self._dropout_rate, self.training)
            # Only the left side is padded: a position sees itself and those before it.
            padded_BTD = F.pad(inputs_BTD, (0, 0, self._kernel_size - 1, 0))
            gated_BTD = convolution(_windows(padded_BTD, self._kernel_size))
            attended_BTD, weights_BTS = attend(
                gated_BTD, embedded_BTE, source, with_attention=with_attention
            )
            states_BTD = (states_BTD + attended_BTD) * HALF_VARIANCE
            mean_BTS = _sum(mean_BTS, weights_BTS)
        states_BTE = dropout.dropout(self.narrow(states_BTD), self._dropout_rate, self.training)
        if mean_BTS is None:
            return states_BTE, None
        return states_BTE, mean_BTS / len(self.attentions)

    def shardable(self) -> Sequence[nn.Module]:
        """Returns convolutions and attentions; see `base.Decoder.shardable`."""
        return [*self.convolutions, *self.attentions]

    def start(self, memory: base.Memory) -> decoder_state.DecoderState:
        """Folds the weight normalisation once and starts with empty windows.

        Layers that `quantized` has replaced were folded when the model was loaded.
        """
        num_sentences = memory.states_BSM.shape[0]
        source = _source(memory)
        fixed = {
            name: module.folded()
            for name, module in self.named_modules()
            if isinstance(module, WeightNormLinear)
        }
        hidden_size = self.convolutions.at(0).size
        empty_NX = memory.states_BSM.new_zeros(num_sentences, (self._kernel_size - 1) * hidden_size)
        return decoder_state.DecoderState(
            sentence={
                "keys": source.keys_BSM,
                "values": source.values_BSM,
                "mask": source.mask_B1S,
                "scale": source.scale_B11,
            },
            hypothesis={f"{index}.window": empty_NX for index in range(len(self.convolutions))},
            fixed=fixed,
        )

    def step(
        self,
        embedded_NE: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Goes one position on, from the last k - 1 inputs of each convolution."""
        beam = state.num_hypotheses
        entry, fixed = state.sentence, state.fixed
        source = _Source(entry["keys"], entry["values"], entry["mask"], entry["scale"])
        embedded_NE = self._embed(embedded_NE, state.position, state.position + 1)
        embedded_BKE = embedded_NE.view(-1, beam, embedded_NE.shape[-1])
        states_ND = self.widen(embedded_NE, fixed.get("widen"))
        hypothesis = {}
        mean_BKS = None
        for index, convolution in enumerate(self.convolutions):
            window_NX = torch.cat([state.hypothesis[f"{index}.window"], states_ND], dim=-1)
            hypothesis[f"{index}.window"] = window_NX[:, states_ND.shape[-1] :]
            gated_ND = convolution(window_NX, fixed.get(f"convolutions.{index}.linear"))
            names = (f"attentions.{index}.query", f"attentions.{index}.output")
            attended_BKD, weights_BKS = self.attentions.at(index)(
                gated_ND.view(-1, beam, gated_ND.shape[-1]),
                embedded_BKE,
                source,
                folded=(fixed.get(names[0]), fixed.get(names[1])),
                with_attention=with_attention,
            )
            states_ND = (states_ND + attended_BKD.flatten(0, 1)) * HALF_VARIANCE
            mean_BKS = _sum(mean_BKS, weights_BKS)
        states_NE = self.narrow(states_ND, fixed.get("narrow"))
        weights_NS = None
        if mean_BKS is not None:
            weights_NS = (mean_BKS / len(self.attentions)).flatten(0, 1)
        next_state = dataclasses.replace(state, position=state.position + 1, hypothesis=hypothesis)
        return states_NE, weights_NS, next_state

    def _embed(self, embedded: torch.Tensor, begin: int, end: int) -> torch.Tensor:
        """Returns embeddings with the vectors of positions begin to end added."""
        embedded = embedded + self.positions(begin, end)
        embedded = embedded.to(fused.product_dtype(embedded))
        return dropout.dropout(embedded, self._dropout_rate, self.training)

    def _scale_gradient(self, memory: base.Memory) -> base.Memory:
        """Divides the encoder's gradient by the number of attentions that it comes through.

        Source: section 3.4. Deviation: the paper leaves out the source embeddings, whose direct way
        into the values is scaled here like the rest, since a decoder sees a memory as a whole.
        """
        factor = 1.0 / (2.0 * len(self.attentions))
        return dataclasses.replace(
            memory,
            states_BSM=_scaled_gradient(memory.states_BSM, factor),
            values_BSM=_scaled_gradient(memory.values_BSM, factor),
        )


@dataclasses.dataclass(frozen=True)
class _Source:
    """What attention reads, and its factor m * sqrt(1 / m) for m real source tokens (section 3.4)."""

    keys_BSM: torch.Tensor
    values_BSM: torch.Tensor
    mask_B1S: torch.Tensor
    scale_B11: torch.Tensor


def _source(memory: base.Memory) -> _Source:
    mask_B1S = attention.additive_mask(memory.mask_BS, memory.states_BSM)[:, None]
    num_tokens_B11 = memory.mask_BS.sum(1)[:, None, None].to(memory.states_BSM.dtype)
    return _Source(memory.states_BSM, memory.values_BSM, mask_B1S, num_tokens_B11.sqrt())


class _Attention(nn.Module):
    """Attention of one decoder layer (equations 1 and 2)."""

    def __init__(self, options: families.CnnDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.query = WeightNormLinear(options.hidden_size, options.embedding_size)
        # The paper's widths are equal; a memory of another family may be wider.
        self.match = (
            None
            if memory_size == options.embedding_size
            else layers.linear(options.embedding_size, memory_size)
        )
        self.output = WeightNormLinear(memory_size, options.hidden_size)

    def forward(
        self,
        gated_BQD: torch.Tensor,
        embedded_BQE: torch.Tensor,
        source: _Source,
        *,
        folded: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns states with the context added [B, Q, D], and the weights [B, Q, S] if wanted."""
        query_BQM = (self.query(gated_BQD, folded[0]) + embedded_BQE) * HALF_VARIANCE
        if self.match is not None:
            query_BQM = self.match(query_BQM)
        query_B1QM = query_BQM.unsqueeze(1)
        keys_B1SM, values_B1SM, mask_B11S = (
            tensor.unsqueeze(1).to(query_BQM.dtype)
            for tensor in (source.keys_BSM, source.values_BSM, source.mask_B1S)
        )
        context_B1QM, weights_B1QS = attention.attend(
            query_B1QM, keys_B1SM, values_B1SM, mask_B11S, scale=1.0
        )
        if with_attention and weights_B1QS is None:
            weights_B1QS = attention.attention_weights(query_B1QM, keys_B1SM, mask_B11S, scale=1.0)
        context_BQM = context_B1QM.squeeze(1)
        context_BQD = self.output(context_BQM * source.scale_B11, folded[1])
        attended_BQD = (gated_BQD + context_BQD) * HALF_VARIANCE
        if not with_attention or weights_B1QS is None:
            return attended_BQD, None
        return attended_BQD, weights_B1QS.squeeze(1)


class _Convolution(nn.Module):
    """A convolution as one product of windows [..., k * D], with a gated linear unit (section 3.2)."""

    def __init__(self, size: int, kernel_size: int, dropout_rate: float) -> None:
        super().__init__()
        self.size = size
        # Section 3.5: variance 4 (1 - p) / n before a gated linear unit, n = k * D inputs.
        std = math.sqrt(4.0 * (1.0 - dropout_rate) / (kernel_size * size))
        self.linear = WeightNormLinear(kernel_size * size, 2 * size, std=std)

    def forward(self, windows: torch.Tensor, folded: torch.Tensor | None = None) -> torch.Tensor:
        """Returns gated outputs [..., D]."""
        return F.glu(self.linear(windows, folded), dim=-1)


class WeightNormLinear(nn.Module):
    """A linear layer whose rows have a direction and a length (Salimans and Kingma 2016, eq. 2)."""

    def __init__(self, in_size: int, out_size: int, *, std: float | None = None) -> None:
        super().__init__()
        # Section 3.5: variance 1 / n for layers whose output is not gated.
        direction = torch.empty(out_size, in_size).normal_(0.0, std or in_size**-0.5)
        self.direction = nn.Parameter(direction)
        self.length = nn.Parameter(direction.norm(dim=1, keepdim=True))
        self.bias = nn.Parameter(torch.zeros(out_size))

    def folded(self) -> torch.Tensor:
        """Returns the weight [out, in] that direction and length stand for."""
        weight: torch.Tensor = self.direction * (
            self.length / self.direction.norm(dim=1, keepdim=True)
        )
        return weight

    def forward(self, inputs: torch.Tensor, folded: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the product, with a weight that was folded before if there is one."""
        weight = self.folded() if folded is None else folded
        if fused.applies_to(inputs, weight):
            return fused.linear(inputs, weight, self.bias)
        return F.linear(inputs, weight, self.bias)


def _sum(total: torch.Tensor | None, part: torch.Tensor | None) -> torch.Tensor | None:
    return part if total is None or part is None else total + part


def _windows(padded_BTD: torch.Tensor, kernel_size: int) -> torch.Tensor:
    """Returns each position's window [B, T - k + 1, k * D], its oldest input first."""
    length = padded_BTD.shape[1] - kernel_size + 1
    shifted = [padded_BTD[:, offset : offset + length] for offset in range(kernel_size)]
    return torch.cat(shifted, dim=-1)


def _scaled_gradient(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    """Returns the tensor unchanged, with its gradient multiplied by the factor."""
    return tensor * factor + tensor.detach() * (1.0 - factor)
