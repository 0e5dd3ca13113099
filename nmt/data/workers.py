"""Batches made in other processes, in order, as they would be made in this one."""

import signal
import warnings
from collections.abc import Iterable, Iterator
from multiprocessing import context, queues
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch.utils import data as torch_data

from nmt import errors

Order = TypeVar("Order", contravariant=True)
Made = TypeVar("Made", covariant=True)

# Batches that each worker makes ahead.
AHEAD = 4


class Maker(Protocol[Order, Made]):
    """Makes a batch from what says which; goes to the workers by pickle."""

    def __call__(self, order: Order, /) -> Made:
        """Returns the batch."""


class _Orders(torch_data.Sampler[Any]):
    def __init__(self, orders: Iterable[Any]) -> None:
        self._orders = orders

    def __iter__(self) -> Iterator[Any]:
        return iter(self._orders)


class _Batches(torch_data.Dataset[Any], Generic[Order, Made]):
    """What torch's loader asks for an order at a time."""

    def __init__(self, make: Maker[Order, Made]) -> None:
        self._make = make

    def __getitem__(self, order: Order) -> Made | errors.NMTError:
        try:
            return self._make(order)
        except errors.NMTError as error:
            # Raised in the trainer: torch would add a traceback to its text.
            return error


class _Context(context.SpawnContext):
    """Starts workers anew, and does not print a traceback when one of them is no longer there."""

    def Queue(self, maxsize: int = 0) -> "queues.Queue[Any]":  # noqa: N802
        queue = super().Queue(maxsize)
        # The thread that feeds a dead worker would print how its pipe broke.
        queue._ignore_epipe = True  # type: ignore[attr-defined]
        return queue


def _as_it_is(value: Any) -> Any:
    return value


def _set_up_worker(number: int) -> None:
    # Ctrl-C is for the trainer, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def ordered(make: Maker[Order, Made], orders: Iterable[Order], num_workers: int) -> Iterator[Made]:
    """Yields what each order makes, in their order.

    The workers are started anew rather than forked: they would inherit locks, threads and signal
    handlers of the trainer.

    Args:
        make: makes one.
        orders: in this process, which runs through them a little ahead of the workers.
        num_workers: processes, at least 1.

    Raises:
        errors.DataError: a worker has died.
        errors.NMTError: what `make` raised.
    """
    # torch raises from a signal handler when a worker dies, wherever the trainer is at that moment, a
    # checkpoint half written perhaps. Without the handler, asking for the next batch finds out.
    before = signal.getsignal(signal.SIGCHLD)
    with warnings.catch_warnings():
        # How many there are is the user's choice.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        made = iter(_loader(make, orders, num_workers))
    if signal.getsignal(signal.SIGCHLD) is not before:
        signal.signal(signal.SIGCHLD, before)
    while True:
        try:
            batch = next(made)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A worker may die while torch asks it for the memory that a batch lies in.
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            raise errors.DataError(
                "data.num_workers: a process that makes batches has died "
                f"({' '.join(str(error).split()) or 'its pipe was closed'}). The same command goes "
                "on from here; data.num_workers: 0 does without such processes."
            ) from error
        if isinstance(batch, errors.NMTError):
            raise batch
        yield batch


def _loader(
    make: Maker[Order, Made], orders: Iterable[Order], num_workers: int
) -> torch_data.DataLoader[Any]:
    return torch_data.DataLoader(
        _Batches(make),
        batch_size=None,
        sampler=_Orders(orders),
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_set_up_worker,
        prefetch_factor=AHEAD,
        multiprocessing_context=_Context(),
        # Otherwise it would draw from the random numbers of the run.
        generator=torch.Generator(),
    )
