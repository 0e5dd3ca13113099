"""Weights, gradients and moments in parts over the processes (`training.sharding: full`), by FSDP2.

Each rank keeps about one N-th of every tensor, cut along its first dimension. What a family names in
`shardable` is put together when its forward or backward runs and given up behind it; the rest of the
model (embeddings, output layer, norms) is whole from the forward pass of a piece to the end of its
backward pass, since the loss works on the output layer's weight outside of any module's forward.

Source: Rajbhandari et al. 2020 (ZeRO), stage 3; Zhao et al. 2023 (PyTorch FSDP).

Outside of forward and backward a parameter is a DTensor, which torch's optimisers, clipping and the
moving average compute with as with any other: each rank its part.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import torch
from torch import nn
from torch.distributed import device_mesh, fsdp, tensor

from nmt import errors
from nmt.models import seq2seq
from nmt.runtime import connections, distributed
from nmt.runtime import device as devices

T = TypeVar("T")


def check(arithmetic: devices.Arithmetic) -> None:
    """Finds out whether this torch can shard on this device, in this arithmetic.

    Raises:
        errors.ConfigError: it cannot.
    """
    place, advice = "training.sharding: full", "or set sharding: none."
    if not hasattr(fsdp.FSDPModule, "set_force_sum_reduction_for_comms"):
        raise errors.ConfigError(
            f"{place} needs a newer torch (given: {torch.__version__}). Install 2.10 or newer, {advice}"
        )
    if arithmetic.device.type not in {"cpu", "cuda"}:
        raise errors.ConfigError(
            f"{place} works on cpu and cuda (given: device {arithmetic.device.type}). "
            f"Take one of them, {advice}"
        )
    if arithmetic.needs_scaler:
        # Each rank would find the overflows of its own part, and scales would drift apart.
        raise errors.ConfigError(
            f"{place} does not go with precision fp16. Take bf16 or fp32, {advice}"
        )


class Sharded:
    """Every process has a part of everything; see `layouts.Layout`."""

    is_sharded = True

    def __init__(
        self, model: seq2seq.Seq2Seq, group: distributed.Group, device: torch.device
    ) -> None:
        """Cuts up the parameters of a model; from here on they are DTensors on the device.

        Args:
            model: whole and the same on all ranks; on the CPU, unless it fits the device as it is.
            group: of two processes or more, which all shard the model here.
            device: of the run.
        """
        self._group = group
        self._device = device
        self._skeleton = _without_weights(model)
        self._mesh = device_mesh.init_device_mesh(device.type, (group.size,))
        self._root = _Root(model)
        for module in (*model.encoder.shardable(), *model.decoder.shardable()):
            fsdp.fully_shard(module, mesh=self._mesh)
        fsdp.fully_shard(self._root, mesh=self._mesh, reshard_after_forward=False)
        for module in self._root.modules():
            if isinstance(module, fsdp.FSDPModule):
                # A sum, where the default is a mean: losses are divided by the tokens of all ranks. The
                # other line is about how: a plain sum, which gloo knows, too.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def num_kept(self) -> int:
        """Returns how many numbers of the parameters this rank has."""
        return sum(
            parameter.to_local().numel()
            for parameter in self._root.parameters()
            if isinstance(parameter, tensor.DTensor)
        )

    def run(self, action: Callable[[], T]) -> T:
        """Returns what the action returns, inside the forward of a module that has all parameters."""
        result: T = self._root(action)
        return result

    @contextlib.contextmanager
    def in_touch(self) -> Iterator[None]:
        """See `Layout`; forward and backward exchange weights and gradients."""
        try:
            yield
        except RuntimeError as error:
            if not connections.is_about_peers(error):
                raise
            raise connections.lost(self._group.rank, self._group.size, error) from error

    def gathered(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Returns whole tensors on the CPU on rank 0; others help, and keep only what is not sharded."""
        found: dict[str, torch.Tensor] = {}
        with self.in_touch():
            for name, value in tensors.items():
                if not isinstance(value, tensor.DTensor):
                    found[name] = value
                    continue
                # One at a time, so that the device never has all of them.
                whole: torch.Tensor = value.full_tensor().detach()
                if self._group.is_main:
                    found[name] = whole.cpu()
        return found

    def part(self, whole: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """Returns the part of this rank; numbers that belong to a parameter are left alone."""
        if not isinstance(like, tensor.DTensor) or whole.shape != like.shape:
            return whole
        split = tensor.distribute_tensor(
            whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
        )
        # A part is a view, which would keep the whole in memory.
        return split.clone()

    def replicated(self, number: torch.Tensor) -> torch.Tensor:
        """Returns the number as a DTensor, which is whole everywhere."""
        return tensor.DTensor.from_local(number, self._mesh, [tensor.Replicate()])

    def plain(self, number: torch.Tensor) -> torch.Tensor:
        """Returns the sum of what each rank has computed from its part, if that is still to be made."""
        return number.full_tensor() if isinstance(number, tensor.DTensor) else number

    def model_with(self, weights: Mapping[str, torch.Tensor]) -> seq2seq.Seq2Seq | None:
        """Returns a model of its own on the device, in evaluation mode."""
        values = {
            id(empty): nn.Parameter(weights[name].to(self._device), requires_grad=False)
            for name, empty in self._skeleton.named_parameters()
        }
        return copy.deepcopy(self._skeleton, values).eval()


class _Root(nn.Module):
    """A model, and a forward in which anything may be done with it."""

    def __init__(self, model: seq2seq.Seq2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, action: Callable[[], T]) -> T:
        return action()


def _without_weights(model: seq2seq.Seq2Seq) -> seq2seq.Seq2Seq:
    """Returns a copy whose parameters take no memory; tied ones are tied again."""
    # What a copy is to take for an object instead of copying it, by its id: the memo of `deepcopy`.
    empty = {
        id(parameter): nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
        for parameter in model.parameters()
    }
    return copy.deepcopy(model, empty)
