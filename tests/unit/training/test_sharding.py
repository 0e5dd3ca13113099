"""What sharding is refused with before anything is computed."""

import pytest
import torch

from nmt import errors
from nmt.runtime import device as devices
from nmt.training import sharding


def arithmetic(device: str, name: str) -> devices.Arithmetic:
    autocast = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(name)
    return devices.Arithmetic(torch.device(device), name, torch.float32, autocast)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_usual_arithmetic_is_accepted(device: str, name: str) -> None:
    sharding.check(arithmetic(device, name))


@pytest.mark.parametrize(
    ("device", "name", "given"), [("cuda", "fp16", "precision fp16"), ("mps", "fp32", "device mps")]
)
def test_what_ranks_cannot_do_in_parts_is_refused(device: str, name: str, given: str) -> None:
    with pytest.raises(errors.ConfigError) as caught:
        sharding.check(arithmetic(device, name))
    assert str(caught.value).startswith("training.sharding: full ")
    assert given in str(caught.value)
    assert "sharding: none" in str(caught.value)


def test_a_torch_that_divides_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sharding.fsdp.FSDPModule, "set_force_sum_reduction_for_comms")
    with pytest.raises(errors.ConfigError, match="needs a newer torch"):
        sharding.check(arithmetic("cpu", "fp32"))
