"""The recurrent encoder-decoder, with and without attention.

Cells: LSTM (Hochreiter and Schmidhuber 1997) and GRU (Cho et al. 2014). Attention: none (Cho et al.
2014; Sutskever et al. 2014), additive (Bahdanau et al. 2015), dot and general (Luong et al. 2015).

All kinds of attention share one order of things, that of Luong et al. 2015, section 3: the cell goes
a step, its new state attends, both give the attentional vector that predicts the token and, with
input feeding, enters the next step (section 3.3). Deviation: Bahdanau et al. attend with the state
before the step. Without attention the sentence vector stands where the context would.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from nmt import errors
from nmt.config import families
from nmt.models import base, dropout, fused, layers, recurrence
from nmt.models import state as decoder_state

# The tensors of one layer's recurrent state: (h, c) of an LSTM, (h,) of a GRU; [N, D] each.
CellState = tuple[torch.Tensor, ...]


def build_encoder(options: families.RnnEncoderOptions) -> base.Encoder:
    """Returns a recurrent encoder."""
    return RnnEncoder(options)


def build_decoder(options: families.RnnDecoderOptions, memory_size: int) -> base.Decoder:
    """Returns a recurrent decoder over a memory of width M."""
    return RnnDecoder(options, memory_size)


class RnnEncoder(base.Encoder):
    """A stack of recurrent layers, each in one or both directions."""

    def __init__(self, options: families.RnnEncoderOptions) -> None:
        super().__init__()
        self.embedding_size = options.embedding_size
        self.output_size = options.hidden_size
        self._reverse_source = options.reverse_source
        self._dropout_rate = options.dropout
        directions = 2 if options.bidirectional else 1
        size = options.hidden_size // directions
        inputs = [options.embedding_size] + [options.hidden_size] * (options.num_layers - 1)
        self.forward_layers = _cells(options.cell, inputs, size)
        self.backward_layers = _cells(options.cell, inputs if options.bidirectional else [], size)

    def encode(self, embedded_BSE: torch.Tensor, mask_BS: torch.Tensor) -> base.Memory:
        """Reads the source; see `base.Encoder.encode`.

        Padding is at the end, so a forward layer meets it after the real tokens. Backwards, every
        sentence is turned over on its own, which puts padding at the end again.
        """
        order_BS = _reversal(mask_BS)
        states_BSM = dropout.dropout(embedded_BSE, self._dropout_rate, self.training)
        if self._reverse_source:
            states_BSM = _permute(states_BSM, order_BS)
        for index, cell in enumerate(self.forward_layers):
            if index:
                states_BSM = dropout.dropout(states_BSM, self._dropout_rate, self.training)
            outputs = [cell.run(states_BSM)]
            if self.backward_layers:
                turned = self.backward_layers.at(index).run(_permute(states_BSM, order_BS))
                outputs.append(_permute(turned, order_BS))
            states_BSM = torch.cat(outputs, dim=-1)
        pooled_BM = self._ends(states_BSM, mask_BS)
        if self._reverse_source:
            # Handed on in the order of the text, so that attention weights mean what they say.
            states_BSM = _permute(states_BSM, order_BS)
        return base.Memory(states_BSM, mask_BS, pooled_BM, values_BSM=states_BSM)

    def _ends(self, states_BSM: torch.Tensor, mask_BS: torch.Tensor) -> torch.Tensor:
        """Returns the last state of each direction: forward at the last token, backward at the first."""
        last_B11 = (mask_BS.sum(1) - 1)[:, None, None]
        ends_BM = states_BSM.gather(1, last_B11.expand(-1, 1, states_BSM.shape[-1])).squeeze(1)
        if not self.backward_layers:
            return ends_BM
        half = self.output_size // 2
        return torch.cat([ends_BM[:, :half], states_BSM[:, 0, half:]], dim=-1)


class RnnDecoder(base.Decoder):
    """A stack of recurrent layers, attention, and the attentional vector (Luong et al. 2015, eq. 5).

    The attentional vector has the width of the embedding, so that the output layer can be tied.
    """

    def __init__(self, options: families.RnnDecoderOptions, memory_size: int) -> None:
        super().__init__()
        self.embedding_size = options.embedding_size
        self.attends = options.attention != "none"
        self._input_feeding = options.input_feeding
        self._dropout_rate = options.dropout
        size = options.hidden_size
        feed_size = (self.embedding_size if self.attends else memory_size) * options.input_feeding
        inputs = [options.embedding_size + feed_size] + [size] * (options.num_layers - 1)
        self.cells = _cells(options.cell, inputs, size)
        self._state_parts = 2 if options.cell == "lstm" else 1
        # Bahdanau et al. 2015, appendix A.2.2: the first state is computed from the sentence vector.
        self.initial = layers.linear(memory_size, options.num_layers * self._state_parts * size)
        self.attention = _attention(options, memory_size)
        self._scores_are_products = options.attention in {"dot", "general"}
        self.combine = layers.linear(size + memory_size, options.embedding_size, bias=False)

    def decode(
        self, embedded_BTE: torch.Tensor, memory: base.Memory, *, with_attention: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Teacher forcing; see `base.Decoder.decode`.

        With input feeding (and attention) a position needs the one before, so they go in turn;
        otherwise each layer runs over all positions at once and attention is one product.
        """
        cells, source = self._initial_cells(memory), self._source(memory)
        embedded_BTE = dropout.dropout(embedded_BTE, self._dropout_rate, self.training)
        if self._input_feeding and self.attends:
            if self._has_own_gradients(embedded_BTE):
                states_BTE, made_BTS = self._decode_faster(embedded_BTE, cells[0], source)
                return states_BTE, made_BTS if with_attention else None
            return self._decode_in_turn(embedded_BTE, cells, source, with_attention=with_attention)
        inputs_BTX = embedded_BTE
        if self._input_feeding:
            pooled_BTM = source.pooled_BM[:, None].expand(-1, embedded_BTE.shape[1], -1)
            inputs_BTX = torch.cat([embedded_BTE, pooled_BTM], dim=-1)
        for index, cell in enumerate(self.cells):
            if index:
                inputs_BTX = dropout.dropout(inputs_BTX, self._dropout_rate, self.training)
            inputs_BTX = cell.run(inputs_BTX, cells[index])
        states_BTE, weights_BTS = self._attend(inputs_BTX, source)
        return states_BTE, weights_BTS if with_attention else None

    def _has_own_gradients(self, embedded_BTE: torch.Tensor) -> bool:
        """Returns whether `recurrence` knows this kind of decoder, and training is under way."""
        first = self.cells.at(0)
        is_known = len(self.cells) == 1 and first.is_lstm and self._scores_are_products
        return is_known and fused.applies_to(embedded_BTE, self.combine.weight)

    def _decode_faster(
        self, embedded_BTE: torch.Tensor, first: CellState, source: "_Source"
    ) -> tuple[torch.Tensor, torch.Tensor]:
        w_in, w_hidden, b_in, b_hidden = self.cells.at(0).sequence.parameters()
        return recurrence.run(
            embedded_BTE,
            first,
            (source.keys_BSD, source.values_BSM, source.mask_BS),
            recurrence.Weights(w_in, w_hidden, b_in + b_hidden, self.combine.weight),
            self._dropout_rate if self.training else 0.0,
            fused.product_dtype(embedded_BTE),
        )

    def _decode_in_turn(
        self,
        embedded_BTE: torch.Tensor,
        cells: Sequence[CellState],
        source: "_Source",
        *,
        with_attention: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        feed_BE = torch.zeros_like(embedded_BTE[:, 0])
        outputs, weights = [], []
        for embedded_BE in embedded_BTE.unbind(1):
            hidden_BD, cells = self._advance(torch.cat([embedded_BE, feed_BE], dim=-1), cells)
            states_B1E, weights_B1S = self._attend(hidden_BD.unsqueeze(1), source)
            feed_BE = states_B1E.squeeze(1).to(embedded_BE.dtype)
            outputs.append(feed_BE)
            weights.append(weights_B1S)
        attention_BTS = torch.cat([w for w in weights if w is not None], dim=1)
        return torch.stack(outputs, dim=1), attention_BTS if with_attention else None

    def start(self, memory: base.Memory) -> decoder_state.DecoderState:
        """Projects the memory once; see `base.Decoder.start`."""
        hypothesis = {}
        for index, parts in enumerate(self._initial_cells(memory)):
            for part, tensor in enumerate(parts):
                hypothesis[f"{index}.{part}"] = tensor
        source = self._source(memory)
        sentence = {
            "keys": source.keys_BSD,
            "values": source.values_BSM,
            "mask": source.mask_BS,
            "pooled": source.pooled_BM,
        }
        if self._input_feeding and self.attends:
            states_BSM = memory.states_BSM
            hypothesis["feed"] = states_BSM.new_zeros(states_BSM.shape[0], self.embedding_size)
        return decoder_state.DecoderState(sentence=sentence, hypothesis=hypothesis)

    def step(
        self,
        embedded_NE: torch.Tensor,
        state: decoder_state.DecoderState,
        *,
        with_attention: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None, decoder_state.DecoderState]:
        """Goes one position on; see `base.Decoder.step`."""
        beam = state.num_hypotheses
        entry = state.sentence
        source = _Source(entry["keys"], entry["values"], entry["mask"], entry["pooled"])
        inputs_NX = embedded_NE
        if "feed" in state.hypothesis:
            inputs_NX = torch.cat([embedded_NE, state.hypothesis["feed"]], dim=-1)
        elif self._input_feeding:
            pooled_NM = source.pooled_BM.repeat_interleave(beam, dim=0)
            inputs_NX = torch.cat([embedded_NE, pooled_NM], dim=-1)
        cells = [
            tuple(state.hypothesis[f"{index}.{part}"] for part in range(self._state_parts))
            for index in range(len(self.cells))
        ]
        hidden_ND, cells = self._advance(inputs_NX, cells)
        # The K hypotheses of a sentence query it together, as positions do in training.
        states_BKE, weights_BKS = self._attend(
            hidden_ND.view(-1, beam, hidden_ND.shape[-1]), source
        )
        states_NE = states_BKE.flatten(0, 1)
        hypothesis = {
            f"{index}.{part}": tensor
            for index, parts in enumerate(cells)
            for part, tensor in enumerate(parts)
        }
        if "feed" in state.hypothesis:
            hypothesis["feed"] = states_NE.to(embedded_NE.dtype)
        weights_NS = None
        if with_attention and weights_BKS is not None:
            weights_NS = weights_BKS.flatten(0, 1)
        next_state = dataclasses.replace(state, position=state.position + 1, hypothesis=hypothesis)
        return states_NE, weights_NS, next_state

    def _initial_cells(self, memory: base.Memory) -> list[CellState]:
        flat_BX = torch.tanh(self.initial(memory.pooled_BM)).to(memory.pooled_BM.dtype)
        parts = [
            part.contiguous() for part in flat_BX.chunk(len(self.cells) * self._state_parts, 1)
        ]
        width = self._state_parts
        return [tuple(parts[i : i + width]) for i in range(0, len(parts), width)]

    def _source(self, memory: base.Memory) -> "_Source":
        keys_BSD = memory.states_BSM if self.attention is None else self.attention.keys(memory)
        return _Source(keys_BSD, memory.values_BSM, memory.mask_BS, memory.pooled_BM)

    def _advance(
        self, inputs_NX: torch.Tensor, cells: Sequence[CellState]
    ) -> tuple[torch.Tensor, list[CellState]]:
        """Returns the top layer's output [N, D] and the cells after one step."""
        advanced = []
        for index, cell in enumerate(self.cells):
            if index:
                inputs_NX = dropout.dropout(inputs_NX, self._dropout_rate, self.training)
            parts = cell.step(inputs_NX, cells[index])
            advanced.append(parts)
            inputs_NX = parts[0]
        return inputs_NX, advanced

    def _attend(
        self, hidden_BQD: torch.Tensor, source: "_Source"
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns attentional vectors [B, Q, E] and weights [B, Q, S] (None without attention)."""
        weights_BQS = None
        if self.attention is None:
            context_BQM = source.pooled_BM[:, None].expand(-1, hidden_BQD.shape[1], -1)
        else:
            scores_BQS = self.attention.scores(hidden_BQD, source.keys_BSD)
            scores_BQS = scores_BQS.masked_fill(~source.mask_BS[:, None], float("-inf"))
            weights_BQS = torch.softmax(scores_BQS, dim=-1)
            context_BQM = torch.matmul(weights_BQS.to(source.values_BSM.dtype), source.values_BSM)
        context_BQM = context_BQM.to(hidden_BQD.dtype)
        states_BQE = torch.tanh(self.combine(torch.cat([hidden_BQD, context_BQM], dim=-1)))
        return dropout.dropout(states_BQE, self._dropout_rate, self.training), weights_BQS


@dataclasses.dataclass(frozen=True)
class _Source:
    """What attention needs of the memory, computed once per sentence."""

    keys_BSD: torch.Tensor
    values_BSM: torch.Tensor
    mask_BS: torch.Tensor
    pooled_BM: torch.Tensor


class _Attention(nn.Module):
    """A way to score source positions; `keys` is all that depends on the source alone."""

    def keys(self, memory: base.Memory) -> torch.Tensor:
        """Returns keys [B, S, D]."""
        return memory.states_BSM

    def scores(self, hidden_BQD: torch.Tensor, keys_BSD: torch.Tensor) -> torch.Tensor:
        """Returns scores [B, Q, S]."""
        return torch.matmul(hidden_BQD, keys_BSD.to(hidden_BQD.dtype).transpose(1, 2))


class _GeneralAttention(_Attention):
    """score(h, s) = h^T W s (Luong et al. 2015, equation 8)."""

    def __init__(self, size: int, memory_size: int) -> None:
        super().__init__()
        self.key = layers.linear(memory_size, size, bias=False)

    def keys(self, memory: base.Memory) -> torch.Tensor:
        projected_BSD: torch.Tensor = self.key(memory.states_BSM)
        return projected_BSD


class _AdditiveAttention(_Attention):
    """score(h, s) = v^T tanh(W h + U s) (Bahdanau et al. 2015, appendix A.1.2)."""

    def __init__(self, size: int, memory_size: int) -> None:
        super().__init__()
        self.key = layers.linear(memory_size, size)
        self.query = layers.linear(size, size, bias=False)
        self.energy = layers.linear(size, 1, bias=False)

    def keys(self, memory: base.Memory) -> torch.Tensor:
        projected_BSD: torch.Tensor = self.key(memory.states_BSM)
        return projected_BSD

    def scores(self, hidden_BQD: torch.Tensor, keys_BSD: torch.Tensor) -> torch.Tensor:
        queries_BQD = self.query(hidden_BQD)
        # One position at a time: [B, Q, S, D] at once would be by far the largest tensor of a run.
        columns = [
            self.energy(torch.tanh(query_B1D + keys_BSD)).squeeze(-1)
            for query_B1D in queries_BQD.split(1, dim=1)
        ]
        return torch.stack(columns, dim=1)


def _attention(options: families.RnnDecoderOptions, memory_size: int) -> _Attention | None:
    size = options.hidden_size
    if options.attention == "general":
        return _GeneralAttention(size, memory_size)
    if options.attention == "additive":
        return _AdditiveAttention(size, memory_size)
    if options.attention == "none":
        return None
    if size != memory_size:
        raise errors.ConfigError(
            f"model.decoder.attention: dot compares states of one width (given: decoder {size}, "
            f"encoder {memory_size}). Make the widths equal, or take general."
        )
    return _Attention()


class Cell(nn.Module):
    """One recurrent layer in one direction, to run over a sequence or go a single step.

    The weights are those of `nn.LSTM` and `nn.GRU`, whose kernels are taken for the sequence.
    """

    def __init__(self, kind: str, in_size: int, size: int) -> None:
        super().__init__()
        self.is_lstm = kind == "lstm"
        sequence = nn.LSTM if self.is_lstm else nn.GRU
        self.sequence = sequence(in_size, size, batch_first=True)

    def run(self, inputs_BTX: torch.Tensor, first: CellState | None = None) -> torch.Tensor:
        """Returns outputs [B, T, D], starting from `first` (zeros if None)."""
        if first is None:
            outputs_BTD, _ = self.sequence(inputs_BTX)
        else:
            parts = tuple(part.unsqueeze(0) for part in first)
            outputs_BTD, _ = self.sequence(inputs_BTX, parts if self.is_lstm else parts[0])
        result: torch.Tensor = outputs_BTD
        return result

    def step(self, inputs_NX: torch.Tensor, before: CellState) -> CellState:
        """Returns the state after one input; its first tensor is the output."""
        # In the order of `nn.LSTM` and `nn.GRU`: input and hidden weights, input and hidden biases.
        w_in, w_hidden, b_in, b_hidden = self.sequence.parameters()
        if self.is_lstm:
            return torch.lstm_cell(inputs_NX, before, w_in, w_hidden, b_in, b_hidden)
        return (torch.gru_cell(inputs_NX, before[0], w_in, w_hidden, b_in, b_hidden),)


def _cells(kind: str, in_sizes: Sequence[int], size: int) -> "layers.Stack[Cell]":
    return layers.Stack[Cell](Cell(kind, in_size, size) for in_size in in_sizes)


def _reversal(mask_BS: torch.Tensor) -> torch.Tensor:
    """Returns positions [B, S] that turn each sentence over and leave its padding where it is.

    Three real tokens and two of padding: 2 1 0 3 4. Doing it twice does nothing.
    """
    positions_1S = torch.arange(mask_BS.shape[1], device=mask_BS.device).unsqueeze(0)
    turned_BS = mask_BS.sum(1, keepdim=True) - 1 - positions_1S
    return torch.where(mask_BS, turned_BS, positions_1S)


def _permute(states_BSD: torch.Tensor, order_BS: torch.Tensor) -> torch.Tensor:
    return states_BSD.gather(1, order_BS.unsqueeze(-1).expand(-1, -1, states_BSD.shape[-1]))
