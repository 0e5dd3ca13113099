"""What several unit tests share."""

import pytest
import torch

from nmt.models import packed, products


@pytest.fixture(params=["mkl", "onednn"])
def fp32_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each library that may multiply float32 while a model learns, whatever the processor."""
    name: str = request.param
    if name == "onednn" and not (
        packed.has_onednn() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(products, "onednn_leads_in_fp32", lambda: name == "onednn")
    return name
