"""Which pairs make which batch, in which order: a function of seed, epoch and window alone.

An epoch goes through the corpus in windows, so that a plan's memory does not grow with the corpus and
training can begin before all of it is tokenised. The pairs of a window are shuffled and dealt into
pools of many batches; within a pool they are sorted by length and cut into batches, so that a batch
has little padding; then all batches are shuffled.

The first epoch takes windows as the files have them, small ones first. Later epochs shuffle blocks of
neighbouring pairs, and every so many blocks make a window. A corpus that is no larger than a window is
thus shuffled as a whole.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Sequence

import torch

from nmt.data import corpus, mixing

# More batches to a pool: less padding; fewer: neighbours in length more at random.
POOL_BATCHES = 100

# Pairs of a window: 512 Ki take about 50 MiB while they are planned.
WINDOW_PAIRS = 1 << 19

# Pairs of the first window, which training waits for; each following one is twice as large. Corpora of
# the size of Multi30k fit in.
FIRST_WINDOW_PAIRS = 1 << 15

# Pairs that stay neighbours when an epoch is cut into windows: enough to be read in one go.
BLOCK_PAIRS = 1 << 10

_WINDOW_STRIDE = 0x9E3779B97F4A7C15  # 2**64 / golden ratio: its multiples lie far apart


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: whole epochs.
        batch: batches of the epoch under way.
        window: whole windows of that epoch.
        window_begin: batches of that epoch before the window under way.
    """

    epoch: int = 0
    batch: int = 0
    window: int = 0
    window_begin: int = 0


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Runs of neighbouring pairs: where they begin, how many they are, and how many are wanted."""

    begins: torch.Tensor
    sizes: torch.Tensor
    wanted: torch.Tensor

    def at(self, places: torch.Tensor) -> "_Blocks":
        return _Blocks(self.begins[places], self.sizes[places], self.wanted[places])

    def windows(self) -> torch.Tensor:
        """Returns the window of each block, that in which its first pair lies."""
        return (self.wanted.cumsum(0) - self.wanted) // WINDOW_PAIRS

    def __len__(self) -> int:
        return self.begins.numel()


class Planner:
    """Plans the batches of each epoch."""

    def __init__(
        self,
        data: corpus.Data,
        *,
        batch_tokens: int,
        seed: int,
        weights: mixing.Mix | None = None,
    ) -> None:
        """Takes the corpus and the budget.

        Args:
            data: the pairs; none has a target longer than `batch_tokens`.
            batch_tokens: target tokens of a batch at most, EOS included.
            seed: of the order.
            weights: the share of each corpus entry in an epoch, or what says it by their sizes. An
                epoch has as many pairs as the corpus. None takes every pair once. With weights,
                planning waits for the whole corpus.
        """
        self._data = data
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._weights = weights
        self._num_batches: int | None = None

    def epoch(self, number: int) -> list[torch.Tensor]:
        """Returns the batches of an epoch, each int64 indices of pairs.

        Args:
            number: counted from 0.
        """
        windows = itertools.takewhile(
            lambda window: self._has_window(number, window), itertools.count()
        )
        return [batch for window in windows for batch in self._window(number, window)]

    def batches(self, start: Position) -> Iterator[tuple[Position, torch.Tensor]]:
        """Yields batches without end, each with the position behind it.

        Args:
            start: the batch to go on with.
        """
        position = start
        while True:
            plan = self._window(position.epoch, position.window)
            for number in range(position.batch - position.window_begin, len(plan)):
                position = dataclasses.replace(position, batch=position.batch + 1)
                if number + 1 == len(plan):
                    position = self._next_window(position)
                yield position, plan[number]

    def num_batches(self) -> int:
        """Returns how many batches an epoch has: exactly for a small corpus, else about."""
        if self._num_batches is not None:
            return self._num_batches
        data = self._data
        if data.is_complete and sum(data.entry_sizes) <= FIRST_WINDOW_PAIRS:
            self._num_batches = len(self.epoch(0))
            return self._num_batches
        tokens = data.tgt.ids.numel() + data.tgt.begins.numel()
        number = math.ceil(tokens / data.share / self._batch_tokens)
        if data.is_complete:
            self._num_batches = number
        return number

    def _next_window(self, position: Position) -> Position:
        """Returns the position in other words if a window has come to its end."""
        if self._has_window(position.epoch, position.window + 1):
            return dataclasses.replace(
                position, window=position.window + 1, window_begin=position.batch
            )
        return Position(position.epoch + 1)

    def _has_window(self, epoch: int, window: int) -> bool:
        if self._in_file_order(epoch):
            begin, _ = _growing_window(window)
            return self._data.wait(begin + 1) > begin
        return window <= int(self._blocks(epoch).windows()[-1])

    def _in_file_order(self, epoch: int) -> bool:
        return epoch == 0 and self._weights is None

    def _window(self, epoch: int, window: int) -> list[torch.Tensor]:
        """Returns the batches of a window."""
        generator = _generator(self._seed, epoch, window)
        if self._in_file_order(epoch):
            begin, end = _growing_window(window)
            pairs = torch.arange(begin, self._data.wait(end))
        else:
            blocks = self._blocks(epoch)
            inside = (blocks.windows() == window).nonzero()[:, 0]
            pairs = _pairs_of(blocks.at(inside), generator)
        return self._batches_of(
            pairs[torch.randperm(pairs.numel(), generator=generator)], generator
        )

    def _batches_of(self, order: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
        """Deals shuffled pairs to pools, sorts, cuts and shuffles the batches."""
        src_lengths = self._data.src.lengths_of(order)
        tgt_lengths = self._data.tgt.lengths_of(order)
        total = int(tgt_lengths.sum())
        # Pools of one size: a small rest as a pool of its own would be padded more.
        num_pools = max(1, round(total / (POOL_BATCHES * self._batch_tokens)))
        pools = tgt_lengths.cumsum(0).sub_(1) * num_pools // total
        by = torch.arange(order.numel())
        # Sorted by pool, then target length, then source length; stable, so chance decides the rest.
        # Sources rise at even target lengths and fall at odd ones: a batch that spans two target
        # lengths has the long sources of both, or the short ones, instead of some of each.
        winding = torch.where(tgt_lengths % 2 == 0, src_lengths, -src_lengths)
        for key in (winding, tgt_lengths, pools):
            by = by[torch.argsort(key[by], stable=True)]
        batches = list(self._cut(order[by], tgt_lengths[by], pools[by]))
        shuffled = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[index] for index in shuffled]

    def _cut(
        self, order: torch.Tensor, tgt_lengths: torch.Tensor, pools: torch.Tensor
    ) -> Iterator[torch.Tensor]:
        """Cuts sorted pairs at the ends of pools and where the budget is full."""
        ends = tgt_lengths.cumsum(0)
        begin, total = 0, order.numel()
        while begin < total:
            budget = self._batch_tokens + (int(ends[begin - 1]) if begin else 0)
            end = int(torch.searchsorted(ends, budget, right=True))
            pool_end = int(torch.searchsorted(pools, pools[begin], right=True))
            end = min(max(end, begin + 1), pool_end)
            yield order[begin:end]
            begin = end

    def _blocks(self, epoch: int) -> _Blocks:
        """Returns the blocks of an epoch in random order."""
        sizes = self._data.entry_sizes
        # The order of the blocks belongs to no window.
        generator = _generator(self._seed, epoch, -1)
        if self._weights is None:
            blocks = _whole_blocks(0, sum(sizes))
        else:
            weights = mixing.weights_of(self._weights, sizes)
            blocks = self._drawn_blocks(sizes, weights, generator)
        return blocks.at(torch.randperm(len(blocks), generator=generator))

    @staticmethod
    def _drawn_blocks(
        sizes: Sequence[int], weights: Sequence[float], generator: torch.Generator
    ) -> _Blocks:
        """Returns as many pairs of each entry as its weight asks for, in blocks."""
        num_pairs, total, begin, drawn = sum(sizes), sum(weights), 0, []
        for size, weight in zip(sizes, weights, strict=True):
            share = max(1, round(num_pairs * weight / total))
            whole = _whole_blocks(begin, size)
            # Whole passes and a random rest: no pair comes twice more often than another.
            passes, rest = divmod(share, size)
            drawn += [whole] * passes
            some = whole.at(torch.randperm(len(whole), generator=generator))
            before = some.sizes.cumsum(0) - some.sizes
            wanted = torch.minimum(some.sizes, (rest - before).clamp(min=0))
            drawn.append(_Blocks(some.begins, some.sizes, wanted).at((wanted > 0).nonzero()[:, 0]))
            begin += size
        return _Blocks(
            torch.cat([blocks.begins for blocks in drawn]),
            torch.cat([blocks.sizes for blocks in drawn]),
            torch.cat([blocks.wanted for blocks in drawn]),
        )


def stream_seed(*numbers: int) -> int:
    """Returns a seed in [0, 2**63) for a stream of random numbers that no other numbers share."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _generator(seed: int, epoch: int, window: int) -> torch.Generator:
    generator = torch.Generator()
    # Three numbers into one seed: neighbours in any must not share a stream.
    generator.manual_seed((seed * 1_000_003 + epoch + window * _WINDOW_STRIDE) % 2**63)
    return generator


def _growing_window(window: int) -> tuple[int, int]:
    """Returns where a window of the first epoch begins and ends, in pairs."""
    begin, size = 0, FIRST_WINDOW_PAIRS
    for _ in range(window):
        begin += size
        size = min(2 * size, WINDOW_PAIRS)
    return begin, begin + size


def _whole_blocks(begin: int, num_pairs: int) -> _Blocks:
    begins = torch.arange(begin, begin + num_pairs, BLOCK_PAIRS)
    sizes = (begin + num_pairs - begins).clamp(max=BLOCK_PAIRS)
    return _Blocks(begins, sizes, sizes)


def _pairs_of(blocks: _Blocks, generator: torch.Generator) -> torch.Tensor:
    """Returns the pairs of blocks; of a block that is not wanted whole, a random choice."""
    found = []
    for begin, size, wanted in zip(
        blocks.begins.tolist(), blocks.sizes.tolist(), blocks.wanted.tolist(), strict=True
    ):
        if wanted == size:
            found.append(torch.arange(begin, begin + size))
        else:
            found.append(torch.randperm(size, generator=generator)[:wanted] + begin)
    return torch.cat(found)
