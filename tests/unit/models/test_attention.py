"""Attention against its formula and against torch's own."""

import math

import pytest
import torch
from torch.nn import functional as F

from nmt.models import attention, dropout

MASK = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])


@pytest.fixture
def heads(normal) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values of two sentences, three heads, four queries and five slots."""
    return normal(2, 3, 4, 6, seed=1), normal(2, 3, 5, 6, seed=2), normal(2, 3, 5, 6, seed=3)


def test_attend_equals_the_softmax_formula_and_torchs_own(heads):
    """Vaswani et al. 2017, equation 1, over the real slots of each sentence only."""
    query, key, value = heads
    mask = attention.additive_mask(MASK, query)[:, None, None, :]
    states, weights = attention.attend(query, key, value, mask, scale=0.3)
    assert weights is not None
    for sentence, length in enumerate((5, 2)):
        scores = 0.3 * query[sentence] @ key[sentence, :, :length].transpose(1, 2)
        exponentials = scores.exp()
        expected = exponentials / exponentials.sum(-1, keepdim=True)
        torch.testing.assert_close(weights[sentence, :, :, :length], expected)
        torch.testing.assert_close(states[sentence], expected @ value[sentence, :, :length])
    assert weights[1, :, :, 2:].abs().max() == 0
    own = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3)
    torch.testing.assert_close(states, own)


def test_causal_attention_equals_torchs_own(normal):
    query, key, value = (normal(2, 3, 5, 4, seed=seed) for seed in range(3))
    scale = 1 / math.sqrt(4)
    states, weights = attention.attend(
        query, key, value, attention.causal_mask(5, query), scale=scale
    )
    own = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(states, own)
    assert weights is not None
    assert weights.triu(1).abs().max() == 0
    assert weights.tril().count_nonzero() == 2 * 3 * 15


def test_masks_are_zero_where_one_may_look_and_minus_infinity_elsewhere():
    like = torch.zeros(1, dtype=torch.bfloat16)
    inf = float("inf")
    padding = attention.additive_mask(torch.tensor([[True, False]]), like)
    assert padding.tolist() == [[0.0, -inf]]
    causal = attention.causal_mask(3, like)
    assert causal.tolist() == [[0, -inf, -inf], [0, 0, -inf], [0, 0, 0]]
    assert padding.dtype == causal.dtype == torch.bfloat16


def test_a_mask_of_another_dtype_is_converted(heads):
    query, key, value = heads
    mask = attention.additive_mask(MASK, torch.zeros(1))[:, None, None, :]
    states, _ = attention.attend(query, key, value, mask, scale=1.0)
    assert states.dtype == torch.float64


def test_dropout_falls_on_the_weights_and_the_weights_handed_out_are_whole(heads):
    query, key, value = heads
    mask = attention.additive_mask(MASK, query)[:, None, None, :]
    whole = attention.attention_weights(query, key, mask, scale=0.3)
    torch.manual_seed(5)
    states, weights = attention.attend(query, key, value, mask, scale=0.3, dropout_rate=0.4)
    torch.manual_seed(5)
    dropped = dropout.dropout(whole, 0.4, training=True)
    torch.testing.assert_close(states, dropped @ value)
    assert weights is not None
    torch.testing.assert_close(weights, whole)
    assert not torch.allclose(dropped, whole)


@pytest.mark.parametrize("num_keys", [5, 16, 19])
def test_in_training_values_and_gradients_are_those_of_the_formula(normal, num_keys):
    """With fewer keys than a vector register holds, as many, and more."""
    lengths = torch.tensor([num_keys, num_keys - 3])
    real = torch.arange(num_keys) < lengths.unsqueeze(1)
    shapes = [(2, 3, 4, 6), (2, 3, num_keys, 6), (2, 3, num_keys, 6)]
    leaves = [normal(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
    mask = attention.additive_mask(real, leaves[0])[:, None, None, :]
    found, weights = attention.attend(*leaves, mask, scale=0.3)
    assert weights is None
    expected = attention.attention_weights(*leaves[:2], mask, scale=0.3) @ leaves[2]
    torch.testing.assert_close(found, expected)
    upstream = normal(*found.shape, seed=9)
    for one, other in zip(
        torch.autograd.grad(found, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_in_training_the_causal_mask_holds(normal):
    query, key, value = (normal(2, 3, 5, 4, seed=seed).requires_grad_() for seed in range(3))
    states, _ = attention.attend(query, key, value, attention.causal_mask(5, query), scale=0.5)
    own = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    torch.testing.assert_close(states, own)
    (grad,) = torch.autograd.grad(states[:, :, 2].sum(), [value])
    assert grad[:, :, 3:].abs().max() == 0 < grad[:, :, 2].abs().min()


def test_in_training_dropout_falls_on_the_weights_in_both_directions(heads):
    leaves = [tensor.requires_grad_() for tensor in heads]
    mask = attention.additive_mask(MASK, leaves[0])[:, None, None, :]

    def attended(*tensors: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(5)
        return attention.attend(*tensors, mask, scale=0.3, dropout_rate=0.4)[0]

    assert torch.autograd.gradcheck(attended, leaves)
    whole, _ = attention.attend(*leaves, mask, scale=0.3)
    assert not torch.allclose(attended(*leaves), whole)


def test_in_bf16_the_result_is_off_by_rounding_only(normal):
    leaves = [normal(1, 1, 64, 8, seed=seed).requires_grad_() for seed in range(3)]
    mask = torch.zeros(1, 1, 1, 64, dtype=torch.float64)
    rounded = [tensor.detach().bfloat16().requires_grad_() for tensor in leaves]
    found, _ = attention.attend(*rounded, mask.bfloat16(), scale=0.3)
    assert found.dtype == torch.bfloat16
    expected, _ = attention.attend(*leaves, mask, scale=0.3)
    torch.testing.assert_close(found.double(), expected, rtol=0.0, atol=0.02)


def test_other_devices_take_the_fused_kernel_which_keeps_no_weights(monkeypatch):
    """On the meta device, which computes nothing, but says what would be computed."""
    seen = {}
    own = F.scaled_dot_product_attention

    def spy(*args, **kwargs):
        seen.update(kwargs)
        return own(*args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    query, key = torch.empty(2, 3, 4, 6, device="meta"), torch.empty(2, 3, 5, 6, device="meta")
    mask = torch.empty(2, 1, 1, 5, device="meta", dtype=torch.float64)
    states, weights = attention.attend(query, key, key, mask, scale=0.3, dropout_rate=0.1)
    assert states.shape == query.shape and states.device.type == "meta"
    assert weights is None
    assert seen["scale"] == 0.3 and seen["dropout_p"] == 0.1
    assert seen["attn_mask"].dtype == torch.float32
