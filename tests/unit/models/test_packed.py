"""Linear layers in int8 and packed bf16: near the float32 layer, and each row on its own."""

import time

import pytest
import torch
from torch.nn import functional as F

from nmt.models import packed

pytestmark = pytest.mark.skipif(not packed.has_int8(), reason="this torch has no int8 products")


def _layer(outputs: int = 96, inputs: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(outputs, inputs, generator=generator) * inputs**-0.5
    # Rows of very different sizes: with one scale for all of them the small ones would be lost.
    weight *= torch.logspace(-3, 0, outputs).unsqueeze(1)
    return weight, torch.randn(outputs, generator=generator)


def _states(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(4))


def _worst(found: torch.Tensor, expected: torch.Tensor, size: torch.Tensor) -> float:
    """The largest error of an output, over the size that its sum had without a bias."""
    return float(((found - expected).abs() / size).max())


@pytest.mark.parametrize("shape", [(1, 64), (7, 64), (3, 5, 64)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_int8_is_near_float32_in_every_output(shape, has_bias):
    weight, bias = _layer()
    states = _states(*shape)
    layer = packed.int8_linear(weight, bias if has_bias else None)
    found, expected = layer(states), F.linear(states, weight, bias if has_bias else None)
    # A rounded number is off by half a step of 1 / 127 of the largest one of its row; signs are random.
    size = states.norm(dim=-1, keepdim=True) * weight.norm(dim=1)
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    assert _worst(found, expected, size) < 0.02


def test_a_row_has_the_same_bits_alone_and_beside_others():
    layer = packed.int8_linear(*_layer())
    states = _states(33, 64)
    states[5] *= 1000.0  # a neighbour that would stretch a scale of the batch
    together = layer(states)
    for rows in ([0], [5], [4, 20], list(range(32, 0, -1))):
        assert torch.equal(layer(states[rows]), together[rows])


def test_rows_of_zeros_give_the_bias():
    weight, bias = _layer()
    assert torch.equal(packed.int8_linear(weight, bias)(torch.zeros(2, 64)), bias.expand(2, -1))


def test_outputs_whose_weights_are_zero_give_zero():
    weight, _ = _layer()
    weight[3] = 0.0
    assert not packed.int8_linear(weight, None)(_states(4, 64))[:, 3].any()


def test_states_that_are_not_contiguous_are_read_in_their_order():
    layer = packed.int8_linear(*_layer())
    states = _states(64, 6).t()
    assert torch.equal(layer(states), layer(states.contiguous()))


def test_without_vnni_weights_take_half_the_range(monkeypatch):
    monkeypatch.setattr(packed, "_has_vnni", lambda: False)
    weight, bias = _layer()
    layer = packed.int8_linear(weight, bias)
    assert int(layer.weight.abs().max()) == 63
    states = _states(5, 64)
    size = states.norm(dim=-1, keepdim=True) * weight.norm(dim=1)
    assert _worst(layer(states), F.linear(states, weight, bias), size) < 0.03


@pytest.mark.skipif(not packed.has_packed_bf16(), reason="this processor has no bf16 products")
def test_packed_bf16_is_what_autocast_computes():
    weight, bias = _layer()
    states = _states(9, 64)
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(states, weight, bias)
    found = packed.PackedLinear(weight, bias, torch.bfloat16)(states)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=2**-9)


@pytest.mark.skipif(not packed.has_onednn(), reason="this torch has no oneDNN")
def test_packed_float32_is_what_a_linear_layer_computes():
    weight, bias = _layer()
    states = _states(9, 64)
    found = packed.PackedLinear(weight, bias, torch.float32)(states)
    torch.testing.assert_close(found, F.linear(states, weight, bias), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["fp32", "int8", "bf16"])
def test_a_narrowed_output_layer_gives_the_same_scores_of_fewer_outputs(kind):
    if kind == "bf16" and not packed.has_packed_bf16():
        pytest.skip("this processor has no bf16 products")
    weight, _ = _layer()
    plain = torch.nn.Linear(64, 96, bias=False)
    plain.weight = torch.nn.Parameter(weight)
    layer = {
        "fp32": lambda: plain,
        "int8": lambda: packed.int8_linear(weight, None),
        "bf16": lambda: packed.PackedLinear(weight, None, torch.bfloat16),
    }[kind]()
    outputs, states = torch.tensor([90, 2, 3, 41]), _states(5, 64)
    found = packed.narrowed(layer, outputs)(states)
    if kind == "int8":
        assert torch.equal(found, layer(states)[:, outputs])
    else:
        torch.testing.assert_close(found, layer(states)[:, outputs], rtol=2**-7, atol=1e-6)


def test_int8_has_a_fast_kernel_on_this_processor():
    """One without took a thousand times as long as float32; bounded generously, for loaded machines."""
    states, weight = torch.randn(64, 128), torch.randn(512, 128)
    layer = packed.int8_linear(weight, None)

    def seconds(product) -> float:
        product()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            product()
            times.append(time.perf_counter() - began)
        return min(times)

    assert seconds(lambda: layer(states)) < 50 * seconds(lambda: F.linear(states, weight))
