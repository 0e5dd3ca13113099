"""One update goes along the mean gradient over all tokens, clipped, at the given rate."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nmt import errors
from nmt.config import schema
from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import optimizers, update

CPU = torch.device("cpu")
EXACT = devices.training_arithmetic("fp64", CPU)
LENGTHS = [(5, 3), (2, 7), (6, 6)]
SMOOTHING = 0.1

BuildModel = Callable[..., seq2seq.Seq2Seq]
MakeBatch = Callable[..., batches.Batch]


def make_updater(
    model: seq2seq.Seq2Seq,
    *,
    arithmetic: devices.Arithmetic = EXACT,
    clip_norm: float | None = None,
    divergence: float = 0.0,
) -> update.Updater:
    """Plain gradient descent, so that the change of the weights shows the gradient."""
    return update.Updater(
        model,
        torch.optim.SGD(model.parameters(), lr=123.0),
        arithmetic,
        smoothing=SMOOTHING,
        clip_norm=clip_norm,
        divergence=divergence,
    )


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def changes(model: nn.Module, before: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: now - before[name] for name, now in weights_of(model).items()}


def norm(tensors: dict[str, torch.Tensor]) -> float:
    return float(torch.stack([tensor.square().sum() for tensor in tensors.values()]).sum().sqrt())


def summed_reference(
    model: seq2seq.Seq2Seq, batch: batches.Batch, smoothing: float
) -> torch.Tensor:
    """The loss by torch's own means: all logits, then only the real tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for piece in batch.pieces:
        states, _ = model(piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT)
        logits = model.logits(states).flatten(0, 1)[piece.real_N]
        total = total + F.cross_entropy(
            logits, piece.tgt_out_N, reduction="sum", label_smoothing=smoothing
        )
    return total


def mean_gradient(model: seq2seq.Seq2Seq, batch: batches.Batch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    mean = summed_reference(model, batch, SMOOTHING) / batch.num_tokens
    mean.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("max_device_tokens", [None, 7])
def test_weights_move_by_the_rate_times_the_mean_gradient(
    family: tuple[dict, dict],
    build_model: BuildModel,
    make_batch: MakeBatch,
    max_device_tokens: int | None,
) -> None:
    model, batch = build_model(family), make_batch(LENGTHS, max_device_tokens)
    assert len(batch.pieces) == (1 if max_device_tokens is None else 3)
    gradient, before = mean_gradient(model, batch), weights_of(model)
    with torch.no_grad():
        wanted = [summed_reference(model, batch, smoothing) for smoothing in (SMOOTHING, 0.0)]
    result = make_updater(model).update(batch.pieces, batch.num_tokens, 0.25)
    for name, change in changes(model, before).items():
        torch.testing.assert_close(change, -0.25 * gradient[name], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close([result.loss, result.nll], wanted)
    assert float(result.grad_norm) == pytest.approx(norm(gradient))


@pytest.mark.parametrize("max_device_tokens", [None, 7])
def test_two_passes_without_dropout_are_one(
    family: tuple[dict, dict],
    build_model: BuildModel,
    make_batch: MakeBatch,
    max_device_tokens: int | None,
) -> None:
    model, batch = build_model(family), make_batch(LENGTHS, max_device_tokens)
    gradient, before = mean_gradient(model, batch), weights_of(model)
    with torch.no_grad():
        wanted = [summed_reference(model, batch, smoothing) for smoothing in (SMOOTHING, 0.0)]
    result = make_updater(model, divergence=5.0).update(batch.pieces, batch.num_tokens, 0.25)
    for name, change in changes(model, before).items():
        torch.testing.assert_close(change, -0.25 * gradient[name], rtol=1e-7, atol=1e-12)
    torch.testing.assert_close([result.loss, result.nll], wanted)


def test_two_passes_with_dropout_are_drawn_together(
    build_model: BuildModel, make_batch: MakeBatch
) -> None:
    """The two passes of a token are each other's partner: repeating one mask leaves no divergence."""
    options = {"type": "rnn", "embedding_size": 4, "hidden_size": 4, "dropout": 0.5}
    model, batch = build_model((options, options)), make_batch(LENGTHS)
    (piece,) = batch.pieces
    model.train()

    def loss_of(divergence: float) -> tuple[float, float]:
        torch.manual_seed(3)
        total, nll = update.summed_loss(model, piece, 0.0, divergence)
        return float(total.detach()), float(nll)

    slight, strong = loss_of(1e-9), loss_of(4.0)
    # Without smoothing the loss is the likelihood and what the divergence adds, nothing else.
    assert slight[0] == pytest.approx(slight[1]) and slight[1] == strong[1]
    assert strong[0] > 1.01 * slight[0]
    states, _ = model(
        *(ids.repeat(2, 1) for ids in (piece.src_BS, piece.src_mask_BS, piece.tgt_in_BT))
    )
    assert not torch.equal(*states.chunk(2))


@pytest.fixture
def toy(
    build_model: BuildModel, make_batch: MakeBatch
) -> tuple[seq2seq.Seq2Seq, batches.Batch, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model, a batch, the gradient of the one on the other, and the weights."""
    options = {"type": "rnn", "embedding_size": 4, "hidden_size": 4}
    model, batch = build_model((options, options)), make_batch(LENGTHS, 14)
    return model, batch, mean_gradient(model, batch), weights_of(model)


def test_a_large_gradient_is_shortened_to_the_clip_norm(toy) -> None:
    model, batch, gradient, before = toy
    clip_norm = 0.01 * norm(gradient)
    result = make_updater(model, clip_norm=clip_norm).update(batch.pieces, batch.num_tokens, 0.5)
    found = changes(model, before)
    for name, change in found.items():
        torch.testing.assert_close(change, -0.005 * gradient[name], rtol=1e-3, atol=1e-9)
    assert norm(found) == pytest.approx(0.5 * clip_norm, rel=1e-3)
    assert float(result.grad_norm) == pytest.approx(norm(gradient)), "before clipping"


def test_a_small_gradient_is_left_as_it_is(toy) -> None:
    model, batch, gradient, before = toy
    clip_norm = 1.01 * norm(gradient)
    make_updater(model, clip_norm=clip_norm).update(batch.pieces, batch.num_tokens, 0.5)
    assert norm(changes(model, before)) == pytest.approx(0.5 * norm(gradient), rel=1e-9)


def test_every_group_gets_the_rate_of_the_update(toy) -> None:
    model, batch, gradient, before = toy
    first, *others = model.parameters()
    groups = [{"params": [first], "lr": 7.0}, {"params": others, "lr": 9.0}]
    optimizer = torch.optim.SGD(groups)  # type: ignore[arg-type]
    updater = update.Updater(model, optimizer, EXACT, smoothing=SMOOTHING, clip_norm=None)
    updater.update(batch.pieces, batch.num_tokens, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]
    assert norm(changes(model, before)) == pytest.approx(0.125 * norm(gradient), rel=1e-9)


def test_no_gradient_is_carried_over_to_the_next_update(toy) -> None:
    model, batch, gradient, before = toy
    updater = make_updater(model)
    updater.update(batch.pieces, batch.num_tokens, 0.0)
    updater.update(batch.pieces, batch.num_tokens, 1.0)
    assert norm(changes(model, before)) == pytest.approx(norm(gradient), rel=1e-9)


def test_results_hold_no_graph(toy) -> None:
    model, batch, _, _ = toy
    result = make_updater(model).update(batch.pieces, batch.num_tokens, 0.1)
    for tensor in (result.loss, result.nll, result.grad_norm):
        assert tensor.shape == ()
        assert not tensor.requires_grad


def test_what_stands_at_padding_does_not_matter(toy) -> None:
    model, batch, gradient, before = toy
    spoilt = []
    for piece in batch.pieces:
        src = piece.src_BS.masked_fill(~piece.src_mask_BS, 9)
        is_real = torch.zeros(piece.tgt_in_BT.numel(), dtype=torch.bool)
        is_real[piece.real_N] = True
        tgt = piece.tgt_in_BT.masked_fill(~is_real.view_as(piece.tgt_in_BT), 9)
        spoilt.append(batches.Piece(src, piece.src_mask_BS, tgt, piece.real_N, piece.tgt_out_N))
    make_updater(model).update(spoilt, batch.num_tokens, 1.0)
    for name, change in changes(model, before).items():
        torch.testing.assert_close(change, -gradient[name], rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_runs_in_the_precision_of_the_run(
    family: tuple[dict, dict], build_model: BuildModel, make_batch: MakeBatch, precision: str
) -> None:
    model, batch = build_model(family).float(), make_batch(LENGTHS)
    seen: list[bool] = []
    model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    arithmetic = devices.training_arithmetic(precision, CPU)
    make_updater(model, arithmetic=arithmetic).update(batch.pieces, batch.num_tokens, 0.1)
    assert seen == [precision == "bf16"]
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


# What a GPU without bf16 runs, on the CPU, which can compute it, though slowly.
HALF = devices.Arithmetic(CPU, "fp16", torch.float32, torch.float16)


@pytest.fixture
def half_toy(
    build_model: BuildModel, make_batch: MakeBatch
) -> tuple[seq2seq.Seq2Seq, batches.Batch, float]:
    """A model in fp32, a batch, and the norm of the gradient."""
    options = {"type": "transformer", "num_layers": 1, "hidden_size": 4, "num_heads": 1}
    model, batch = build_model((options, options)), make_batch(LENGTHS)
    exact = norm(mean_gradient(model, batch))
    return model.float(), batch, exact


def test_in_fp16_the_loss_is_scaled_and_the_gradient_is_not(half_toy) -> None:
    """A gradient of 1e-9 is less than fp16 can hold; scaled up on its way, it arrives."""
    model, batch, exact = half_toy
    updater = make_updater(model, arithmetic=HALF)
    result = updater.update(batch.pieces, batch.num_tokens * 10**9, 0.1)
    assert float(result.grad_norm) == pytest.approx(exact / 1e9, rel=0.1)


def test_in_fp16_an_overflow_leaves_the_weights_and_lowers_the_scale(half_toy) -> None:
    model, batch, _ = half_toy
    before = weights_of(model)
    updater = make_updater(model, arithmetic=HALF, clip_norm=1.0)
    updater.update(batch.pieces, batch.num_tokens, 0.0)
    updater.scaler.update(2.0**126)
    updater.update(batch.pieces, 1, 1.0)
    assert updater.scaler.get_scale() == 2.0**125
    assert norm(changes(model, before)) == 0.0


OPTIONS = {"type": "transformer", "num_layers": 1, "hidden_size": 4, "num_heads": 1}


def everything(updater: update.Updater) -> dict[str, torch.Tensor]:
    """Weights, moments and counts of steps, copied."""
    state = optimizers.state_tensors(updater.optimizer)
    return {name: tensor.clone() for name, tensor in {**weights_of(updater.model), **state}.items()}


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes the loss, or the gradient alone, of all updates not finite."""

    def install(what: str) -> None:
        original = update.summed_loss

        def spoilt(model, piece, *weights):  # type: ignore[no-untyped-def]
            total, nll = original(model, piece, *weights)
            if what == "loss":
                return total * float("nan"), nll
            total.register_hook(lambda gradient: gradient * float(what))
            return total, nll

        monkeypatch.setattr(update, "summed_loss", spoilt)

    return install


@pytest.mark.parametrize("what", ["loss", "nan", "inf"])
@pytest.mark.parametrize("kind", ["adam", "adamw", "muon", "sgd"])
@pytest.mark.parametrize("num_before", [0, 2])
def test_what_is_not_finite_moves_nothing(
    build_model: BuildModel, make_batch: MakeBatch, spoil, what: str, kind: str, num_before: int
) -> None:
    model, batch = build_model((OPTIONS, OPTIONS)).float(), make_batch(LENGTHS, 14)
    optimizer: optimizers.AnyOptimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    if kind != "sgd":
        optimizer = optimizers.build(schema.TrainingConfig(optimizer=kind), model)
    updater = update.Updater(
        model,
        optimizer,
        devices.training_arithmetic("fp32", CPU),
        smoothing=SMOOTHING,
        clip_norm=1.0,
    )
    for number in range(num_before):
        result = updater.update(batch.pieces, batch.num_tokens, 0.1, seed=number)
        assert bool(result.is_taken)
        assert not bool(result.has_failed)
    before = everything(updater)
    with pytest.MonkeyPatch.context():
        spoil(what)
        result = updater.update(batch.pieces, batch.num_tokens, 0.1, seed=5)
    assert not bool(result.is_taken)
    assert bool(result.has_failed)
    after = everything(updater)
    for name, tensor in after.items():
        wanted = before.get(name, torch.zeros_like(tensor))
        assert torch.equal(tensor, wanted), name


def _endless(original: Callable) -> Callable:
    return lambda *given: tuple(tensor * float("inf") for tensor in original(*given))


def test_a_skipped_update_does_not_show_in_the_next_one(
    build_model: BuildModel, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, found = make_batch(LENGTHS), []
    for skips in (False, True):
        model = build_model((OPTIONS, OPTIONS)).float().train()
        updater = update.Updater(
            model,
            optimizers.build(schema.TrainingConfig(), model),
            devices.training_arithmetic("fp32", CPU),
            smoothing=SMOOTHING,
            clip_norm=1.0,
        )
        updater.update(batch.pieces, batch.num_tokens, 0.1, seed=1)
        if skips:
            with monkeypatch.context() as patch:
                patch.setattr(update, "summed_loss", _endless(update.summed_loss))
                assert not updater.update(batch.pieces, 1, 0.1, seed=2).is_taken
        updater.update(batch.pieces, batch.num_tokens, 0.1, seed=3)
        found.append(everything(updater))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())


def test_in_fp16_an_overflow_fails_only_at_a_scale_of_one(half_toy) -> None:
    model, batch, _ = half_toy
    updater = make_updater(model, arithmetic=HALF, clip_norm=1.0)
    updater.update(batch.pieces, batch.num_tokens, 0.0)
    updater.scaler.update(2.0**126)
    result = updater.update(batch.pieces, 1, 1.0)
    assert (bool(result.is_taken), bool(result.has_failed)) == (False, False)
    updater.scaler.update(1.0)
    spoilt = next(p for p in model.parameters() if p.dim() > 1)
    spoilt.register_hook(lambda gradient: gradient * float("inf"))
    result = updater.update(batch.pieces, batch.num_tokens, 1.0)
    assert (bool(result.is_taken), bool(result.has_failed)) == (False, True)


def test_in_fp16_a_loss_that_is_not_finite_fails_at_any_scale(half_toy, spoil) -> None:
    model, batch, _ = half_toy
    updater = make_updater(model, arithmetic=HALF)
    spoil("loss")
    assert bool(updater.update(batch.pieces, batch.num_tokens, 1.0).has_failed)
    assert updater.scaler.get_scale() == 2.0**15


@pytest.fixture
def exhaust(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """A function that lets memory run out; it returns the sizes that were tried, in order."""

    def install(limit: int, error: type[Exception] = torch.OutOfMemoryError) -> list[int]:
        original, tried = update.summed_loss, []

        def limited(model, piece, *weights):  # type: ignore[no-untyped-def]
            tried.append(batches.num_positions(piece))
            if tried[-1] > limit:
                raise error("can't allocate memory")
            return original(model, piece, *weights)

        monkeypatch.setattr(update, "summed_loss", limited)
        return tried

    return install


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_pieces_that_do_not_fit_are_halved_and_later_ones_at_once(
    toy, exhaust, error: type[Exception]
) -> None:
    model, batch, gradient, before = toy
    tried = exhaust(8, error)
    assert [batches.num_positions(piece) for piece in batch.pieces] == [14, 6]
    updater = make_updater(model)
    result = updater.update(batch.pieces, batch.num_tokens, 1.0, seed=1)
    assert tried == [14, 5, 7, 6]
    assert updater.device_tokens == 7
    for name, change in changes(model, before).items():
        torch.testing.assert_close(change, -gradient[name], rtol=1e-7, atol=1e-12)
    assert float(result.grad_norm) == pytest.approx(norm(gradient))
    tried.clear()
    updater.update(batch.pieces, batch.num_tokens, 1.0, seed=2)
    assert tried == [5, 7, 6]


def test_an_update_that_is_done_again_draws_from_its_seed(
    build_model: BuildModel, make_batch: MakeBatch, exhaust
) -> None:
    """Cut at once, and cut after a failure: the same masks, so the same weights."""
    batch, found = make_batch(LENGTHS), []
    tried = exhaust(8)
    for known in (None, 12):
        model = build_model((OPTIONS | {"dropout": 0.5},) * 2).train()
        updater = make_updater(model)
        updater.device_tokens = known
        updater.update(batch.pieces, batch.num_tokens, 1.0, seed=1)
        found.append(weights_of(model))
    assert tried.count(21) == 1
    assert all(torch.equal(found[1][name], tensor) for name, tensor in found[0].items())


def test_a_single_pair_that_does_not_fit_is_named(toy, exhaust) -> None:
    model, batch, _, before = toy
    exhaust(4)
    with pytest.raises(errors.TrainingError, match=r"given: 5 source and 3 target tokens"):
        make_updater(model).update(batch.pieces, batch.num_tokens, 1.0)
    assert norm(changes(model, before)) == 0.0


def test_other_errors_are_not_taken_for_lack_of_memory(
    toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch, _, _ = toy

    def broken(*_: object) -> None:
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(update, "summed_loss", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        make_updater(model).update(batch.pieces, batch.num_tokens, 1.0)
