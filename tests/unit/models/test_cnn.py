"""The convolutional family against the paper's formulas, with torch's own convolution."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nmt.config import families, schema
from nmt.models import base, cnn, seq2seq

LENGTHS = [5, 1, 3]
HALF = math.sqrt(0.5)


def _weight(layer: cnn.WeightNormLinear) -> torch.Tensor:
    """Returns g * v / |v|, row by row (Salimans and Kingma 2016, equation 2)."""
    rows = zip(layer.length.detach(), layer.direction.detach(), strict=True)
    return torch.stack([g * v / v.square().sum().sqrt() for g, v in rows])


def _apply(layer: cnn.WeightNormLinear, states_TD: torch.Tensor) -> torch.Tensor:
    return states_TD @ _weight(layer).T + layer.bias.detach()


def _convolve(layer: Any, inputs_TD: torch.Tensor, padding: tuple[int, int]) -> torch.Tensor:
    """Returns the gated convolution [T, D] over one sentence, by torch's own conv1d."""
    out_size, in_size = layer.linear.direction.shape
    size = inputs_TD.shape[1]
    weight = _weight(layer.linear).view(out_size, in_size // size, size).transpose(1, 2)
    padded_1DT = F.pad(inputs_TD.T.unsqueeze(0), padding)
    outputs_1CT = F.conv1d(padded_1DT, weight, layer.linear.bias.detach())
    return F.glu(outputs_1CT, dim=1)[0].T


def _encoder(randomized: Callable[..., Any], **options: Any) -> cnn.CnnEncoder:
    chosen = families.CnnEncoderOptions(
        embedding_size=4, hidden_size=6, max_positions=9, **({"num_layers": 3} | options)
    )
    encoder = cnn.build_encoder(chosen)
    assert isinstance(encoder, cnn.CnnEncoder)
    return randomized(encoder)


def _decoder(
    randomized: Callable[..., Any], memory_size: int = 4, **options: Any
) -> cnn.CnnDecoder:
    chosen = families.CnnDecoderOptions(
        embedding_size=4, hidden_size=6, max_positions=9, **({"num_layers": 2} | options)
    )
    decoder = cnn.build_decoder(chosen, memory_size)
    assert isinstance(decoder, cnn.CnnDecoder)
    return randomized(decoder)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@torch.no_grad()
def test_an_encoder_equals_its_formulas(randomized, normal, make_memory, kernel_size):
    """Every sentence alone and without padding (Gehring et al. 2017, sections 3.1 to 3.4)."""
    encoder = _encoder(randomized, kernel_size=kernel_size)
    embedded, mask = normal(3, 5, 4), make_memory(LENGTHS, 1).mask_BS
    memory = encoder.encode(embedded, mask)
    for row, length in enumerate(LENGTHS):
        inputs = embedded[row, :length] + encoder.positions.weight[:length]
        states = _apply(encoder.widen, inputs)
        side = kernel_size // 2
        for layer in encoder.convolutions:
            states = (states + _convolve(layer, states, (side, side))) * HALF
        states = _apply(encoder.narrow, states)
        torch.testing.assert_close(memory.states_BSM[row, :length], states)
        torch.testing.assert_close(memory.values_BSM[row, :length], (states + inputs) * HALF)
        torch.testing.assert_close(memory.pooled_BM[row], states.mean(0))
    assert encoder.embedding_size == encoder.output_size == 4
    assert encoder.max_positions == 9


def _reference(
    decoder: cnn.CnnDecoder, embedded_TE: torch.Tensor, memory: base.Memory, row: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Decodes one sentence: states [T, E] and mean attention [T, S] (equations 1 and 2)."""
    length = int(memory.mask_BS[row].sum())
    keys, values = memory.states_BSM[row, :length], memory.values_BSM[row, :length]
    inputs = embedded_TE + decoder.positions.weight[: len(embedded_TE)]
    states, all_weights = _apply(decoder.widen, inputs), []
    for layer, attend in zip(decoder.convolutions, decoder.attentions, strict=True):
        kernel_size = layer.linear.direction.shape[1] // layer.size
        gated = _convolve(layer, states, (kernel_size - 1, 0))
        query = (_apply(attend.query, gated) + inputs) * HALF
        if attend.match is not None:
            query = query @ attend.match.weight.T + attend.match.bias
        exponentials = (query @ keys.T).exp()
        weights = exponentials / exponentials.sum(1, keepdim=True)
        # m * sqrt(1 / m) for m source tokens (section 3.4)
        context = (weights @ values) * length * math.sqrt(1 / length)
        attended = (gated + _apply(attend.output, context)) * HALF
        states = (states + attended) * HALF
        all_weights.append(weights)
    return _apply(decoder.narrow, states), torch.stack(all_weights).mean(0)


@pytest.mark.parametrize("memory_size", [4, 7])
@pytest.mark.parametrize("kernel_size", [1, 2, 3])
@torch.no_grad()
def test_a_decoder_equals_its_formulas(randomized, normal, make_memory, kernel_size, memory_size):
    decoder = _decoder(randomized, memory_size, kernel_size=kernel_size)
    memory, embedded = make_memory(LENGTHS, memory_size), normal(3, 4, 4)
    states, weights = decoder.decode(embedded, memory, with_attention=True)
    assert weights is not None
    for row, length in enumerate(LENGTHS):
        expected, expected_weights = _reference(decoder, embedded[row], memory, row)
        torch.testing.assert_close(states[row], expected)
        torch.testing.assert_close(weights[row, :, :length], expected_weights)
        assert weights[row, :, length:].count_nonzero() == 0
    state = decoder.start(memory)
    for position in range(4):
        stepped, stepped_weights, state = decoder.step(
            embedded[:, position], state, with_attention=True
        )
        torch.testing.assert_close(stepped, states[:, position])
        torch.testing.assert_close(stepped_weights, weights[:, position])


def test_attention_is_handed_out_only_where_it_is_wanted(randomized, normal, make_memory):
    decoder, memory = _decoder(randomized), make_memory(LENGTHS, 4)
    assert decoder.decode(normal(3, 4, 4), memory)[1] is None
    assert decoder.step(normal(3, 4), decoder.start(memory))[1] is None


def test_a_state_carries_the_last_inputs_of_each_convolution_and_no_more(
    randomized, normal, make_memory
):
    decoder, memory = _decoder(randomized, kernel_size=3), make_memory(LENGTHS, 4)
    state = decoder.start(memory)
    for _ in range(4):
        _, _, state = decoder.step(normal(3, 4), state)
        assert {tuple(entry.shape) for entry in state.hypothesis.values()} == {(3, 2 * 6)}
    assert state.position == 4


def test_an_encoder_sees_half_a_kernel_to_each_side_per_layer(randomized, normal):
    encoder = _encoder(randomized, num_layers=1, kernel_size=5)
    embedded = normal(1, 9, 4).requires_grad_()
    mask = torch.ones(1, 9, dtype=torch.bool)
    encoder.encode(embedded, mask).states_BSM[0, 4].sum().backward()
    assert embedded.grad is not None
    seen = embedded.grad[0].abs().sum(1) > 0
    assert seen.tolist() == [False, False, True, True, True, True, True, False, False]


def test_a_weight_has_its_length_whatever_its_direction_is_scaled_by(normal):
    layer = cnn.WeightNormLinear(5, 3).double()
    torch.testing.assert_close(layer.folded(), layer.direction)  # no change at the start
    with torch.no_grad():
        layer.direction.mul_(7.0)
        layer.length.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    assert layer.folded().norm(dim=1).tolist() == pytest.approx([1.0, 2.0, 3.0])
    inputs = normal(2, 5)
    torch.testing.assert_close(layer(inputs), inputs @ layer.folded().T)
    torch.testing.assert_close(
        layer(inputs, torch.zeros(3, 5).double()), torch.zeros(2, 3).double()
    )


def test_weights_start_with_the_variances_of_section_3_5():
    torch.manual_seed(0)
    options = families.CnnEncoderOptions(
        embedding_size=100, hidden_size=80, kernel_size=3, num_layers=1, dropout=0.2
    )
    encoder = cnn.CnnEncoder(options)
    gated = encoder.convolutions.at(0).linear.direction.detach()
    assert float(gated.std()) == pytest.approx(math.sqrt(4 * 0.8 / 240), rel=0.02)
    assert float(encoder.widen.direction.detach().std()) == pytest.approx(0.1, rel=0.03)
    assert float(encoder.narrow.direction.detach().std()) == pytest.approx(80**-0.5, rel=0.03)
    assert float(encoder.positions.weight.detach().std()) == pytest.approx(0.1, rel=0.02)
    for layer in (encoder.widen, encoder.narrow, encoder.convolutions.at(0).linear):
        assert layer.bias.abs().max() == 0


@pytest.mark.parametrize("num_layers", [1, 3])
def test_the_encoders_gradient_is_divided_by_twice_the_number_of_attentions(
    randomized, normal, num_layers
):
    """Section 3.4; in evaluation, and through the pooled vector, nothing is scaled."""
    side = {"type": "cnn", "embedding_size": 4, "hidden_size": 6, "dropout": 0.0}
    config = schema.ModelConfig.model_validate(
        {"encoder": side, "decoder": side | {"num_layers": num_layers}, "tie_embeddings": "none"}
    )
    model = randomized(seq2seq.build(config, 9, 9, shared=False))
    source, target = torch.tensor([[4, 5, 6, 2]]), torch.tensor([[1, 7, 8]])
    found = {}
    for training in (False, True):
        model.train(training).zero_grad()
        states, _ = model(source, torch.ones_like(source, dtype=torch.bool), target)
        (states * normal(*states.shape)).sum().backward()
        found[training] = {
            name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None
        }
    factor = 1 / (2 * num_layers)
    for name, gradient in found[True].items():
        if name.startswith(("encoder.convolutions", "encoder.widen")):
            torch.testing.assert_close(gradient, found[False][name] * factor)
            assert gradient.abs().max() > 0
        if name.startswith(("decoder.", "tgt_embedding")):
            torch.testing.assert_close(gradient, found[False][name])


def test_scaling_a_gradient_leaves_the_states_as_they_are(randomized, normal, make_memory):
    decoder, memory = _decoder(randomized, dropout=0.0), make_memory(LENGTHS, 4)
    embedded = normal(3, 4, 4)
    expected, _ = decoder.decode(embedded, memory)
    torch.testing.assert_close(decoder.train().decode(embedded, memory)[0], expected)


def test_dropout_falls_on_embeddings_convolution_inputs_and_outputs_in_training_only(
    randomized, normal, make_memory, monkeypatch
):
    shapes = []

    def spy(states, rate, training):
        if training:
            shapes.append((tuple(states.shape), rate))
        return states

    monkeypatch.setattr(cnn.dropout, "dropout", spy)
    encoder = _encoder(randomized, num_layers=2, dropout=0.1)
    decoder = _decoder(randomized, num_layers=2, dropout=0.3)
    memory = make_memory(LENGTHS, 4)
    encoder.encode(normal(3, 5, 4), memory.mask_BS)
    decoder.decode(normal(3, 2, 4), memory)
    assert shapes == []
    encoder.train().encode(normal(3, 5, 4), memory.mask_BS)
    assert shapes == [((3, 5, 4), 0.1)] + [((3, 5, 6), 0.1)] * 2
    shapes.clear()
    decoder.train().decode(normal(3, 2, 4), memory)
    assert shapes == [((3, 2, 4), 0.3)] + [((3, 2, 6), 0.3)] * 2 + [((3, 2, 4), 0.3)]


def test_an_even_kernel_has_no_middle_for_an_encoder():
    with pytest.raises(ValueError, match="kernel_size"):
        families.CnnEncoderOptions(kernel_size=4)
    assert families.CnnDecoderOptions(kernel_size=4).kernel_size == 4
