"""Dropout by 16-bit decisions keeps what dropout promises."""

import math

import pytest
import torch

from nmt.models import dropout

RATES = [0.02, 0.1, 0.5, 0.9]


@pytest.mark.parametrize("rate", RATES)
def test_the_rate_is_met_at_each_place_of_a_random_number(rate):
    torch.manual_seed(1)
    dropped = dropout.dropout(torch.ones(100_000, 4), rate, training=True) == 0
    # Five standard deviations of a share of 100,000 decisions; four decisions share a number.
    bound = 5 * math.sqrt(rate * (1 - rate) / 100_000)
    assert (dropped.double().mean(0) - rate).abs().max() < bound


def test_elements_are_decided_on_their_own():
    """Of neighbours, a quarter is dropped together at a rate of one half."""
    torch.manual_seed(2)
    dropped = (dropout.dropout(torch.ones(100_000, 4), 0.5, training=True) == 0).double()
    pairs = dropped.T @ dropped / len(dropped)
    expected = torch.full((4, 4), 0.25).double().fill_diagonal_(0.5)
    assert (pairs - expected).abs().max() < 0.01
    along = (dropped[1:] * dropped[:-1]).mean()
    assert abs(float(along) - 0.25) < 0.01


@pytest.mark.parametrize("rate", RATES)
def test_what_is_kept_is_scaled_so_that_the_mean_stays(rate):
    torch.manual_seed(3)
    states = torch.rand(200_000, dtype=torch.float64) + 1
    result = dropout.dropout(states, rate, training=True)
    kept = result != 0
    torch.testing.assert_close(result[kept], states[kept] / (1 - rate))
    spread = 5 * math.sqrt(rate / (1 - rate) * float(states.square().mean()) / 200_000)
    assert abs(float(result.mean() - states.mean())) < spread


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (2, 3), (5,), (3, 1, 3), (0, 4)])
def test_every_shape_and_dtype_is_kept(shape, dtype):
    states = torch.ones(shape, dtype=dtype)
    result = dropout.dropout(states, 0.5, training=True)
    assert result.shape == states.shape and result.dtype == dtype
    assert set(result.flatten().tolist()) <= {0.0, 2.0}


def test_backward_uses_the_mask_of_forward():
    torch.manual_seed(4)
    states = torch.randn(1000, dtype=torch.float64, requires_grad=True)
    before = states.detach().clone()
    result = dropout.dropout(states, 0.3, training=True)
    upstream = torch.randn(1000, dtype=torch.float64)
    result.backward(upstream)
    kept = (result != 0).double()
    assert states.grad is not None
    torch.testing.assert_close(states.grad, upstream * kept / 0.7)
    assert 0 < kept.sum() < 1000
    assert torch.equal(states.detach(), before)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True), (1e-6, True)])
def test_nothing_is_dropped_in_evaluation_or_at_rate_zero(rate, training):
    states = torch.ones(10_000)
    generator = torch.get_rng_state()
    assert dropout.dropout(states, rate, training) is states
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_seed_repeats_it_and_another_call_does_not():
    states = torch.ones(1000)
    torch.manual_seed(6)
    first, second = (dropout.dropout(states, 0.5, training=True) for _ in range(2))
    torch.manual_seed(6)
    assert torch.equal(dropout.dropout(states, 0.5, training=True), first)
    assert not torch.equal(first, second)


def test_other_devices_use_their_own(monkeypatch):
    monkeypatch.setattr(dropout, "random_factors", lambda *_: pytest.fail("this is for the CPU"))
    result = dropout.dropout(torch.ones(3, device="meta"), 0.5, training=True)
    assert result.shape == (3,)


def test_any_rate_below_one_can_be_dropped():
    dropout.dropout(torch.ones(8), 0.999993, training=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_dropping_in_place_leaves_the_others_as_they_are(dtype):
    torch.manual_seed(7)
    before = torch.randn(1000, 4).to(dtype)
    states = before.clone()
    dropout.drop_(states, 0.3)
    dropped = states == 0
    assert torch.equal(states[~dropped], before[~dropped])
    assert abs(float(dropped.double().mean()) - 0.3) < 5 * math.sqrt(0.21 / 4000)


def test_factors_are_rounded_to_the_dtype_of_the_states():
    factors = dropout.random_factors(torch.ones(1000, dtype=torch.bfloat16), 0.3)
    expected = float(torch.tensor(1 / 0.7).bfloat16())
    assert set(factors.tolist()) == {0.0, expected}
