"""Resuming a run whose loss is scaled (fp16), on the CPU."""

import copy
from collections.abc import Callable

import torch

from nmt.config import schema
from nmt.data import batches
from nmt.models import seq2seq
from nmt.runtime import device as devices
from nmt.training import loop, optimizers, update

HALF = devices.Arithmetic(torch.device("cpu"), "fp16", torch.float32, torch.float16)
OPTIONS = {"type": "transformer", "num_layers": 1, "hidden_size": 4, "num_heads": 1}


def test_a_run_with_a_scaler_goes_on_bit_for_bit(
    build_model: Callable[..., seq2seq.Seq2Seq], make_batch: Callable[..., batches.Batch]
) -> None:
    batch = make_batch([(5, 3), (2, 7), (6, 6)])
    config = schema.TrainingConfig()

    def start(seed: int) -> tuple[loop.Trainer, update.Updater]:
        model = build_model((OPTIONS, OPTIONS), seed=seed).float().train()
        updater = update.Updater(
            model, optimizers.build(config, model), HALF, smoothing=0.1, clip_norm=1.0
        )
        return loop.Trainer(updater, None, config, HALF, None, None), updater

    first, first_updater = start(0)
    for _ in range(3):
        first_updater.update(batch.pieces, batch.num_tokens, 0.01)
    saved = copy.deepcopy((first.progress.to_json(), first.tensors()))
    second, second_updater = start(1)
    second.restore(*saved)
    for updater in (first_updater, second_updater):
        updater.update(batch.pieces, batch.num_tokens, 0.01, seed=4)
    for name, tensor in first.weights().items():
        assert torch.equal(tensor, second.weights()[name]), name
    assert first_updater.scaler.state_dict() == second_updater.scaler.state_dict()
