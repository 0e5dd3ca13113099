"""Matrix products on CPU whose shapes repeat, though every batch has another number of rows.

oneDNN, which multiplies in bf16, makes machine code for each new shape and keeps that of the last
1,024. A model of a few layers has dozens of products, so with a number of rows of its own in every
batch nearly each one would be made anew, at the cost of running it several times. Here the bulk goes
through in a number of rows that is a multiple of `STEP`, and the end in one product over the last
`STEP` rows, which has some rows in common with the bulk.
"""

import torch

# What is done twice is half of this on average, which is 2 % of a batch of 4,096 rows.
STEP = 128


def rounded(num_rows: int) -> int:
    """Returns the next multiple of `STEP`."""
    return -(-num_rows // STEP) * STEP


def by_rows(left_NI: torch.Tensor, right_IO: torch.Tensor) -> torch.Tensor:
    """Returns left right, [N, O]."""
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
