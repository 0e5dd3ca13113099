"""The corpus as the peers read it: the ids that nmt's tokenizer made, in batches by length."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import bucketing


class PeerData:
    """Padded batches without end.

    Attributes:
        vocab_size: number of pieces.
        specials: the ids of unk, bos, eos and pad.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        corpus = json.loads(Path(job["corpus"]).read_text(encoding="ascii"))
        self.vocab_size: int = corpus["vocab_size"]
        self.specials: dict[str, int] = corpus["specials"]
        eos = self.specials["eos"]
        self._src = [torch.tensor([*ids, eos]) for ids in corpus["src"]]
        self._tgt = [torch.tensor([*ids, eos]) for ids in corpus["tgt"]]
        self._lengths = [(len(a), len(b)) for a, b in zip(self._src, self._tgt, strict=True)]
        self._batch_tokens = job["batch_tokens"]

    def describe(self) -> dict[str, Any]:
        """Returns what an epoch holds, counted over its batches."""
        batches = bucketing.plan_epoch(
            self._lengths, batch_tokens=self._batch_tokens, rng=random.Random(1)
        )
        tokens = [sum(self._lengths[index][1] for index in batch) for batch in batches]
        return {
            "epoch_pairs": sum(map(len, batches)),
            "epoch_src_tokens": sum(src for src, _ in self._lengths),
            "epoch_tokens": sum(tokens),
            "epoch_positions": sum(
                bucketing.positions([self._lengths[index] for index in batch]) for batch in batches
            ),
            "largest_batch": max(tokens),
        }

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """Yields source ids, target ids (int64, EOS at the end, padded), and real target tokens."""
        rng = random.Random(1)
        while True:
            for batch in bucketing.plan_epoch(
                self._lengths, batch_tokens=self._batch_tokens, rng=rng
            ):
                yield (
                    self._padded([self._src[index] for index in batch]),
                    self._padded([self._tgt[index] for index in batch]),
                    sum(self._lengths[index][1] for index in batch),
                )

    def _padded(self, sentences: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            sentences, batch_first=True, padding_value=self.specials["pad"]
        )

    def shifted(self, tgt: torch.Tensor) -> torch.Tensor:
        """Returns the targets behind BOS, without their last position: what the decoder reads."""
        bos = torch.full((len(tgt), 1), self.specials["bos"])
        return torch.cat([bos, tgt[:, :-1]], dim=1)
