"""Where tensors live and in which arithmetic they are computed; the only module that names CUDA."""

import contextlib
import dataclasses
import logging
import platform
import re
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from nmt import errors
from nmt.runtime import host

logger = logging.getLogger(__name__)

_DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp64": torch.float64,
}
# Arithmetic that can only be translated with: weights are loaded in float32 and rounded then.
_INFERENCE_ONLY = ("int8",)


def resolve(name: str) -> torch.device:
    """Returns the device of this name.

    Args:
        name: `auto` (CUDA, then MPS, then CPU), or a device as torch writes it (`cpu`, `cuda:1`).

    Raises:
        errors.UsageError: no device has this name, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise errors.UsageError(
            f"device: no such device (given: {name}). Allowed: auto, cpu, cuda, cuda:N, mps."
        ) from error
    missing = (
        (device.type == "cuda" and not torch.cuda.is_available())
        or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count())
        or (device.type == "mps" and not torch.backends.mps.is_available())
        or device.type not in {"cpu", "cuda", "mps"}
    )
    if missing:
        raise errors.UsageError(
            f"device: this machine and this torch have none (given: {name}). "
            "Take auto or cpu, or install a torch that was built for it."
        )
    return device


def of_rank(device: torch.device, local_rank: int, num_ranks: int) -> torch.device:
    """Returns the device of one of several processes: on CUDA each has a GPU of its own.

    Args:
        device: of the configuration.
        local_rank: number of the process on its machine.
        num_ranks: processes of the run.

    Raises:
        errors.ConfigError: the configuration names one GPU for all, or there are fewer than processes.
    """
    if num_ranks == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise errors.ConfigError(
            f"device: names one GPU for {num_ranks} processes (given: {device}). "
            "Take cuda, which gives each its own."
        )
    if local_rank >= torch.cuda.device_count():
        raise errors.ConfigError(
            f"device: this machine has {torch.cuda.device_count()} GPUs, process {local_rank + 1} on it "
            "finds none. Give torchrun a smaller --nproc-per-node, or set device: cpu."
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How numbers are computed on a device.

    Attributes:
        device: where.
        name: `fp32`, `bf16`, `fp16`, `fp64` or, for inference, `int8`.
        weights_dtype: of the master weights and the optimiser.
        autocast_dtype: what products are computed in, or None for that of the weights.
    """

    device: torch.device
    name: str
    weights_dtype: torch.dtype
    autocast_dtype: torch.dtype | None

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which forward passes run."""
        if self.autocast_dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.autocast_dtype)

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients would underflow without a scaled loss."""
        return self.autocast_dtype == torch.float16


def training_arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """Returns the arithmetic for training; `auto` takes the fastest that trains like fp32.

    bf16 where the processor multiplies it natively, fp16 with a scaled loss on older GPUs, fp32
    elsewhere.
    """
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if _gpu_multiplies_bf16(device) else "fp16"
        else:
            precision = "bf16" if device.type == "cpu" and _cpu_multiplies_bf16() else "fp32"
    return _arithmetic(precision, device)


def _gpu_multiplies_bf16(device: torch.device) -> bool:
    """Returns whether a GPU does so by itself: on older ones torch emulates it, which is slow."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def inference_arithmetic(precision: str, device: torch.device) -> Arithmetic:
    """Returns the arithmetic for translating and scoring; `auto` is fp32.

    Raises:
        errors.UsageError: there is no such arithmetic, or not on this device.
    """
    if precision == "int8" and device.type != "cpu":
        raise errors.UsageError(
            f"precision: int8 is for the CPU (device: {device}). Take bf16 or fp16, or device cpu."
        )
    if precision in _INFERENCE_ONLY:
        return Arithmetic(device, precision, torch.float32, None)
    return _arithmetic("fp32" if precision == "auto" else precision, device, _INFERENCE_ONLY)


def _arithmetic(
    precision: str, device: torch.device, also_allowed: tuple[str, ...] = ()
) -> Arithmetic:
    if precision == "fp16" and device.type == "cpu":
        raise errors.UsageError("precision: fp16 needs a GPU (device: cpu). Take bf16 or fp32.")
    allowed = (*_DTYPES, *also_allowed)
    if precision not in _DTYPES:
        raise errors.UsageError(
            f"precision: no such arithmetic (given: {precision}). "
            f"Allowed: auto, {', '.join(allowed)}.{errors.did_you_mean(precision, allowed)}"
        )
    dtype = _DTYPES[precision]
    weights_dtype = torch.float64 if precision == "fp64" else torch.float32
    autocast_dtype = dtype if precision in {"bf16", "fp16"} else None
    return Arithmetic(device, precision, weights_dtype, autocast_dtype)


def _cpu_multiplies_bf16() -> bool:
    """Returns whether this processor has AVX512-BF16 or AMX (without them bf16 is slower)."""
    if platform.machine().lower() not in {"x86_64", "amd64"}:
        return False
    # Private to torch, so a version that lacks them means fp32, not a crash.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def processor() -> str:
    """Returns the name of the processor, as the system gives it."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def num_threads() -> int:
    """Returns the CPU threads that torch computes with."""
    return torch.get_num_threads()


def set_up(device: torch.device, threads: int | None) -> None:
    """Sets the number of CPU threads and asks for algorithms that repeat bit for bit on CPU.

    Args:
        device: the device of the run.
        threads: CPU threads, or None to leave torch's choice.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        torch.use_deterministic_algorithms(True, warn_only=False)
        # What this would fill is written before it is read; filling costs a pass over memory.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def reset_peak_memory(device: torch.device) -> None:
    """Begins anew to watch for the peak that `peak_memory` returns, where the system can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int | None:
    """Returns the most memory in bytes that was in use, or None where that is not known.

    On CUDA that of the device's tensors; elsewhere the resident memory of this process (Linux).
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def total_memory(device: torch.device) -> int | None:
    """Returns the memory in bytes that there is, or None where that is not known."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return host.total_memory()


def wait(device: torch.device) -> None:
    """Waits until the device has computed all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seed_everything(seed: int) -> None:
    """Seeds torch on every device."""
    torch.manual_seed(seed)


class SideStream:
    """Copies to the device beside its computation, on CUDA; elsewhere copies in place.

    Pinned memory makes the copy asynchronous, a stream of its own lets it overlap, and the wait is
    the device's, not the host's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = _new_stream(device)

    def copy(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns the tensors on the device; on CUDA the copies may still be under way."""
        if self._stream is None:
            return {name: tensor.to(self.device) for name, tensor in tensors.items()}
        with torch.cuda.stream(self._stream):
            return {
                name: tensor.pin_memory().to(self.device, non_blocking=True)
                for name, tensor in tensors.items()
            }

    def wait(self, tensors: dict[str, torch.Tensor]) -> None:
        """Makes the current stream wait for copies before it uses these tensors."""
        if self._stream is None:
            return
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(self._stream)
        for tensor in tensors.values():
            # Otherwise the allocator might hand their memory on while the current stream reads it.
            tensor.record_stream(current)


def _new_stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
