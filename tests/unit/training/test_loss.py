"""The chunked loss is torch's smoothed cross-entropy, its gradient included."""

import pytest
import torch
from torch.nn import functional as F

from nmt.training import loss

SIZE, VOCAB = 6, 11
SMOOTHINGS = [0.0, 0.1, 0.5]


def inputs(
    num_rows: int, dtype: torch.dtype = torch.float64, vocab: int = VOCAB, size: int = SIZE
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """States, weights and targets; the weights are large enough for clear decisions."""
    generator = torch.Generator().manual_seed(num_rows)
    states = torch.randn(num_rows, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, size, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (num_rows,), generator=generator)
    return states.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def reference(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, smoothing: float
) -> torch.Tensor:
    logits = F.linear(states, weight)
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("num_rows", [1, 255, 256, 257, 512, 700])
def test_value_and_gradient_equal_those_of_torch(num_rows: int, smoothing: float) -> None:
    states, weight, targets = inputs(num_rows)
    found, nll = loss.smoothed_cross_entropy(states, weight, targets, smoothing)
    wanted = reference(states, weight, targets, smoothing)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(nll, reference(states, weight, targets, 0.0))
    # What comes in from above is passed on: the loss is divided by a number of tokens.
    found_gradients = torch.autograd.grad(found / 7.0, (states, weight))
    wanted_gradients = torch.autograd.grad(wanted / 7.0, (states, weight))
    for found_one, wanted_one in zip(found_gradients, wanted_gradients, strict=True):
        torch.testing.assert_close(found_one, wanted_one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 300, 1400])
@pytest.mark.usefixtures("fp32_library")
def test_float32_is_as_near_as_it_can_be(num_rows: int) -> None:
    states, weight, targets = inputs(num_rows, torch.float32)
    found, _ = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    exact = [one.detach().double().requires_grad_() for one in (states, weight)]
    wanted = reference(*exact, targets, 0.1)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=0.0)
    found_gradients = torch.autograd.grad(found, (states, weight))
    for found_one, wanted_one in zip(
        found_gradients, torch.autograd.grad(wanted, exact), strict=True
    ):
        bound = 1e-5 * float(wanted_one.abs().max())
        torch.testing.assert_close(found_one.double(), wanted_one, rtol=1e-5, atol=bound)


@pytest.mark.parametrize("chunk_rows", [1, 2, 3, 5, 6, 7])
def test_the_size_of_chunks_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, chunk_rows: int
) -> None:
    states, weight, targets = inputs(6)
    wanted = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    wanted_gradients = torch.autograd.grad(wanted[0], (states, weight))
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk_rows)
    found = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    found_gradients = torch.autograd.grad(found[0], (states, weight))
    torch.testing.assert_close((*found, *found_gradients), (*wanted, *wanted_gradients))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_gradient_is_that_of_small_differences(
    monkeypatch: pytest.MonkeyPatch, smoothing: float
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ROWS", 2)
    states, weight, targets = inputs(5, vocab=4, size=3)

    def summed(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return loss.smoothed_cross_entropy(states, weight, targets, smoothing)[0]

    assert torch.autograd.gradcheck(summed, (states, weight))


def test_the_loss_written_out() -> None:
    """Two words of log-probabilities log 3/4 and log 1/4, the likelier one being right."""
    weight = torch.tensor([[3.0], [1.0]], dtype=torch.float64).log()
    found, nll = loss.smoothed_cross_entropy(
        torch.ones(1, 1, dtype=torch.float64), weight, torch.tensor([0]), 0.2
    )
    assert float(nll) == pytest.approx(0.287682072)
    assert float(found) == pytest.approx(0.8 * 0.287682072 + 0.2 * (0.287682072 + 1.386294361) / 2)


def test_a_second_backward_finds_the_same_gradient() -> None:
    states, weight, targets = inputs(5)
    found, _ = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    first = torch.autograd.grad(3.0 * found, (states, weight), retain_graph=True)
    second = torch.autograd.grad(found, (states, weight))
    for one, three in zip(second, first, strict=True):
        torch.testing.assert_close(3.0 * one, three)


@pytest.mark.parametrize("frozen", ["states", "weight"])
def test_either_input_may_be_frozen(frozen: str) -> None:
    states, weight, targets = inputs(5)
    moving = weight if frozen == "states" else states
    (states if frozen == "states" else weight).requires_grad_(False)
    found, _ = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    found.backward()  # type: ignore[no-untyped-call]
    wanted = torch.autograd.grad(reference(states, weight, targets, 0.1), moving)
    torch.testing.assert_close(moving.grad, wanted[0])


def test_the_negative_log_likelihood_is_for_the_log_only() -> None:
    found, nll = loss.smoothed_cross_entropy(*inputs(3), 0.1)
    assert found.requires_grad
    assert not nll.requires_grad


def test_without_gradients_the_values_are_the_same() -> None:
    states, weight, targets = inputs(300)
    wanted = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    with torch.no_grad():
        found = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    assert torch.equal(torch.stack(found), torch.stack(wanted).detach())
    assert not found[0].requires_grad


def test_inputs_are_left_as_they_were() -> None:
    states, weight, targets = inputs(300)
    before = [tensor.detach().clone() for tensor in (states, weight, targets)]
    found, _ = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    found.backward()  # type: ignore[no-untyped-call]
    for tensor, copy in zip((states, weight, targets), before, strict=True):
        assert torch.equal(tensor, copy)


def test_large_logits_neither_overflow_nor_vanish() -> None:
    states, weight, targets = inputs(5, torch.float32)
    large = (states * 1e4).detach().requires_grad_()
    found, nll = loss.smoothed_cross_entropy(large, weight, targets, 0.1)
    torch.testing.assert_close(found, reference(large, weight, targets, 0.1))
    found.backward()  # type: ignore[no-untyped-call]
    assert large.grad is not None
    assert large.grad.isfinite().all() and nll.isfinite()


@pytest.mark.parametrize("states_dtype", [torch.float32, torch.bfloat16])
def test_in_bf16_loss_and_gradient_stay_close_to_fp32(states_dtype: torch.dtype) -> None:
    """2 % in each element of the largest one; sums and the weights' gradient are kept in fp32."""
    _, weight, targets = inputs(600, torch.float32)
    states = inputs(600, torch.float32)[0].detach().to(states_dtype).requires_grad_()
    exact = states.detach().float().requires_grad_()
    wanted = reference(exact, weight, targets, 0.1)
    wanted_gradients = torch.autograd.grad(wanted / 600.0, (exact, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found, nll = loss.smoothed_cross_entropy(states, weight, targets, 0.1)
    assert found.dtype == nll.dtype == torch.float32
    found_gradients = torch.autograd.grad(found / 600.0, (states, weight))
    assert [gradient.dtype for gradient in found_gradients] == [states_dtype, torch.float32]
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=0.0)
    for found_one, wanted_one in zip(found_gradients, wanted_gradients, strict=True):
        largest = float(wanted_one.abs().max())
        torch.testing.assert_close(found_one.float(), wanted_one, rtol=0.0, atol=0.02 * largest)
    in_fp32, _ = loss.smoothed_cross_entropy(exact, weight, targets, 0.1)
    assert not torch.equal(found, in_fp32), "the products were computed in bf16"


def test_sums_over_many_rows_in_bf16_do_not_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum kept in bf16 would stop growing at 256 equal terms; here are 512 chunks of four rows."""
    monkeypatch.setattr(loss, "CHUNK_ROWS", 4)
    states, weight = torch.ones(2048, 1, dtype=torch.bfloat16), torch.zeros(2, 1)
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found, nll = loss.smoothed_cross_entropy(
            states, weight, torch.zeros(2048, dtype=torch.int64), 0.0
        )
    found.backward()  # type: ignore[no-untyped-call]
    assert [found.item(), nll.item()] == pytest.approx([2048 * 0.693147] * 2, rel=1e-4)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[-1024.0], [1024.0]]


def diverging(
    states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, divergence: float
) -> torch.Tensor:
    """The loss of pairs of passes by torch's own means."""
    log_probs = F.log_softmax(F.linear(states, weight), dim=1)
    p, q = log_probs[::2], log_probs[1::2]
    both_ways = F.kl_div(q, p, reduction="sum", log_target=True) + F.kl_div(
        p, q, reduction="sum", log_target=True
    )
    return reference(states, weight, targets, 0.1) + 0.5 * divergence * both_ways


def paired(num_pairs: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    states, weight, targets = inputs(2 * num_pairs, dtype)
    return states, weight, targets[::2].repeat_interleave(2)


@pytest.mark.parametrize("divergence", [0.5, 5.0])
@pytest.mark.parametrize(("num_pairs", "chunk_rows"), [(1, 2), (5, 4), (65, 1024), (300, 256)])
def test_the_divergence_of_two_passes_equals_torchs(
    monkeypatch: pytest.MonkeyPatch, num_pairs: int, chunk_rows: int, divergence: float
) -> None:
    monkeypatch.setattr(loss, "CHUNK_ROWS", chunk_rows)
    states, weight, targets = paired(num_pairs)
    found, nll = loss.smoothed_cross_entropy(states, weight, targets, 0.1, divergence)
    wanted = diverging(states, weight, targets, divergence)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(nll, reference(states, weight, targets, 0.0))
    for found_one, wanted_one in zip(
        torch.autograd.grad(found / 7.0, (states, weight)),
        torch.autograd.grad(wanted / 7.0, (states, weight)),
        strict=True,
    ):
        torch.testing.assert_close(found_one, wanted_one, rtol=1e-10, atol=1e-12)


def test_the_divergence_in_bf16_stays_close_to_fp32() -> None:
    states, weight, targets = paired(300, torch.float32)
    # Two passes of one token are near each other.
    states = (states[::2].repeat_interleave(2, 0) + 0.3 * states).detach().requires_grad_()
    wanted = diverging(states, weight, targets, 5.0)
    wanted_gradients = torch.autograd.grad(wanted / 600.0, (states, weight))
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = loss.smoothed_cross_entropy(states, weight, targets, 0.1, 5.0)
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=0.0)
    found_gradients = torch.autograd.grad(found / 600.0, (states, weight))
    for found_one, wanted_one in zip(found_gradients, wanted_gradients, strict=True):
        largest = float(wanted_one.abs().max())
        torch.testing.assert_close(found_one, wanted_one, rtol=0.0, atol=0.03 * largest)


def test_passes_that_are_sure_of_different_words_have_a_finite_divergence() -> None:
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    found, _ = loss.smoothed_cross_entropy(states, weight, torch.tensor([0, 0]), 0.1, 5.0)
    found.backward()  # type: ignore[no-untyped-call]
    assert found.isfinite() and states.grad is not None and states.grad.isfinite().all()
