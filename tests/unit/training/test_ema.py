"""The moving average follows the weights, and goes on from where it was."""

import pytest
import torch
from torch import nn

from nmt.training import ema


def test_the_average_is_the_recursion() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(model.weight)
    average, expected = ema.MovingAverage(model, 0.6), 0.0
    for number, weight in enumerate(range(3, 30), start=1):
        nn.init.constant_(model.weight, weight)
        average.update()
        decay = min(0.6, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * weight
        assert average.tensors["weight"].item() == pytest.approx(expected)


def test_the_decay_is_reached() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = ema.MovingAverage(model, 0.5)
    average.restore({"weight": torch.ones(1, 1)}, 100)
    average.update()
    assert average.tensors["weight"].item() == 0.5


def test_the_random_start_is_forgotten_soon() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 1000.0)
    average = ema.MovingAverage(model, 0.999)
    nn.init.ones_(model.weight)
    for _ in range(50):
        average.update()
    assert average.tensors["weight"].item() == pytest.approx(1.0, abs=0.01)


def test_only_trained_weights_are_averaged() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert ema.MovingAverage(model, 0.9).tensors.keys() == {"weight"}


def test_a_restored_average_goes_on_bit_for_bit() -> None:
    model = nn.Linear(3, 3)
    first = ema.MovingAverage(model, 0.9)
    for seed in range(4):
        if seed == 2:
            saved = {name: tensor.clone() for name, tensor in first.tensors.items()}
            second = ema.MovingAverage(model, 0.9)
            second.restore(saved, first.num_updates)
        torch.manual_seed(seed)
        nn.init.normal_(model.weight)
        first.update()
        if seed >= 2:
            second.update()
    assert torch.equal(first.tensors["weight"], second.tensors["weight"])
    assert not torch.equal(first.tensors["weight"], model.weight)
