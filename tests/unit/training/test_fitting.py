"""`max_device_tokens: auto`: what fits is found by trying, longest pairs first."""

from collections.abc import Callable

import pytest
import torch

from nmt import errors
from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import fitting, update

Probe = Callable[..., tuple[int | None, list[tuple[int, int, int]], update.Updater]]


@pytest.fixture
def run_probe(
    build_model: Callable[..., seq2seq.Seq2Seq], monkeypatch: pytest.MonkeyPatch
) -> Probe:
    """A function from what the device takes to the limit found, and the (pairs, src, tgt) tried."""

    def run(capacity: int, longest: tuple[int, int], batch_tokens: int):  # type: ignore[no-untyped-def]
        options = {"type": "rnn", "embedding_size": 4, "hidden_size": 4}
        model, tried = build_model((options, options)).train(), []
        original = update.summed_loss

        def limited(model, piece, *weights):  # type: ignore[no-untyped-def]
            tried.append((*piece.src_BS.shape, piece.tgt_in_BT.shape[1]))
            if batches.num_positions(piece) > capacity:
                raise torch.OutOfMemoryError("out of memory")
            return original(model, piece, *weights)

        monkeypatch.setattr(update, "summed_loss", limited)
        updater = update.Updater(
            model,
            torch.optim.SGD(model.parameters(), 0.1),
            devices.training_arithmetic("fp64", torch.device("cpu")),
            smoothing=0.1,
            clip_norm=None,
        )
        return fitting.find_device_tokens(updater, longest, batch_tokens), tried, updater

    return run


def test_sizes_double_until_one_does_not_fit_then_the_middle_is_tried(run_probe: Probe) -> None:
    found, tried, _ = run_probe(70, (10, 8), 1000)
    assert tried == [(n, 10, 8) for n in (1, 2, 4, 8, 6)]
    assert found == 54  # nine tenths of six pairs of ten


def test_a_middle_that_does_not_fit_is_not_taken(run_probe: Probe) -> None:
    assert run_probe(50, (10, 8), 1000)[0] == 36


def test_where_every_batch_fits_there_is_no_limit(run_probe: Probe) -> None:
    found, tried, updater = run_probe(1000, (5, 10), 35)
    assert found is None
    assert tried == [(n, 5, 10) for n in (1, 2, 4, 7)]
    assert all(p.grad is None for p in updater.model.parameters())


def test_the_limit_lets_the_longest_pair_through(run_probe: Probe) -> None:
    assert run_probe(10, (10, 8), 1000)[0] == 10


def test_a_pair_that_does_not_fit_ends_the_run_before_it_begins(run_probe: Probe) -> None:
    with pytest.raises(errors.TrainingError, match="given: 10 source and 8 target"):
        run_probe(9, (10, 8), 1000)
