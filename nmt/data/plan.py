"""Which pairs make which batch: random, by length, to a token budget, and the same again each time.

An epoch's plan depends on the seed and the number of the epoch alone, so a position in it is two
numbers. The pairs are shuffled and dealt into pools of many batches; within a pool they are sorted
by length and cut into batches, so that a batch has little padding; then all batches are shuffled.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import torch

from nmt.data import corpus

# More batches to a pool: less padding; fewer: neighbours in length more at random.
POOL_BATCHES = 100


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come: whole epochs, and batches of the one under way."""

    epoch: int = 0
    batch: int = 0


class Planner:
    """Plans the batches of each epoch."""

    def __init__(
        self,
        data: corpus.Corpus,
        *,
        batch_tokens: int,
        seed: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        """Takes the corpus and the budget.

        Args:
            data: the pairs; none has a target longer than `batch_tokens`.
            batch_tokens: target tokens of a batch at most, EOS included.
            seed: of the order.
            weights: the share of each corpus entry in an epoch, which has as many pairs as the
                corpus; None takes every pair once.
        """
        self._data = data
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._weights = weights
        self._src_lengths = data.src.lengths
        self._tgt_lengths = data.tgt.lengths

    def epoch(self, number: int) -> list[torch.Tensor]:
        """Returns the batches of an epoch, each int64 indices of pairs.

        Args:
            number: counted from 0.
        """
        generator = torch.Generator()
        # Two numbers into one seed: neighbours in either must not share a stream.
        generator.manual_seed((self._seed * 1_000_003 + number) % 2**63)
        order = self._draw(generator, number)
        tgt_lengths = self._tgt_lengths[order]
        pools = tgt_lengths.cumsum(0).sub_(1) // (POOL_BATCHES * self._batch_tokens)
        # Sorted by pool, then target length, then source length; stable, so chance decides the rest.
        for key in (self._src_lengths, self._tgt_lengths):
            order, pools = _stable_sort(key[order], order, pools)
        _, order, pools = (pools, *_stable_sort(pools, order, pools))
        batches = list(self._cut(order, pools))
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[index] for index in shuffled]

    def batches(self, start: Position) -> Iterator[tuple[Position, torch.Tensor]]:
        """Yields batches without end, each with the position behind it.

        Args:
            start: the batch to go on with.
        """
        position = start
        while True:
            plan = self.epoch(position.epoch)
            for number in range(position.batch, len(plan)):
                is_last = number + 1 == len(plan)
                behind = (
                    Position(position.epoch + 1, 0)
                    if is_last
                    else Position(position.epoch, number + 1)
                )
                yield behind, plan[number]
            position = Position(position.epoch + 1, 0)

    def _draw(self, generator: torch.Generator, number: int) -> torch.Tensor:
        """Returns the pairs of an epoch in random order."""
        num_pairs = len(self._data)
        if self._weights is None:
            return torch.randperm(num_pairs, generator=generator)
        total, begin, drawn = sum(self._weights), 0, []
        for size, weight in zip(self._data.entry_sizes, self._weights, strict=True):
            share = max(1, round(num_pairs * weight / total))
            # Whole passes and a random rest: no pair comes twice more often than another.
            passes = [torch.randperm(size, generator=generator) for _ in range(-(-share // size))]
            drawn.append(torch.cat(passes)[:share] + begin)
            begin += size
        pairs = torch.cat(drawn)
        return pairs[torch.randperm(pairs.numel(), generator=generator)]

    def _cut(self, order: torch.Tensor, pools: torch.Tensor) -> Iterator[torch.Tensor]:
        """Cuts sorted pairs at the ends of pools and where the budget is full."""
        ends = self._tgt_lengths[order].cumsum(0)
        pool_ends = torch.searchsorted(pools, pools, right=True).tolist()
        begin, total = 0, order.numel()
        while begin < total:
            budget = self._batch_tokens + (int(ends[begin - 1]) if begin else 0)
            end = int(torch.searchsorted(ends, budget, right=True))
            end = min(max(end, begin + 1), pool_ends[begin])
            yield order[begin:end]
            begin = end


def _stable_sort(
    key: torch.Tensor, order: torch.Tensor, pools: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    by = torch.argsort(key, stable=True)
    return order[by], pools[by]
