"""What this machine's matrix product can do: the measure that the others are held against."""

import statistics
import time
from typing import Any

import torch
from torch.nn import functional as F

# Rows, inputs, outputs: what the models here multiply with batches of 4,096 tokens.
SIZES = ((4096, 128, 256), (4096, 512, 512), (4096, 512, 2048), (4096, 512, 8000))
SECONDS = 1.0  # of one size at most: bf16 is slow where the processor lacks it
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class GemmSide:
    """Multiplies."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self._operands = {}
        for precision, dtype in DTYPES.items():
            for rows, inputs, outputs in SIZES:
                states = torch.randn(rows, inputs, generator=generator).to(dtype)
                weights = torch.randn(outputs, inputs, generator=generator).to(dtype)
                self._operands[precision, f"{rows}x{inputs}x{outputs}"] = states, weights

    def describe(self) -> dict[str, Any]:
        return {"versions": {"torch": torch.__version__}}

    @torch.no_grad()
    def turn(self, number: int) -> dict[str, Any]:
        """Returns the rate of each size in each precision, GFLOP/s: median of so many products."""
        rates: dict[str, dict[str, float]] = {precision: {} for precision in DTYPES}
        for (precision, size), (states, weights) in self._operands.items():
            operations = 2 * states.shape[0] * states.shape[1] * weights.shape[0]
            times: list[float] = []
            while len(times) < number and sum(times) < SECONDS:
                began = time.perf_counter()
                F.linear(states, weights)
                times.append(time.perf_counter() - began)
            rates[precision][size] = operations / statistics.median(times) / 1e9
        return {"rates": rates}


def build(job: dict[str, Any]) -> GemmSide:
    torch.set_num_threads(job["threads"])
    return GemmSide()
