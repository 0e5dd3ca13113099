"""The shared building blocks against the formulas of their papers."""

import math

import pytest
import torch

from nmt.models import layers

CLOSE = {"rtol": 0.0, "atol": 1e-12}


def test_sinusoids_are_sines_then_cosines_of_the_position_at_falling_rates():
    vectors = layers.sinusoids(torch.arange(50), 16, torch.float64)
    assert vectors.shape == (50, 16)
    sines, cosines = vectors[:, :8], vectors[:, 8:]
    positions = torch.arange(50, dtype=torch.float64)
    torch.testing.assert_close(sines[:, 0], positions.sin())  # the first wavelength is 2 pi
    torch.testing.assert_close(cosines[:, 0], positions.cos())
    rates = sines[1].asin()  # the angle at position 1, small enough to be read back
    torch.testing.assert_close(cosines, (positions.unsqueeze(1) * rates).cos())
    torch.testing.assert_close(sines, (positions.unsqueeze(1) * rates).sin())
    ratios = rates[1:] / rates[:-1]  # wavelengths form a geometric progression
    torch.testing.assert_close(ratios, ratios[:1].expand(7))
    assert 0.99 / 10_000 < float(rates[-1]) < 1 / 1_000


def test_sinusoids_at_a_distance_are_one_rotation_of_each_other():
    """Vaswani et al. 2017, section 3.5: PE(pos + k) is a linear function of PE(pos)."""
    vectors = layers.sinusoids(torch.arange(40), 8, torch.float64)
    waves = torch.complex(vectors[:, 4:], vectors[:, :4])
    steps = waves[5:] / waves[:-5]
    torch.testing.assert_close(steps, steps[:1].expand_as(steps))


def test_sinusoids_need_no_position_to_begin_at_zero():
    whole = layers.sinusoids(torch.arange(30), 6, torch.float64)
    assert torch.equal(layers.sinusoids(torch.arange(7, 30), 6, torch.float64), whole[7:])


@pytest.mark.parametrize("make", [layers.sinusoids, layers.rotation])
def test_angles_of_far_positions_are_exact_in_half_precision(make):
    """bf16 has eight bits: computed in it, position 1001 would be position 1000."""
    positions = torch.tensor([1000, 1001])
    half, double = make(positions, 8, torch.bfloat16), make(positions, 8, torch.float64)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), double, rtol=0.0, atol=4e-3)


def test_rotation_is_multiplication_by_unit_complex_numbers(normal):
    """Su et al. 2021, equation 34, with channels j and j + E/2 as one complex number."""
    size, positions = 6, torch.tensor([0, 1, 5, 117])
    heads = normal(2, 3, 4, size)
    turned = layers.rotate(heads, layers.rotation(positions, size, torch.float64))
    rates = 10_000.0 ** (-2 * torch.arange(3, dtype=torch.float64) / size)
    turns = torch.polar(torch.ones(4, 3, dtype=torch.float64), positions.unsqueeze(1) * rates)
    product = torch.complex(heads[..., :3], heads[..., 3:]) * turns
    torch.testing.assert_close(turned, torch.cat([product.real, product.imag], -1), **CLOSE)
    assert torch.equal(turned[:, :, 0], heads[:, :, 0])


def test_rotation_keeps_norms(normal):
    heads = normal(2, 3, 30, 8)
    turned = layers.rotate(heads, layers.rotation(torch.arange(30), 8, torch.float64))
    torch.testing.assert_close(turned.norm(dim=-1), heads.norm(dim=-1), **CLOSE)
    assert not torch.allclose(turned[:, :, 1:], heads[:, :, 1:])


def test_rotated_products_depend_on_the_distance_alone(normal):
    query, key = normal(1, 1, 1, 8, seed=1), normal(1, 1, 1, 8, seed=2)

    def product(query_position: int, key_position: int) -> float:
        at = layers.rotation(torch.tensor([query_position, key_position]), 8, torch.float64)
        return float((layers.rotate(query, at[:, :1]) * layers.rotate(key, at[:, 1:])).sum())

    for distance in (-9, 0, 3):
        expected = product(10 + distance, 10)
        for begin in (20, 500):
            assert product(begin + distance, begin) == pytest.approx(expected, abs=1e-11)
    assert product(10, 10) != pytest.approx(product(13, 10), abs=1e-3)


def test_rotated_heads_keep_their_dtype():
    heads = torch.ones(1, 1, 2, 4, dtype=torch.bfloat16)
    turned = layers.rotate(heads, layers.rotation(torch.arange(2), 4, torch.float32))
    assert turned.dtype == torch.bfloat16


def test_rmsnorm_divides_by_the_root_of_the_mean_square(normal):
    norm = layers.RMSNorm(6).double()
    weight, states = normal(6, seed=3), normal(2, 5, 6) * 7 + 1
    with torch.no_grad():
        norm.weight.copy_(weight)
    expected = states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight
    torch.testing.assert_close(norm(states), expected)
    assert torch.isfinite(norm(torch.zeros(1, 6).double())).all()


def test_norms_go_by_their_names():
    assert isinstance(layers.norm("rmsnorm", 4), layers.RMSNorm)
    assert isinstance(layers.norm("layernorm", 4), torch.nn.LayerNorm)
    torch.testing.assert_close(layers.norm("rmsnorm", 4)(torch.full((4,), 9.0)), torch.ones(4))


def test_learned_positions_are_the_rows_from_begin_to_end():
    positions = layers.LearnedPositions(10, 3, 0.5)
    assert torch.equal(positions(4, 7), positions.weight[4:7])
    positions(0, 2).sum().backward()
    assert positions.weight.grad is not None
    assert positions.weight.grad.sum(1).tolist() == [3.0] * 2 + [0.0] * 8


def test_learned_positions_end_where_they_end():
    positions = layers.LearnedPositions(10, 3, 0.5)
    assert positions(0, 10).shape == (10, 3)
    with pytest.raises(AssertionError, match="max_positions"):
        positions(9, 11)


def test_learned_positions_start_with_the_spread_that_is_asked_for():
    torch.manual_seed(0)
    weight = layers.LearnedPositions(400, 100, 0.25).weight.detach()
    assert float(weight.std()) == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers_start_glorot_uniform_with_zero_bias(bias):
    torch.manual_seed(0)
    layer = layers.linear(300, 100, bias=bias)
    bound = math.sqrt(6 / 400)
    assert float(layer.weight.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(layer.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert (layer.bias is None) != bias
    assert layer.bias is None or layer.bias.abs().max() == 0


def test_a_stack_gives_its_layers_in_order():
    stack = layers.Stack[torch.nn.Linear](torch.nn.Linear(1, size) for size in (1, 2, 3))
    assert [layer.out_features for layer in stack] == [1, 2, 3]
    assert stack.at(-1).out_features == 3
    assert len(dict(stack.named_parameters())) == 6
