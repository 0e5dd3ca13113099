"""Muon's step divided among ranks: each matrix moves on one of them, and its momentum on all."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from nmt.config import schema
from nmt.runtime import distributed
from nmt.training import optimizers

MakeConfig = Callable[..., schema.TrainingConfig]
SHAPES = [(4, 4), (6, 4), (12, 4), (4, 3), (5, 4)]
UNUSED = 1


class OneOf(distributed.Alone):
    """One of several ranks, which notes what it would share."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size
        self.owners: list[int] = []
        self.shapes: list[tuple[int, ...]] = []

    def share(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        self.owners = list(owners)
        self.shapes = [tuple(tensor.shape) for tensor in tensors]


def stepped(
    config: schema.TrainingConfig, group: distributed.Group
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Returns the weights before and after two steps with the same gradients, and the momenta."""
    generator = torch.Generator().manual_seed(1)
    model = nn.ParameterList(
        [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    )
    before = [weight.detach().clone() for weight in model]
    optimizer = optimizers.build(config, model, group)
    optimizers.set_rate(optimizer, 0.1)
    for _ in range(2):
        for index, weight in enumerate(model):
            gradient = torch.randn(weight.shape, generator=generator)
            weight.grad = None if index == UNUSED else gradient
        optimizers.step(optimizer, torch.tensor(True))
        assert [weight.grad is None for weight in model] == [i == UNUSED for i in range(5)]
    return before, [w.detach() for w in model], list(optimizers.state_tensors(optimizer).values())


@pytest.mark.parametrize("num_ranks", [2, 3, 7])
def test_each_matrix_moves_on_its_owner_alone_and_as_undivided(
    training_config: MakeConfig, num_ranks: int
) -> None:
    config = training_config(optimizer="muon")
    before, whole, momenta = stepped(config, distributed.Alone())
    used = [index for index in range(5) if index != UNUSED]
    assert len(momenta) == len(used)
    moved = []
    for rank in range(num_ranks):
        group = OneOf(rank, num_ranks)
        _, weights, own_momenta = stepped(config, group)
        assert group.shapes == [SHAPES[index] for index in used]
        for index, owner in zip(used, group.owners, strict=True):
            wanted = whole if owner == rank else before
            assert torch.equal(weights[index], wanted[index])
            moved += [index] if owner == rank else []
        for found, wanted_momentum in zip(
            sorted(own_momenta, key=torch.Tensor.numel),
            sorted(momenta, key=torch.Tensor.numel),
            strict=True,
        ):
            assert torch.equal(found, wanted_momentum)
    assert sorted(moved) == used, "each on one rank"
    assert any(not torch.equal(one, other) for one, other in zip(before, whole, strict=True))


def test_ranks_have_about_as_much_to_do(training_config: MakeConfig) -> None:
    group = OneOf(0, 2)
    model = nn.ParameterList([nn.Parameter(torch.ones(size, 8)) for size in (9, 8, 10, 16, 11)])
    optimizer = optimizers.build(training_config(optimizer="muon"), model, group)
    for weight in model:
        weight.grad = torch.ones_like(weight)
    optimizers.step(optimizer, torch.tensor(True))
    loads = [0, 0]
    for owner, shape in zip(group.owners, group.shapes, strict=True):
        loads[owner] += shape[0]
    assert max(loads) - min(loads) <= 8
