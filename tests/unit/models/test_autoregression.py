"""What stands in the place of self-attention against the formulas of its paper."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from nmt.config import families
from nmt.models import autoregression, transformer
from nmt.models import state as decoder_state

SIZE, INNER = 8, 12
NORMS = pytest.mark.parametrize("norm_position", ["pre", "post"])
KINDS = ["ssru", "average_attention"]


def _options(kind: str, **options: Any) -> families.TransformerDecoderOptions:
    sizes = {"hidden_size": SIZE, "num_heads": 2, "feedforward_size": INNER, "num_layers": 2}
    return families.TransformerDecoderOptions(
        **(sizes | {"autoregressive_layer": kind, "dropout": 0.0} | options)
    )


def _layer(kind: str, **options: Any) -> autoregression.Layer:
    layer = autoregression.build(_options(kind, **options))
    assert layer is not None
    return layer


def _around(layer: autoregression.Layer, states: torch.Tensor, change: Any) -> torch.Tensor:
    """The residual connection and the norm, around a function from inputs to changes."""
    norm = layer.block.norm

    def normed(x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, (SIZE,), norm.weight, norm.bias)

    if layer.block._is_pre:
        return states + change(normed(states))
    return normed(states + change(states))


def _plain_recurrence(forget: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    cells, cell = [], torch.zeros_like(value[:, 0])
    for position in range(value.shape[1]):
        f = forget[:, position]
        cell = f * cell + (1 - f) * value[:, position]
        cells.append(cell)
    return torch.stack(cells, 1)


@pytest.mark.parametrize("length", [1, 2, 17])
def test_the_recurrence_equals_its_formula_and_so_do_its_gradients(normal, length):
    both = normal(3, length, 2 * SIZE).requires_grad_()
    results = []
    for function in (autoregression.linear_recurrence, _plain_recurrence):
        # Halves of one product, as in the layer, so that not all of it is contiguous.
        value, gate = both.chunk(2, dim=-1)
        found = function(gate.sigmoid(), value)
        (grad,) = torch.autograd.grad(found, both, normal(*found.shape, seed=5))
        results.append((found, grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)


def test_the_gradients_of_the_recurrence_are_those_of_small_differences(normal):
    forget = normal(2, 5, 3).sigmoid().requires_grad_()
    value = normal(2, 5, 3, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(autoregression.linear_recurrence, (forget, value))


def test_a_long_recurrence_with_shut_and_open_gates_stays_finite():
    """A form that divides by products of gates would not."""
    gate = torch.full((1, 2000, 4), -60.0)
    gate[..., 1], gate[..., 2] = 60.0, 0.0
    gate[..., 3] = torch.linspace(-40, 40, 2000)
    gate.requires_grad_()
    value = torch.ones(1, 2000, 4).requires_grad_()
    cells = autoregression.linear_recurrence(gate.sigmoid(), value)
    cells.sum().backward()
    assert cells.isfinite().all() and gate.grad.isfinite().all() and value.grad.isfinite().all()
    torch.testing.assert_close(cells[0, -1, [0, 2]], torch.ones(2))
    assert cells[0, -1, 1].detach().abs() < 1e-6


@NORMS
@torch.no_grad()
def test_ssru_equals_its_formula(randomized, normal, norm_position):
    layer, states = randomized(_layer("ssru", norm_position=norm_position)), normal(3, 6, SIZE)

    def change(inputs: torch.Tensor) -> torch.Tensor:
        value_weight, gate_weight = layer.projection.weight.chunk(2)
        value_bias, gate_bias = layer.projection.bias.chunk(2)
        gate = torch.sigmoid(inputs @ gate_weight.T + gate_bias)
        return F.relu(_plain_recurrence(gate, inputs @ value_weight.T + value_bias))

    torch.testing.assert_close(layer(states), _around(layer, states, change))


@NORMS
@pytest.mark.parametrize("gates", [True, False])
@pytest.mark.parametrize("feedforward", [True, False])
@torch.no_grad()
def test_average_attention_equals_its_formula(
    randomized, normal, norm_position, gates, feedforward
):
    options = {"average_gates": gates, "average_feedforward": feedforward}
    layer = randomized(_layer("average_attention", norm_position=norm_position, **options))
    states = normal(3, 6, SIZE)

    def change(inputs: torch.Tensor) -> torch.Tensor:
        mean = torch.stack([inputs[:, : j + 1].mean(1) for j in range(6)], 1)
        if feedforward:
            inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
            mean = F.relu(mean @ inner.weight.T + inner.bias) @ outer.weight.T + outer.bias
        if not gates:
            return mean
        both = torch.cat([inputs, mean], -1) @ layer.gates.weight.T + layer.gates.bias
        i, f = torch.sigmoid(both[..., :SIZE]), torch.sigmoid(both[..., SIZE:])
        return i * inputs + f * mean

    torch.testing.assert_close(layer(states), _around(layer, states, change))
    assert (layer.gates is not None, layer.feed_forward is not None) == (gates, feedforward)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_state_carries_one_vector_a_layer_and_no_history(randomized, normal, make_memory, kind):
    decoder = randomized(transformer.TransformerDecoder(_options(kind), SIZE))
    state = decoder_state.expand(decoder.start(make_memory([5, 1], SIZE)), 3)
    for position in range(5):
        assert not state.history and state.visible_BKL is None
        if position:
            assert all(entry.abs().min() > 0 for entry in state.hypothesis.values())
        assert {n: tuple(entry.shape) for n, entry in state.hypothesis.items()} == {
            "0.carried": (6, SIZE),
            "1.carried": (6, SIZE),
        }
        _, _, state = decoder.step(normal(6, SIZE), state)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_states_are_bf16_and_what_is_carried_stays_float32(normal, kind):
    torch.manual_seed(0)
    layer, states = _layer(kind, hidden_size=32), normal(4, 40, 32).float()
    expected = layer(states)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(states.bfloat16())
        carried = autoregression.start(states, 32)
        for position in range(40):
            stepped, carried = layer.step(states[:, position, None].bfloat16(), carried, position)
            assert carried.dtype == torch.float32
            torch.testing.assert_close(stepped[:, 0], found[:, position], rtol=0.02, atol=0.02)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_falls_on_the_change_and_inside_the_feed_forward_layer(normal, monkeypatch, kind):
    found = []

    def spy(states, rate, training):
        found.append((states.shape[-1], rate))
        return states

    monkeypatch.setattr(autoregression.blocks.dropout, "dropout", spy)
    monkeypatch.setattr(
        autoregression.blocks.fused,
        "add_dropped",
        lambda states, change, rate, training: states + spy(change, rate, training),
    )
    layer = _layer(kind, dropout=0.1, activation_dropout=0.2).double().train()
    layer(normal(2, 3, SIZE))
    inside = [(INNER, 0.2)] if kind == "average_attention" else []
    assert found == [*inside, (SIZE, 0.1)]


def test_halves_start_as_layers_of_their_own():
    torch.manual_seed(0)
    ssru = _layer("ssru", hidden_size=64)
    average = _layer("average_attention", hidden_size=64)
    for half in ssru.projection.weight.detach().chunk(2):
        assert float(half.abs().max()) == pytest.approx((6 / 128) ** 0.5, rel=0.01)
    for half in average.gates.weight.detach().chunk(2):
        assert float(half.abs().max()) == pytest.approx((6 / 192) ** 0.5, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_rotary_positions_are_refused_without_self_attention(kind):
    with pytest.raises(ValueError, match=rf"positions: rotary .*given: .*{kind}.*Take sinusoidal"):
        _options(kind, positions="rotary")
    assert _options("self_attention", positions="rotary").positions == "rotary"


def test_options_of_average_attention_are_refused_elsewhere():
    for kind in ("self_attention", "ssru"):
        reasons = _options(kind).inapplicable()
        assert reasons["average_gates"] == f"autoregressive_layer is {kind}"
        assert reasons["average_feedforward"] == reasons["average_gates"]
    left = _options("average_attention", positions="learned").inapplicable()
    assert not left
