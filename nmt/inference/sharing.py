"""Lines shared among processes: rank 0 reads and writes, all translate, the order stays."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from nmt.runtime import distributed


def run(
    group: distributed.Group,
    chunks: Iterator[list[str]],
    work: Callable[[Sequence[str], Sequence[int]], list[list[str]]],
    write: Callable[[Iterable[str]], None],
) -> None:
    """Works on lines as they come and writes the results in their order, chunk by chunk.

    Every rank has every size-th line of a chunk, so that each has as many long ones as the others.
    One process alone goes the same way.

    Args:
        group: the processes; all call this alike.
        chunks: lines as they arrive; looked at on rank 0 only.
        work: output lines of each of these lines, given their numbers from 0.
        write: takes output lines; called on rank 0 only.

    Raises:
        errors.NMTError: reading, working or writing failed, on whichever rank.
    """
    ready: list[str] = []
    first = 0

    def go_on() -> list[str] | None:
        # In one action with the reading: a rank that cannot write tells the others where they wait.
        write(ready)
        return next(chunks, None)

    while (chunk := group.on_main(go_on)) is not None:
        mine = range(group.rank, len(chunk), group.size)
        own = [chunk[index] for index in mine], [first + index for index in mine]
        parts = group.gather(lambda own=own: work(*own))  # type: ignore[misc]
        ready = [
            line
            for index in range(len(chunk))
            for line in parts[index % group.size][index // group.size]
        ]
        first += len(chunk)
