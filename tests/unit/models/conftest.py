"""Random weights and memories in float64, with which layers are compared with plain formulas."""

from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from torch import nn

from nmt.models import base

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@pytest.fixture
def randomized() -> Callable[[ModuleT], ModuleT]:
    """A function that makes a module float64, all its weights random (biases too), in eval mode."""

    def randomize(module: ModuleT, seed: int = 0, scale: float = 0.5) -> ModuleT:
        generator = torch.Generator().manual_seed(seed)
        module = module.double().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.normal_(0.0, scale, generator=generator)
        return module

    return randomize


@pytest.fixture
def normal() -> Callable[..., torch.Tensor]:
    """A function that draws a float64 tensor."""

    def draw(*shape: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    return draw


@pytest.fixture
def make_memory(normal: Callable[..., torch.Tensor]) -> Callable[..., base.Memory]:
    """A function that makes a memory whose keys and values differ, with anything at padding."""

    def make(lengths: list[int], size: int) -> base.Memory:
        num_sentences, longest = len(lengths), max(lengths)
        return base.Memory(
            states_BSM=normal(num_sentences, longest, size, seed=11),
            mask_BS=torch.arange(longest) < torch.tensor(lengths).unsqueeze(1),
            pooled_BM=normal(num_sentences, size, seed=12),
            values_BSM=normal(num_sentences, longest, size, seed=13),
        )

    return make
