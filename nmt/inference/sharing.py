"""Lines shared among processes: rank 0 reads and writes, all translate, the order stays."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from nmt.runtime import distributed

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


def run(
    group: distributed.Group,
    chunks: Iterator[list[ItemT]],
    work: Callable[[Sequence[ItemT], Sequence[int]], list[AnswerT]],
    write: Callable[[Sequence[AnswerT]], None],
) -> None:
    """Works on items as they come and writes the answers in their order, chunk by chunk.

    Every rank has every size-th item of a chunk, so that each has as many long ones as the others.
    One process alone goes the same way.

    Args:
        group: the processes; all call this alike.
        chunks: items as they arrive, which go through JSON; looked at on rank 0 only.
        work: an answer to each of these items, given their numbers from 0; it goes through JSON.
        write: takes answers; called on rank 0 only.

    Raises:
        errors.NMTError: reading, working or writing failed, on whichever rank.
    """
    ready: list[AnswerT] = []
    first = 0

    def go_on() -> list[ItemT] | None:
        # In one action with the reading: a rank that cannot write tells the others where they wait.
        write(ready)
        return next(chunks, None)

    while (chunk := group.on_main(go_on)) is not None:
        mine = range(group.rank, len(chunk), group.size)
        own = [chunk[index] for index in mine], [first + index for index in mine]
        parts = group.gather(lambda own=own: work(*own))  # type: ignore[misc]
        ready = [parts[index % group.size][index // group.size] for index in range(len(chunk))]
        first += len(chunk)
