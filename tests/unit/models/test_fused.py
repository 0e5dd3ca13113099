"""The faster ways of training on CPU against torch's own, values and gradients."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nmt.models import dropout, fused

pytestmark = pytest.mark.usefixtures("fp32_library")
BF16 = pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])


def draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator)


def layer(in_size: int, out_size: int, seed: int) -> nn.Linear:
    made = nn.Linear(in_size, out_size)
    with torch.no_grad():
        made.weight.copy_(draw(out_size, in_size, seed=seed) * in_size**-0.5)
        made.bias.copy_(draw(out_size, seed=seed + 1))
    return made


def gradients(result: torch.Tensor, *leaves: torch.Tensor) -> list[torch.Tensor]:
    upstream = draw(*result.shape, seed=9).to(result.dtype)
    return list(torch.autograd.grad(result, leaves, upstream))


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor], *, autocast: bool) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        # In bf16 both are rounded, at other places: 2 % of the largest element.
        bound = {"rtol": 0.0, "atol": 0.02 * float(other.detach().abs().max())}
        torch.testing.assert_close(one, other, **(bound if autocast else {}))


@BF16
@pytest.mark.parametrize("shape", [(6, 8), (3, 5, 8)])
def test_linear_equals_torchs_own(shape, autocast):
    states, own = draw(*shape, seed=1).requires_grad_(), layer(8, 5, seed=2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused.linear(states, own.weight, own.bias)
        expected = F.linear(states, own.weight, own.bias)
    leaves = (states, own.weight, own.bias)
    assert_same(
        [found, *gradients(found, *leaves)],
        [expected, *gradients(expected, *leaves)],
        autocast=autocast,
    )


def test_linear_without_bias_and_with_a_frozen_weight():
    states, weight = draw(6, 8, seed=1).requires_grad_(), draw(5, 8, seed=2)
    found = fused.linear(states, weight, None)
    torch.testing.assert_close(found, states @ weight.T)
    (grad,) = gradients(found, states)
    torch.testing.assert_close(grad, draw(6, 5, seed=9) @ weight)


@BF16
def test_feed_forward_equals_its_formula(autocast):
    states, inner, outer = draw(3, 5, 8, seed=1).requires_grad_(), layer(8, 12, 2), layer(12, 8, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = fused.feed_forward(states, inner, outer, 0.0)
        expected = outer(F.relu(inner(states)))
    leaves = (states, *inner.parameters(), *outer.parameters())
    assert_same(
        [found, *gradients(found, *leaves)],
        [expected, *gradients(expected, *leaves)],
        autocast=autocast,
    )


@BF16
def test_feed_forward_drops_what_a_seed_says_in_both_directions(autocast):
    states, inner, outer = draw(40, 8, seed=1).requires_grad_(), layer(8, 12, 2), layer(12, 8, 4)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        torch.manual_seed(3)
        found = fused.feed_forward(states, inner, outer, 0.3)
        hidden = F.relu(inner(states))
        kept = torch.ones(hidden.shape, dtype=hidden.dtype)
        torch.manual_seed(3)
        dropout.drop_(kept, 0.3)
        expected = outer(hidden * kept / 0.7)
    assert 0.6 < float(kept.mean()) < 0.8
    leaves = (states, *inner.parameters(), *outer.parameters())
    assert_same(
        [found, *gradients(found, *leaves)],
        [expected, *gradients(expected, *leaves)],
        autocast=autocast,
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_add_dropped_adds_what_dropout_leaves(dtype):
    states, change = (draw(30, 8, seed=seed).to(dtype).requires_grad_() for seed in (1, 2))
    torch.manual_seed(3)
    found = fused.add_dropped(states, change, 0.4, training=True)
    torch.manual_seed(3)
    dropped = dropout.dropout(change, 0.4, training=True)
    assert 0 < int((dropped == 0).sum()) < dropped.numel()
    expected = states + dropped
    assert_same(
        [found, *gradients(found, states, change)],
        [expected, *gradients(expected, states, change)],
        autocast=dtype == torch.bfloat16,
    )


@pytest.mark.parametrize(("rate", "training"), [(0.4, False), (0.0, True), (1e-6, True)])
def test_add_dropped_is_a_sum_where_nothing_is_dropped(rate, training):
    states, change = draw(30, 8, seed=1), draw(30, 8, seed=2)
    generator = torch.get_rng_state()
    assert torch.equal(fused.add_dropped(states, change, rate, training), states + change)
    assert torch.equal(torch.get_rng_state(), generator)


def test_add_dropped_takes_mixed_dtypes():
    states, change = draw(30, 8, seed=1), draw(30, 8, seed=2).bfloat16()
    found = fused.add_dropped(states, change, 0.4, training=True)
    assert found.dtype == torch.float32
    unchanged = (found == states).float().mean()
    assert 0.2 < float(unchanged) < 0.6


def test_the_faster_way_is_for_training_in_float32_on_cpu():
    states, weight = draw(2, 8, seed=1), draw(5, 8, seed=2).requires_grad_()
    assert fused.applies_to(states, weight)
    with torch.no_grad():
        assert not fused.applies_to(states, weight)
    assert not fused.applies_to(states.double(), weight.double())
    assert not fused.applies_to(states.to("meta"), weight)


def test_linear_layer_takes_each_way_where_it_belongs(monkeypatch):
    taken = []
    own = fused.linear
    monkeypatch.setattr(fused, "linear", lambda *args: taken.append(args) or own(*args))
    made = fused.Linear(8, 5)
    states = draw(2, 8, seed=1)
    with torch.no_grad():
        expected = made(states)
    assert taken == []
    torch.testing.assert_close(made(states), expected)
    assert len(taken) == 1
