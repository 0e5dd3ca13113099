"""Workers make the batches that would be made here, and their death is one line."""

import itertools
import os
import signal

import pytest
import torch

from nmt import errors
from nmt.data import workers


def square(number: int) -> tuple[int, int]:
    if number == 20:
        raise errors.FileError("c.src: has gone.")
    return number * number, os.getpid()


def heeds_interrupts(number: int) -> bool:
    return signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def die(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_results_come_in_order_from_as_many_processes_until_one_fails() -> None:
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGCHLD)
    made = workers.ordered(square, itertools.count(), 2)
    found = list(itertools.islice(made, 20))
    assert [value for value, _ in found] == [number * number for number in range(20)]
    processes = {process for _, process in found}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert torch.equal(torch.get_rng_state(), before), "the run's random numbers are its own"
    assert signal.getsignal(signal.SIGCHLD) == handler
    with pytest.raises(errors.FileError) as caught:
        next(made)
    assert str(caught.value) == "c.src: has gone."


def test_an_interrupt_is_for_the_trainer_which_ends_its_workers() -> None:
    assert not any(workers.ordered(heeds_interrupts, range(2), 1))


def test_a_worker_that_dies_is_one_line() -> None:
    with pytest.raises(errors.DataError) as caught:
        list(workers.ordered(die, range(9), 1))
    assert "a process that makes batches has died" in str(caught.value)
    assert "\n" not in str(caught.value)
