"""Memory that runs out is told apart from other errors, and a limit holds while it is set."""

import subprocess
import sys

import pytest
import torch

from nmt import errors
from nmt.models import packed
from nmt.runtime import memory

CPU = torch.device("cpu")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")


@pytest.mark.parametrize(
    ("error", "is_exhausted"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("could not create a primitive descriptor for the product"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_errors_of_memory_are_known(error: Exception, is_exhausted: bool) -> None:
    assert memory.is_exhausted(error) == is_exhausted


# In a process of its own: what other tests have freed would be used again without asking the system.
LIMITED = """
from nmt.runtime import allocator
allocator.tune()
import torch
from nmt.runtime import memory

room = 256
size = (room + 64) * memory.MIB
weight = torch.ones(size // 4, requires_grad=True)
with memory.limited(memory.used() // memory.MIB + room):
    small = torch.ones(room // 4 * memory.MIB, dtype=torch.uint8)
    for name, call in {
        "forward": lambda: torch.ones(size, dtype=torch.uint8),
        "backward": lambda: torch.autograd.grad(weight[0] * 2.0, weight),
    }.items():
        try:
            call()
        except MemoryError as error:
            print(name, memory.is_exhausted(error))
    del small
    # What was freed does not count, though the heap keeps it.
    freed = [torch.ones(memory.MIB, dtype=torch.uint8) for _ in range(room // 2)]
    keeps_the_heap = torch.ones(1)
    del freed
    torch.ones(room // 4 * 3 * memory.MIB, dtype=torch.uint8)
torch.ones(size, dtype=torch.uint8)
print("lifted")
"""


@linux
def test_a_limit_holds_forward_and_backward_and_is_lifted() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED], capture_output=True, text=True, check=False
    )
    assert (done.stdout.split("\n"), done.returncode) == (
        ["forward True", "backward True", "lifted", ""],
        0,
    ), done.stderr


SHAPES = """
from nmt.runtime import allocator
allocator.tune()
import torch
from nmt.models import packed
from nmt.runtime import memory

memory.bound_code()
assert packed.has_onednn()
rows, weights = torch.ones(1000, 64), torch.ones(32, 64)
with memory.limited(memory.used() // memory.MIB + 96):
    for number in range(100, 700):
        torch.ops.mkldnn._linear_pointwise(rows[:number], weights, None, "none", [], "")
print("fits")
"""


@linux
@pytest.mark.skipif(not packed.has_onednn(), reason="this torch has no oneDNN")
def test_the_code_of_many_shapes_does_not_fill_the_limit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SHAPES], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("fits\n", 0), done.stderr


@linux
def test_a_limit_below_what_there_is_already_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match=r"memory_limit: 1 MiB.*before it trains"):
        memory.check_limit(1, CPU)


def test_a_limit_is_refused_where_it_would_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ConfigError, match="device meta"):
        memory.check_limit(4096, torch.device("meta"))
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(errors.ConfigError, match="on darwin"):
        memory.check_limit(4096, CPU)


def test_no_limit_is_none_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.check_limit(None, torch.device("meta"))
    with memory.limited(None):
        pass
    memory.give_back(CPU)
