"""Matrix products on CPU whose shapes repeat, though every batch has another number of rows.

oneDNN, which multiplies in bf16, makes machine code for each new shape and keeps that of the last
1,024. A model of a few layers has dozens of products, so with a number of rows of its own in every
batch nearly each one would be made anew, at the cost of running it several times. Here the bulk goes
through in a number of rows that is a multiple of `STEP`, and the end in one product over the last
`STEP` rows, which has some rows in common with the bulk.

In float32 MKL multiplies, except where oneDNN is faster: on processors of AMD it is, in the products of
the forward pass and of the gradients of states, and a new shape costs it less than a millisecond
(docs/performance.md). Which of the two it is depends on the processor alone, so that a run
that is resumed on its machine rounds as it did.
"""

import functools
import platform
from pathlib import Path

import torch

from nmt.models import packed

# What is done twice is half of this on average, which is 2 % of a batch of 4,096 rows.
STEP = 128


def rounded(num_rows: int) -> int:
    """Returns the next multiple of `STEP`."""
    return -(-num_rows // STEP) * STEP


def onednn_takes(states: torch.Tensor) -> bool:
    """Returns whether oneDNN is the one to multiply these states, in float32 on CPU, with weights."""
    return (
        states.dtype == torch.float32
        and states.device.type == "cpu"
        and states.numel() > 0
        and onednn_leads_in_fp32()
    )


@functools.cache
def onednn_leads_in_fp32() -> bool:
    """Returns whether oneDNN is faster than MKL in float32 on this processor."""
    if not packed.has_onednn() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # another system than Linux
        processor = platform.processor()
    return "AuthenticAMD" in processor


def _by_onednn(left_NI: torch.Tensor, right_IO: torch.Tensor) -> torch.Tensor:
    product_NO: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
        left_NI, right_IO.t(), None, "none", [], ""
    )
    return product_NO


def by_rows(left_NI: torch.Tensor, right_IO: torch.Tensor) -> torch.Tensor:
    """Returns left right, [N, O]."""
    if onednn_takes(left_NI):
        return _by_onednn(left_NI, right_IO)
    num_rows = left_NI.shape[0]
    bulk = _bulk(left_NI)
    if bulk == num_rows:
        return torch.mm(left_NI, right_IO)
    product_NO = left_NI.new_empty(num_rows, right_IO.shape[1])
    torch.mm(left_NI[:bulk], right_IO, out=product_NO[:bulk])
    torch.mm(left_NI[-STEP:], right_IO, out=product_NO[-STEP:])
    return product_NO


def over_rows(left_NO: torch.Tensor, right_NI: torch.Tensor) -> torch.Tensor:
    """Returns left^T right, [O, I]: the sum over the rows, as for the gradient of a weight."""
    num_rows, bulk = left_NO.shape[0], _bulk(left_NO)
    if bulk == num_rows:
        return torch.mm(left_NO.t(), right_NI)
    sum_OI = torch.mm(left_NO[:bulk].t(), right_NI[:bulk])
    # Rows that the bulk has counted must not count twice.
    end_RO = left_NO[-STEP:].clone()
    end_RO[: STEP - (num_rows - bulk)] = 0
    return sum_OI.addmm_(end_RO.t(), right_NI[-STEP:])


def _bulk(rows: torch.Tensor) -> int:
    """Returns how many rows go through in one product."""
    num_rows = rows.shape[0]
    makes_code = rows.device.type == "cpu" and rows.dtype == torch.bfloat16
    return num_rows // STEP * STEP if makes_code and num_rows > STEP else num_rows
