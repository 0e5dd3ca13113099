"""The recurrent family against nn.LSTM, nn.GRU, and the attention formulas written plainly."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from nmt import errors
from nmt.config import families
from nmt.models import base, rnn
from nmt.models import state as decoder_state

LENGTHS = [5, 1, 3]
SIZE, MEMORY = 6, 6  # of the decoder's state and of the memory; equal, so that dot can be taken


def _encoder(randomized: Callable[..., Any], **options: Any) -> rnn.RnnEncoder:
    chosen = families.RnnEncoderOptions(embedding_size=4, hidden_size=6, **options)
    encoder = rnn.build_encoder(chosen)
    assert isinstance(encoder, rnn.RnnEncoder)
    return randomized(encoder)


def _decoder(randomized: Callable[..., Any], **options: Any) -> rnn.RnnDecoder:
    chosen = families.RnnDecoderOptions(embedding_size=5, hidden_size=SIZE, **options)
    decoder = rnn.build_decoder(chosen, MEMORY)
    assert isinstance(decoder, rnn.RnnDecoder)
    return randomized(decoder)


def _torchs_own(encoder: rnn.RnnEncoder, cell: str, num_layers: int) -> nn.RNNBase:
    """Returns torch's stacked layer, in one or both directions, with the encoder's weights."""
    both = bool(encoder.backward_layers)
    own = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](
        4, 6 // (1 + both), num_layers, batch_first=True, bidirectional=both
    ).double()
    for stack, suffix in ((encoder.forward_layers, ""), (encoder.backward_layers, "_reverse")):
        for index, layer in enumerate(stack):
            for name, parameter in layer.sequence.named_parameters():
                getattr(own, name.replace("_l0", f"_l{index}{suffix}")).data = parameter.data
    return own


def _run_packed(
    own: nn.RNNBase, embedded: torch.Tensor, cell: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns torch's outputs, and the last hidden states of each direction of the top layer."""
    packed = nn.utils.rnn.pack_padded_sequence(
        embedded, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    outputs, last = own(packed)
    hidden = last[0] if cell == "lstm" else last
    unpacked, _ = nn.utils.rnn.pad_packed_sequence(outputs, batch_first=True)
    return unpacked, torch.cat(list(hidden[-2:] if own.bidirectional else hidden[-1:]), dim=-1)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_an_encoder_equals_torchs_own_over_packed_sequences(
    randomized, normal, make_memory, cell, bidirectional
):
    encoder = _encoder(randomized, cell=cell, num_layers=3, bidirectional=bidirectional)
    embedded, mask = normal(3, 5, 4), make_memory(LENGTHS, 1).mask_BS
    states, last = _run_packed(_torchs_own(encoder, cell, 3), embedded, cell)
    memory = encoder.encode(embedded, mask)
    torch.testing.assert_close(memory.states_BSM[mask], states[mask])
    torch.testing.assert_close(memory.pooled_BM, last)
    assert memory.values_BSM is memory.states_BSM
    assert memory.mask_BS is mask
    assert encoder.output_size == 6 and encoder.max_positions is None


def test_a_reversed_source_is_read_backwards_and_handed_on_in_its_order(
    randomized, normal, make_memory
):
    encoder = _encoder(randomized, num_layers=2, bidirectional=False, reverse_source=True)
    embedded, mask = normal(3, 5, 4), make_memory(LENGTHS, 1).mask_BS
    own = _torchs_own(encoder, "lstm", 2)
    memory = encoder.encode(embedded, mask)
    for row, length in enumerate(LENGTHS):
        outputs, _ = own(embedded[row, :length].flip(0).unsqueeze(0))
        torch.testing.assert_close(memory.states_BSM[row, :length], outputs[0].flip(0))
        torch.testing.assert_close(memory.pooled_BM[row], outputs[0, -1])


def _cells(decoder: rnn.RnnDecoder, cell: str) -> Iterator[nn.LSTMCell | nn.GRUCell]:
    """Yields torch's cells with the decoder's weights."""
    for layer in decoder.cells:
        weights = dict(layer.sequence.named_parameters())
        in_size = weights["weight_ih_l0"].shape[1]
        own = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}[cell](in_size, SIZE).double()
        for name, parameter in weights.items():
            getattr(own, name.removesuffix("_l0")).data = parameter.data
        yield own


def _score(decoder: rnn.RnnDecoder, hidden: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Returns the score of one source position, written as in the papers."""
    weights = {name: tensor.detach() for name, tensor in decoder.attention.named_parameters()}
    if not weights:
        return hidden @ source
    if "query.weight" in weights:
        inner = weights["query.weight"] @ hidden + weights["key.weight"] @ source
        return weights["energy.weight"][0] @ torch.tanh(inner + weights["key.bias"])
    return hidden @ weights["key.weight"] @ source


def _reference(
    decoder: rnn.RnnDecoder, embedded: torch.Tensor, memory: base.Memory, row: int, cell: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decodes one sentence, a position at a time, without padding or batches.

    Returns:
        Attentional vectors [T, E], and attention weights [T, S] (empty without attention).
    """
    length = int(memory.mask_BS[row].sum())
    sources, values = memory.states_BSM[row, :length], memory.values_BSM[row, :length]
    pooled = memory.pooled_BM[row]
    cells = list(_cells(decoder, cell))
    first = torch.tanh(decoder.initial.weight @ pooled + decoder.initial.bias)
    parts = list(first.view(-1, 1, SIZE))  # h of layer 0, c of layer 0, h of layer 1, ...
    states = [parts.pop(0) if cell == "gru" else (parts.pop(0), parts.pop(0)) for _ in cells]
    feed = pooled if decoder.attention is None else torch.zeros(5, dtype=torch.float64)
    outputs, weights = [], []
    for token in embedded[row]:
        inputs = torch.cat([token, feed]) if decoder._input_feeding else token
        for index, own in enumerate(cells):
            states[index] = own(inputs.unsqueeze(0), states[index])
            inputs = (states[index][0] if cell == "lstm" else states[index])[0]
        context = pooled
        if decoder.attention is not None:
            scores = torch.stack([_score(decoder, inputs, source) for source in sources])
            weights.append(scores.exp() / scores.exp().sum())
            context = weights[-1] @ values
        outputs.append(torch.tanh(decoder.combine.weight @ torch.cat([inputs, context])))
        if decoder.attention is not None:
            feed = outputs[-1]
    return torch.stack(outputs), torch.stack(weights) if weights else torch.empty(0)


@pytest.mark.parametrize("input_feeding", [True, False])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("attention", ["none", "additive", "dot", "general"])
@torch.no_grad()
def test_a_decoder_equals_its_formulas(
    randomized, normal, make_memory, attention, cell, input_feeding
):
    decoder = _decoder(
        randomized, attention=attention, cell=cell, input_feeding=input_feeding, num_layers=2
    )
    memory, embedded = make_memory(LENGTHS, MEMORY), normal(3, 4, 5)
    states, weights = decoder.decode(embedded, memory, with_attention=True)
    state = decoder.start(memory)
    stepped = []
    for position in range(4):
        states_BE, _, state = decoder.step(embedded[:, position], state)
        stepped.append(states_BE)
    torch.testing.assert_close(torch.stack(stepped, dim=1), states)
    for row, length in enumerate(LENGTHS):
        expected, expected_weights = _reference(decoder, embedded, memory, row, cell)
        torch.testing.assert_close(states[row], expected)
        if attention == "none":
            assert weights is None and not decoder.attends
        else:
            assert weights is not None and decoder.attends
            torch.testing.assert_close(weights[row, :, :length], expected_weights)
            assert weights[row, :, length:].count_nonzero() == 0


def test_turning_a_sentence_over_leaves_its_padding_where_it_is():
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    order = rnn._reversal(mask)
    assert order.tolist() == [[2, 1, 0, 3, 4], [4, 3, 2, 1, 0]]
    assert order.gather(1, order).tolist() == [[0, 1, 2, 3, 4]] * 2


@pytest.mark.parametrize("attention", ["none", "additive", "general"])
@pytest.mark.parametrize("input_feeding", [True, False])
@torch.no_grad()
def test_the_hypotheses_of_a_sentence_read_its_source(
    randomized, normal, make_memory, attention, input_feeding
):
    decoder = _decoder(randomized, attention=attention, input_feeding=input_feeding)
    memory, embedded = make_memory(LENGTHS, MEMORY), normal(3, 5)
    expected = decoder.step(embedded, decoder.start(memory))[0]
    state = decoder_state.expand(decoder.start(memory), 2)
    found, _, _ = decoder.step(embedded.repeat_interleave(2, dim=0), state)
    torch.testing.assert_close(found, expected.repeat_interleave(2, dim=0))


def test_attention_is_handed_out_only_where_it_is_wanted(randomized, normal, make_memory):
    decoder, memory = _decoder(randomized), make_memory(LENGTHS, MEMORY)
    assert decoder.decode(normal(3, 4, 5), memory)[1] is None
    assert decoder.step(normal(3, 5), decoder.start(memory))[1] is None
    assert decoder.step(normal(3, 5), decoder.start(memory), with_attention=True)[1] is not None


def test_dot_attention_with_unequal_widths_names_the_key():
    options = families.RnnDecoderOptions(attention="dot", hidden_size=8)
    with pytest.raises(errors.ConfigError, match=r"model\.decoder\.attention: dot .*8.*7"):
        rnn.build_decoder(options, 7)
    rnn.build_decoder(options, 8)


def test_general_and_additive_attention_bridge_unequal_widths(randomized, normal, make_memory):
    for attention in ("general", "additive", "none"):
        options = families.RnnDecoderOptions(
            embedding_size=5, hidden_size=4, attention=attention, dropout=0.0
        )
        decoder = randomized(rnn.build_decoder(options, 7))
        states, _ = decoder.decode(normal(3, 2, 5), make_memory(LENGTHS, 7))
        assert states.shape == (3, 2, 5)


def test_dropout_falls_on_embeddings_layers_and_outputs_in_training_only(
    randomized, normal, make_memory, monkeypatch
):
    """One decision for the embeddings, one between the layers, one on the attentional vector."""
    shapes = []

    def spy(states, rate, training):
        if training:
            shapes.append((tuple(states.shape), rate))
        return states

    monkeypatch.setattr(rnn.dropout, "dropout", spy)
    encoder = _encoder(randomized, num_layers=2, dropout=0.1)
    decoder = _decoder(randomized, num_layers=2, dropout=0.3, input_feeding=False)
    embedded, memory = normal(3, 5, 4), make_memory(LENGTHS, MEMORY)
    encoder.encode(embedded, memory.mask_BS)
    decoder.decode(normal(3, 4, 5), memory)
    assert shapes == []
    encoder.train().encode(embedded, memory.mask_BS)
    assert shapes == [((3, 5, 4), 0.1), ((3, 5, 6), 0.1)]
    shapes.clear()
    decoder.train().decode(normal(3, 4, 5), memory)
    assert shapes == [((3, 4, 5), 0.3), ((3, 4, 6), 0.3), ((3, 4, 5), 0.3)]


def test_an_odd_width_cannot_be_halved_between_directions():
    with pytest.raises(ValueError, match="hidden_size"):
        families.RnnEncoderOptions(hidden_size=7)
    assert families.RnnEncoderOptions(hidden_size=7, bidirectional=False).hidden_size == 7
