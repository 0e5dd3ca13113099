"""Positions as rows: without padding, filled up, and back."""

import pytest
import torch

from nmt.models import products, rows

SIZE = 3


def mask_of(*lengths: int) -> torch.Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)


def states_like(mask: torch.Tensor, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*mask.shape, SIZE, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("step", [1, 4], ids=["as many as there are", "filled up"])
def test_padding_is_left_out_and_comes_back_as_zeros(monkeypatch, step):
    monkeypatch.setattr(products, "STEP", step)
    monkeypatch.setattr(rows, "MIN_ROWS", 1)
    mask = mask_of(5, 1, 3)
    states = states_like(mask).requires_grad_()
    chosen = rows.where_they_pay(states, mask)
    taken = chosen.take(states)
    assert taken.shape == (9 if step == 1 else 12, SIZE)
    assert torch.equal(taken[:9], states[mask]) and not taken[9:].any()
    put = chosen.put(taken * 2.0)
    assert torch.equal(put, states * mask.unsqueeze(2) * 2.0)
    upstream = states_like(mask, seed=2)
    (grad,) = torch.autograd.grad(put, states, upstream)
    assert torch.equal(grad, upstream * mask.unsqueeze(2) * 2.0)


def test_all_positions_are_filled_up(monkeypatch):
    monkeypatch.setattr(products, "STEP", 4)
    monkeypatch.setattr(rows, "MIN_ROWS", 1)
    states = states_like(mask_of(5, 5)).requires_grad_()
    chosen = rows.where_they_pay(states)
    taken = chosen.take(states)
    assert torch.equal(taken[:10], states.flatten(0, 1)) and not taken[10:].any()
    assert taken.shape == (12, SIZE)
    put = chosen.put(taken * 2.0)
    assert torch.equal(put, states * 2.0)
    upstream = states_like(mask_of(5, 5), seed=2)
    (grad,) = torch.autograd.grad(put, states, upstream)
    assert torch.equal(grad, upstream * 2.0)


def test_states_stay_as_they_are_where_rows_do_not_pay(monkeypatch):
    mask = torch.ones(4, 25, dtype=torch.bool)
    mask[0, -2:] = False
    states = states_like(mask)
    # 2 % of padding, and too few rows to fill up.
    assert rows.where_they_pay(states, mask) is rows.AS_THEY_ARE
    mask[1, -1] = False
    assert rows.where_they_pay(states, mask) is not rows.AS_THEY_ARE
    with torch.no_grad():
        assert rows.where_they_pay(states, mask) is rows.AS_THEY_ARE
    assert rows.where_they_pay(states.to("meta"), mask) is rows.AS_THEY_ARE
    # Filled up already.
    monkeypatch.setattr(rows, "MIN_ROWS", 1)
    full = torch.zeros(products.STEP, 3, SIZE)
    assert rows.where_they_pay(full) is rows.AS_THEY_ARE
    assert rows.where_they_pay(full[:-1]) is not rows.AS_THEY_ARE
