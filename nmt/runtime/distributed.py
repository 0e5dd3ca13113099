"""The processes that work on one thing together: who this one is, and how they meet.

With `rendezvous` the only module that knows `torch.distributed`. A process that works alone has the same
face, `Alone`, whose methods do nothing but the work, so that no caller asks how many there are.

Ranks do not fall apart: whatever one of them cannot do is told to all at the next meeting, where all
raise. The rank that failed raises its own error, the others `errors.PeerError`, which nobody prints: a
failure is one message, however many ranks there are. A rank that is killed closes its connections, by
which the others know at once.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import distributed

from nmt import errors
from nmt.runtime import buckets, connections, rendezvous

T = TypeVar("T")

# What torchrun, or whoever starts the processes, tells each of them.
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

# How long a rank waits for the others to come to where all compute alike. A rank that dies is noticed at
# once; this is for one that hangs, or whose machine has vanished.
PATIENCE = rendezvous.PATIENCE

# How long a rank waits for what rank 0 does alone: to tokenise, to validate, to write.
LONG_PATIENCE = datetime.timedelta(hours=12)


class Group(Protocol):
    """The processes of a run; every method but the properties is called by all of them alike."""

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""

    @property
    def size(self) -> int:
        """How many there are."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes and judges."""

    def meet(
        self, values: Sequence[float] = (), failure: errors.NMTError | None = None
    ) -> list[float]:
        """Returns the smallest of each value over the ranks, once all are here.

        Args:
            values: as many on each rank; infinity to have no say.
            failure: what this rank could not do, or None.

        Raises:
            errors.NMTError: `failure`, on the lowest rank that brings one.
            errors.PeerError: another rank brings one.
            errors.TrainingError: another rank has gone.
        """

    def together(self, action: Callable[[], T]) -> T:
        """Returns what the action returns on this rank; if it fails on one, all raise (see `meet`)."""

    def on_main(self, action: Callable[[], T]) -> T:
        """Returns what the action returns on rank 0, where alone it is done, while the others wait.

        Args:
            action: its value goes through JSON, so that it is None, a number, a text, or lists and
                dictionaries of these. If it fails, all raise (see `meet`).
        """

    def in_turn(self, action: Callable[[], T]) -> T:
        """Returns what the action returns on this rank; rank 0 does it first, then the others.

        No rank goes on before all have done it; if it fails on one, all raise (see `meet`).
        """

    def gather(self, action: Callable[[], T]) -> list[T]:
        """Returns what the action returns on each rank, by their numbers.

        Args:
            action: its value goes through JSON, as for `on_main`. If it fails on one, all raise.
        """

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sums tensors over the ranks, in place, with the same bits everywhere.

        Args:
            tensors: of the same shapes and types on each rank.

        Raises:
            errors.TrainingError: another rank has gone.
        """

    def share(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Gives all ranks, in place, each tensor as its owner has it.

        Args:
            tensors: of the same shapes and types on each rank.
            owners: a rank for each of them, the same everywhere.

        Raises:
            errors.TrainingError: another rank has gone.
        """


class Alone:
    """One process, which waits for nobody."""

    rank, size, is_main = 0, 1, True

    def meet(
        self, values: Sequence[float] = (), failure: errors.NMTError | None = None
    ) -> list[float]:
        """Returns the values, or raises the failure."""
        if failure is not None:
            raise failure
        return list(values)

    def together(self, action: Callable[[], T]) -> T:
        """Returns what the action returns."""
        return action()

    on_main = in_turn = together

    def gather(self, action: Callable[[], T]) -> list[T]:
        """Returns what the action returns, as the only one."""
        return [action()]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Leaves the tensors as they are."""

    def share(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """Leaves the tensors as they are."""


class Ranks:
    """Several processes, by gloo between processors and nccl between GPUs."""

    def __init__(self, rank: int, size: int, *, remedy: str) -> None:
        """Waits for all others.

        Args:
            rank: of this process.
            size: how many there are.
            remedy: what to do when another one has gone.

        Raises:
            errors.TrainingError: they do not find each other.
        """
        self.rank, self.size, self._remedy = rank, size, remedy
        self._has_nccl = torch.cuda.is_available() and distributed.is_nccl_available()
        backend = "cpu:gloo,cuda:nccl" if self._has_nccl else "gloo"
        with self._lost("cannot find"):
            store = rendezvous.fresh_store(rank, size)
            distributed.init_process_group(
                backend, store=store, rank=rank, world_size=size, timeout=PATIENCE
            )
            self._usual = distributed.new_group(backend="gloo", timeout=PATIENCE)
            self._patient = distributed.new_group(backend="gloo", timeout=LONG_PATIENCE)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def meet(
        self, values: Sequence[float] = (), failure: errors.NMTError | None = None
    ) -> list[float]:
        """See `Group`."""
        return self._meet(values, failure, self._usual)

    def together(self, action: Callable[[], T]) -> T:
        """See `Group`."""
        return self._do(action, self._patient)

    def on_main(self, action: Callable[[], T]) -> T:
        """See `Group`."""
        if self.is_main:
            value = self._do(action, self._patient)
            self._broadcast(value, 0)
            return value
        self._meet((), None, self._patient)
        found: T = self._broadcast(None, 0)
        return found

    def in_turn(self, action: Callable[[], T]) -> T:
        """See `Group`."""
        if self.is_main:
            value = self._do(action, self._patient)
            self._meet((), None, self._patient)
            return value
        self._meet((), None, self._patient)
        return self._do(action, self._patient)

    def gather(self, action: Callable[[], T]) -> list[T]:
        """See `Group`."""
        value = self._do(action, self._patient)
        return [self._broadcast(value, source) for source in range(self.size)]

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """See `Group`."""
        buckets.exchange(tensors, self._told(distributed.all_reduce))

    def share(self, tensors: Sequence[torch.Tensor], owners: Sequence[int]) -> None:
        """See `Group`."""
        for rank in range(self.size):
            owned = [tensor for tensor, owner in zip(tensors, owners, strict=True) if owner == rank]
            broadcast = functools.partial(distributed.broadcast, src=rank)
            buckets.exchange(owned, self._told(broadcast))

    def close(self) -> None:
        """Waits until the others are here, too, and leaves them.

        Gloo's connections end with the process, which has nothing left to do. Taking them down is work for
        its threads, where an error that nothing catches would end a run that is over as one that failed.
        """
        self.meet()
        if self._has_nccl:
            distributed.destroy_process_group()

    def _do(self, action: Callable[[], T], waiting: distributed.ProcessGroup) -> T:
        """Returns what the action returns; all ranks learn whether it failed."""
        try:
            value = action()
        except errors.NMTError as error:
            self._meet((), error, waiting)
            raise AssertionError("a meeting to which a rank brings a failure raises") from error
        self._meet((), None, waiting)
        return value

    def _meet(
        self,
        values: Sequence[float],
        failure: errors.NMTError | None,
        waiting: distributed.ProcessGroup,
    ) -> list[float]:
        # Who has only heard of a failure does not count as the one that failed.
        is_first_hand = failure is not None and not isinstance(failure, errors.PeerError)
        failing = self.rank if is_first_hand else self.size if failure is None else self.size - 0.5
        # Doubles, which hold times as they are, and whole numbers of any size we have.
        table = torch.tensor([failing, *values], dtype=torch.float64)
        with self._lost():
            distributed.all_reduce(table, op=distributed.ReduceOp.MIN, group=waiting)
        lowest, *found = table.tolist()
        if lowest == self.size:
            return found
        if failure is not None and lowest in {self.rank, self.size - 0.5}:
            if is_first_hand:
                self._broadcast([str(failure), failure.exit_code], self.rank)
            raise failure
        text, exit_code = self._broadcast(None, int(lowest))
        raise errors.PeerError(f"rank {int(lowest)}: {text}", exit_code)

    def _broadcast(self, value: Any, source: int) -> Any:
        """Returns the value of one rank, through JSON."""
        data = json.dumps(value).encode() if self.rank == source else b""
        size = torch.tensor(len(data))
        with self._lost():
            distributed.broadcast(size, source, group=self._usual)
            content = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == source:
                content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
            distributed.broadcast(content, source, group=self._usual)
        return json.loads(content.numpy().tobytes())

    def _told(self, action: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], None]:
        """Returns the action, whose errors, and no others, are those of a lost rank."""

        def told(tensor: torch.Tensor) -> None:
            with self._lost():
                action(tensor)

        return told

    @contextlib.contextmanager
    def _lost(self, what: str = "has lost") -> Iterator[None]:
        """Turns what torch raises when another rank does not answer into an error of the run."""
        try:
            yield
        except RuntimeError as error:
            raise connections.lost(
                self.rank, self.size, error, what, remedy=self._remedy
            ) from error


@dataclasses.dataclass(frozen=True)
class Start:
    """How this process was started.

    Attributes:
        rank: of this process.
        size: processes of the run.
        local_rank: its number on its machine, by which it takes its GPU.
        num_restarts: how often torchrun has started the run anew.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    num_restarts: int = 0


def started() -> Start:
    """Returns what the environment says about this process.

    Raises:
        errors.UsageError: a variable is not a number, or the rank is not one of so many.
    """
    if not all(os.environ.get(name) for name in VARIABLES):
        return Start()
    rank, size = _number("RANK"), _number("WORLD_SIZE")
    if not 0 <= rank < size:
        raise errors.UsageError(
            f"RANK: is not below WORLD_SIZE (given: {rank} and {size}). "
            "Start the run with torchrun, which sets both, or unset them to train alone."
        )
    return Start(rank, size, _number("LOCAL_RANK"), _number("TORCHELASTIC_RESTART_COUNT"))


def _number(name: str) -> int:
    text = os.environ.get(name, "0")
    try:
        return int(text)
    except ValueError:
        raise errors.UsageError(
            f"{name}: is not a whole number (given: {text}). "
            "Start the run with torchrun, which sets it, or unset it to train alone."
        ) from None


@contextlib.contextmanager
def joined(start: Start, *, remedy: str = connections.RESUME) -> Iterator[Group]:
    """Opens the group of this run, until the context ends; without others it is `Alone`.

    Args:
        start: how this process was started.
        remedy: what the message of a lost process says is to be done.

    After an error nobody is waited for: the others are told by the meeting, or by the connection.

    Raises:
        errors.TrainingError: the processes do not find each other.
    """
    if start.size == 1:
        yield Alone()
        return
    ranks = Ranks(start.rank, start.size, remedy=remedy)
    yield ranks
    ranks.close()


def check_equal(group: Group, checksum: str, what: str) -> None:
    """Finds out whether all ranks have the same.

    Args:
        group: of the run.
        checksum: hexadecimal, of what should be the same.
        what: it is called in the message.

    Raises:
        errors.TrainingError: a rank has something else.
    """
    # 48 bits: a double holds them, and their negative.
    number = float(int(checksum[:12], 16))
    least, greatest = group.meet([number, -number])
    if least != -greatest:
        # Brought to a meeting, so that it is said once.
        group.meet(
            failure=errors.TrainingError(
                f"rank {group.rank} of {group.size}: ranks begin with different {what} (given: "
                f"{checksum[:12]} on this one). They need the same configuration and versions of "
                "packages, and run_dir on a disk that all machines share."
            )
        )
