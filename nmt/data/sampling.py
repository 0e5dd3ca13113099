"""Subword sampling: other pieces for the same text each time (Kudo 2018; Provilkov et al. 2020)."""

import itertools
from collections.abc import Sequence
from typing import Protocol

import torch

from nmt.data import corpus, filters, plan, readers


class Tokenizer(Protocol):
    """What sampling needs of a tokenizer."""

    def sample_batch(self, texts: Sequence[str], seed: int) -> list[list[int]]:
        """Returns ids of each text, drawn by a seed, without BOS and EOS."""


class Sampler:
    """Draws pieces for the texts of a batch; what is drawn depends on seed and position alone."""

    def __init__(
        self,
        src_tokenizer: Tokenizer | None,
        tgt_tokenizer: Tokenizer | None,
        pair_filter: filters.PairFilter,
        seed: int,
    ) -> None:
        """Takes the tokenizers of the sides that are sampled.

        Args:
            src_tokenizer: of the source side, or None to leave it as it is.
            tgt_tokenizer: of the target side, or None to leave it as it is.
            pair_filter: a sample that is longer than it allows gives way to the usual pieces.
            seed: of the run.
        """
        self._tokenizers = {"src": src_tokenizer, "tgt": tgt_tokenizer}
        self._limits = {"src": pair_filter.max_src_length, "tgt": pair_filter.max_tgt_length}
        self._seed = seed

    def draw(
        self,
        data: corpus.Side,
        side: readers.Side,
        indices: torch.Tensor,
        position: plan.Position,
    ) -> corpus.Side:
        """Returns one side of a batch alone, in the order of its pairs.

        Args:
            data: this side of the whole corpus.
            side: which one it is.
            indices: int64 [P], the pairs of the batch.
            position: of the batch.
        """
        tokenizer = self._tokenizers[side]
        usual = [data.sentence(index) for index in indices.tolist()]
        chosen = usual
        if tokenizer is not None:
            number = ("src", "tgt").index(side)
            seed = plan.stream_seed(
                self._seed, position.epoch, position.window, position.batch, number
            )
            drawn = tokenizer.sample_batch(data.texts(indices), seed)
            chosen = [
                sample if sample and len(sample) < self._limits[side] else sentence
                for sample, sentence in zip(drawn, usual, strict=True)
            ]
        begins = [0, *itertools.accumulate(map(len, chosen))]
        ids = torch.tensor(list(itertools.chain(*chosen)), dtype=torch.int32)
        return corpus.Side(ids, torch.tensor(begins))
