"""Batches of sentences of like length, as the peers get them; nmt makes its own in the same way."""

import random
from collections.abc import Iterator, Sequence

POOL_BATCHES = 100  # as many as nmt/data/plan.py takes


def plan_epoch(
    lengths: Sequence[tuple[int, int]], *, batch_tokens: int, rng: random.Random
) -> list[list[int]]:
    """Returns the batches of an epoch, each a list of indices; every pair comes once.

    The pairs are shuffled, dealt into pools, sorted by target and source length within a pool, cut
    where the budget is full; then the batches are shuffled.

    Args:
        lengths: tokens of source and target, EOS included.
        batch_tokens: target tokens of a batch at most; a longer pair is a batch of its own.
        rng: where the order comes from.
    """
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches = []
    for pool in _cut(order, lengths, POOL_BATCHES * batch_tokens):
        pool.sort(key=lambda index: (lengths[index][1], lengths[index][0]))
        batches += _cut(pool, lengths, batch_tokens)
    rng.shuffle(batches)
    return batches


def positions(lengths: Sequence[tuple[int, int]]) -> int:
    """Returns the positions of a batch, both sides, padded to its longest sentences."""
    longest = [max(side) for side in zip(*lengths, strict=True)]
    return len(lengths) * sum(longest)


def _cut(
    order: Sequence[int], lengths: Sequence[tuple[int, int]], budget: int
) -> Iterator[list[int]]:
    """Yields parts of at most so many target tokens."""
    part: list[int] = []
    tokens = 0
    for index in order:
        length = lengths[index][1]
        if part and tokens + length > budget:
            yield part
            part, tokens = [], 0
        part.append(index)
        tokens += length
    if part:
        yield part
