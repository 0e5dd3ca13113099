"""Products in few shapes are the same products."""

import pytest
import torch

from nmt.models import products

pytestmark = pytest.mark.usefixtures("fp32_library")
STEP = products.STEP
LENGTHS = [1, 2, STEP - 1, STEP, STEP + 1, 2 * STEP - 1, 2 * STEP, 2 * STEP + 1, 5 * STEP + 77]
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])


def whole(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """Whole numbers, so small that no product or sum of them is rounded in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, shape, generator=generator).to(dtype)


def sparse(*shape: int, dtype: torch.dtype, seed: int) -> torch.Tensor:
    """The same with few that are not zero: a sum over many rows stays exact in bf16."""
    generator = torch.Generator().manual_seed(seed + 100)
    return whole(*shape, dtype=dtype, seed=seed) * (torch.rand(shape, generator=generator) < 0.2)


@DTYPES
@pytest.mark.parametrize("num_rows", LENGTHS)
def test_rows(num_rows, dtype):
    left = whole(num_rows, 16, dtype=dtype, seed=1)
    right = whole(16, 8, dtype=dtype, seed=2)
    found = products.by_rows(left, right)
    assert found.dtype == dtype
    assert torch.equal(found.double(), left.double() @ right.double())


@DTYPES
@pytest.mark.parametrize("num_rows", LENGTHS)
def test_the_sum_over_rows_counts_each_once(num_rows, dtype):
    left = sparse(num_rows, 16, dtype=dtype, seed=1)
    right = sparse(num_rows, 8, dtype=dtype, seed=2)
    kept = left.clone(), right.clone()
    found = products.over_rows(left, right)
    assert found.dtype == dtype
    assert torch.equal(found.double(), left.double().T @ right.double())
    assert torch.equal(left, kept[0]) and torch.equal(right, kept[1])


def test_who_multiplies_float32_is_asked(fp32_library):
    rows = whole(3, 4, dtype=torch.float32, seed=1)
    assert products.onednn_takes(rows) == (fp32_library == "onednn")
    assert not products.onednn_takes(rows.double())
    assert not products.onednn_takes(rows[:0])
    assert products.by_rows(rows[:0], rows.t()).shape == (0, 3)


@pytest.mark.parametrize(
    ("num_rows", "expected"), [(0, 0), (1, STEP), (STEP, STEP), (STEP + 1, 2 * STEP)]
)
def test_rounding_up(num_rows, expected):
    assert products.rounded(num_rows) == expected


class Shapes(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the shapes that matrices are multiplied in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[tuple[int, ...], ...]] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            self.seen.add(tuple(tuple(one.shape) for one in args[-2:]))
        return func(*args, **(kwargs or {}))


def test_few_shapes_for_many_numbers_of_rows():
    right = whole(8, 4, dtype=torch.bfloat16, seed=1)
    with Shapes() as shapes:
        for num_rows in range(8 * STEP, 10 * STEP):
            rows = whole(num_rows, 8, dtype=torch.bfloat16, seed=2)
            products.by_rows(rows, right)
            products.over_rows(rows, rows)
    # Two bulks and the end, each for both kinds of products.
    assert len(shapes.seen) == 6
