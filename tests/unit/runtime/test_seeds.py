"""Seeds of updates: repeatable, and no two of them alike."""

import itertools

import pytest
import torch

from nmt.runtime import seeds


def test_the_seed_is_the_same_on_every_machine() -> None:
    assert seeds.of_update(1, 1) == 7498987403989866724


def test_seeds_of_neighbours_are_all_different() -> None:
    grid = itertools.product(range(4), range(50), range(3), range(3))
    found = [seeds.of_update(s, u, rank=r, attempt=a) for s, u, r, a in grid]
    assert len(set(found)) == len(found)
    assert all(0 <= seed < 2**63 for seed in found)


def test_numbers_that_join_to_one_text_are_told_apart() -> None:
    assert seeds.of_update(1, 12) != seeds.of_update(11, 2)


@pytest.mark.parametrize("bit", [0, 20, 40, 62])
def test_every_bit_is_drawn_on(bit: int) -> None:
    ones = sum(seeds.of_update(1, update) >> bit & 1 for update in range(1000))
    assert 400 < ones < 600


def test_torch_takes_the_largest_seed() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(2**63 - 1)
    torch.set_rng_state(before)
