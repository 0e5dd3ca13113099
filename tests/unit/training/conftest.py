"""Training configurations, and pieces of batches for tiny models."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from nmt.config import schema
from nmt.data import batches, corpus, plan
from nmt.text import vocab

SRC = vocab.Vocab(("",) * 13, unk_id=0, bos_id=1, eos_id=2, pad_id=3)
TGT = vocab.Vocab(("",) * 11, unk_id=0, bos_id=1, eos_id=2, pad_id=3)


def _config(**given: Any) -> schema.TrainingConfig:
    return schema.TrainingConfig(**given)


@pytest.fixture(scope="session")
def training_config() -> Callable[..., schema.TrainingConfig]:
    """A function that makes a training configuration from the settings that matter."""
    return _config


def _side(lengths: Sequence[int], size: int, generator: torch.Generator) -> corpus.Side:
    begins = torch.tensor([0, *(length - 1 for length in lengths)]).cumsum(0)
    ids = torch.randint(4, size, (int(begins[-1]),), generator=generator, dtype=torch.int32)
    return corpus.Side(ids, begins)


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., batches.Batch]:
    """A function from (source, target) lengths, EOS included, to a batch of random ids."""

    def make(
        lengths: Sequence[tuple[int, int]], max_device_tokens: int | None = None, seed: int = 0
    ) -> batches.Batch:
        generator = torch.Generator().manual_seed(seed)
        src = _side([src for src, _ in lengths], len(SRC), generator)
        tgt = _side([tgt for _, tgt in lengths], len(TGT), generator)
        data = corpus.Corpus(src, tgt, (len(lengths),), "")
        collator = batches.Collator(data, SRC, TGT, max_device_tokens)
        return collator.collate(torch.arange(len(lengths)), plan.Position())

    return make
