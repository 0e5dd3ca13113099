"""Temperature brings small language pairs up, and the planner draws what it says."""

import pytest
import torch

from nmt.data import mixing, plan


def test_shares_are_sizes_to_the_power_of_one_over_the_temperature():
    sizes = [8100, 100]
    found = mixing.Tempered(2.0, (0, 1)).weights(sizes)
    assert [weight / sum(found) for weight in found] == pytest.approx([0.9, 0.1])
    found = mixing.Tempered(1.0, (0, 1)).weights(sizes)
    assert found == pytest.approx(sizes)


def test_entries_of_a_pair_share_by_their_sizes():
    found = mixing.Tempered(2.0, (0, 1, 0)).weights([6400, 100, 1700])
    assert found == pytest.approx([90 * 64 / 81, 10, 90 * 17 / 81])
    assert mixing.weights_of([2.0, 1.0], [5, 5]) == [2.0, 1.0]


def test_an_epoch_has_these_shares(make_corpus):
    data = make_corpus([(3, 3)] * 1000, entry_sizes=(810, 10, 180))
    planner = plan.Planner(data, batch_tokens=60, seed=1, weights=mixing.Tempered(2.0, (0, 1, 0)))
    pairs = torch.cat(planner.epoch(3))
    counts = torch.bincount(torch.tensor(data.entries_of(pairs)), minlength=3).tolist()
    total = 990**0.5 + 10**0.5
    small = 10**0.5 / total
    wanted = [(1 - small) * 810 / 990, small, (1 - small) * 180 / 990]
    assert counts == pytest.approx([1000 * share for share in wanted], abs=1)
