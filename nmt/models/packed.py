"""Linear layers for translating on CPU: int8 with a scale for each row, and packed bf16 and float32.

A weight matrix in int8 has a scale for each output, fixed when it is made, and the activations have one
for each row, found as they come. One scale for a whole batch, which is what torch's own dynamic layers
have, would let a sentence's largest activation decide how another sentence is rounded. Sums of
integers are exact in any order, so with a scale for each row a layer gives a row the same result, bit
for bit, whatever stands beside it.

Letters besides those of `base`: O outputs, I inputs.
"""

import functools

import torch
from torch import nn
from torch.nn import functional as F

LIMIT = 127  # of an int8, symmetric around zero
# Without VNNI products are added in pairs in 16 bits, which weights of half the range cannot overflow.
LIMIT_WITHOUT_VNNI = 63
# What stands for zero among the activations, which are unsigned: signed ones are fast with AMX alone.
ZERO_POINT = 128
# Scale of a row of zeros: any number will do that can be divided by.
SMALLEST_PEAK = 1e-30


def has_int8() -> bool:
    """Returns whether this torch has the products that `Int8Linear` is made of."""
    return has_onednn() and hasattr(torch.ops.onednn, "qlinear_pointwise")


def has_packed_bf16() -> bool:
    """Returns whether this torch, on this processor, multiplies bf16 with packed weights."""
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return has_onednn() and supported is not None and bool(supported())


def has_onednn() -> bool:
    """Returns whether this torch was built with oneDNN and may use it."""
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def int8_linear(weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> "Int8Linear":
    """Returns the layer with each row of weights rounded on a scale of its own."""
    weight_OI = weight_OI.detach().float()
    limit = LIMIT if _has_vnni() else LIMIT_WITHOUT_VNNI
    scale_O = weight_OI.abs().amax(1).clamp_(min=SMALLEST_PEAK) / limit
    rounded_OI = (weight_OI / scale_O.unsqueeze(1)).round_().to(torch.int8)
    return Int8Linear(rounded_OI, scale_O, None if bias_O is None else bias_O.detach().float())


def _has_vnni() -> bool:
    # Private to torch: a version without these probes means the smaller range, not a crash.
    probes = ("_is_vnni_supported", "_is_avx512_vnni_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


class Int8Linear(nn.Module):
    """A linear layer in int8, with a scale for each output and for each row of input.

    Attributes:
        weight: int8 [O, I]; times `scale_O` it is the weight.
        scale_O: float32.
        bias: float32 [O] or None.
    """

    weight: torch.Tensor
    scale_O: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight_OI: torch.Tensor, scale_O: torch.Tensor, bias_O: torch.Tensor | None
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight_OI, persistent=False)
        self.register_buffer("scale_O", scale_O, persistent=False)
        self.register_buffer("bias", bias_O, persistent=False)
        self._zero_O = torch.zeros(len(weight_OI), dtype=torch.int64)
        self._packed = torch.ops.onednn.qlinear_prepack(weight_OI.contiguous(), None)

    def forward(self, states: torch.Tensor, folded: torch.Tensor | None = None) -> torch.Tensor:
        """Returns states weight^T + bias, float32.

        Args:
            states: [..., I].
            folded: not used; there for `WeightNormLinear`, in whose place this may stand.
        """
        states = states.float()
        # Two readings cost less than writing down the absolute values.
        highest, lowest = states.amax(-1, keepdim=True), states.amin(-1, keepdim=True)
        steps = torch.maximum(highest, lowest.neg_()).clamp_(min=SMALLEST_PEAK).mul_(1.0 / LIMIT)
        rounded = (states * steps.reciprocal()).round_().add_(ZERO_POINT).to(torch.uint8)
        # The kernel has one scale for all of its input. With 1 it multiplies by `scale_O` alone, and
        # it does not matter in which order the kernel of this or that shape would multiply.
        product: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            rounded, 1.0, ZERO_POINT, self._packed, self.scale_O, self._zero_O, None,
            1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        product.mul_(steps)
        return product if self.bias is None else product.add_(self.bias)

    @functools.cached_property
    def numbers(self) -> torch.Tensor:
        """The weights as numbers, in bf16 where the processor multiplies it, else in float32."""
        weight_OI = self.weight.float() * self.scale_O.unsqueeze(1)
        return weight_OI.bfloat16() if has_packed_bf16() else weight_OI

    def narrowed(self, outputs: torch.Tensor) -> "Int8Linear":
        """Returns the layer with these outputs only; int64 indices."""
        bias = None if self.bias is None else self.bias[outputs]
        return Int8Linear(self.weight[outputs], self.scale_O[outputs], bias)


class PackedLinear(nn.Module):
    """A linear layer in bf16 or float32 whose weights oneDNN has packed once; its result is of that type.

    Attributes:
        weight: [O, I] in that type.
        bias: [O] in that type, or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, dtype: torch.dtype
    ) -> None:
        """Takes what a linear layer has, and the type to multiply in."""
        super().__init__()
        # Part of the model's state, as the layer was in whose place this stands.
        self.register_buffer("weight", weight_OI.detach().to(dtype))
        self.register_buffer("bias", None if bias_O is None else bias_O.detach().to(dtype))
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous())

    def forward(self, states: torch.Tensor, folded: torch.Tensor | None = None) -> torch.Tensor:
        """Returns states weight^T + bias; arguments as for `Int8Linear`."""
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            states.to(self.weight.dtype), self._packed, self.bias, "none", [], ""
        )
        return product

    def narrowed(self, outputs: torch.Tensor) -> "PackedLinear":
        """Returns the layer with these outputs only; int64 indices."""
        bias = None if self.bias is None else self.bias[outputs]
        return PackedLinear(self.weight[outputs], bias, self.weight.dtype)


class PlainLinear(nn.Module):
    """A linear layer in the precision of its weights, which are nobody's parameters."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, weight_OI: torch.Tensor, bias_O: torch.Tensor | None) -> None:
        super().__init__()
        self.register_buffer("weight", weight_OI, persistent=False)
        self.register_buffer("bias", bias_O, persistent=False)

    def forward(self, states: torch.Tensor, folded: torch.Tensor | None = None) -> torch.Tensor:
        """Returns states weight^T + bias; arguments as for `Int8Linear`."""
        return F.linear(states, self.weight, self.bias)


def rows(layer: nn.Module, outputs: torch.Tensor) -> torch.Tensor:
    """Returns the weights of some outputs of an output layer, to multiply with.

    Those in int8 come in bf16 where the processor multiplies it, else in float32: batches of products
    have no kernel in int8.

    Args:
        layer: in whatever precision.
        outputs: int64 [...].

    Returns:
        [..., I].
    """
    weight = layer.numbers if isinstance(layer, Int8Linear) else layer.weight
    assert isinstance(weight, torch.Tensor), "linear layers have weights"
    # A lookup of rows has a kernel of its own, several times as fast as an index.
    return F.embedding(outputs, weight)


def narrowed(layer: nn.Module, outputs: torch.Tensor) -> nn.Module:
    """Returns an output layer, in whatever precision, with these outputs only; int64 indices."""
    if isinstance(layer, Int8Linear | PackedLinear):
        return layer.narrowed(outputs)
    assert isinstance(layer, nn.Linear) and layer.bias is None, "output layers have no bias"
    return PlainLinear(layer.weight[outputs], None)
