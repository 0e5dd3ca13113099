"""nmt: the only module here that knows its inside."""

import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nmt.config import loading
from nmt.data import batches, plan, readers
from nmt.runtime import device as devices
from nmt.runtime import distributed
from nmt.text import tokenizer
from nmt.training import optimizers as nmt_optimizers
from nmt.training import preparation, update


def make_tokenizer(config_path: Path, folder: Path) -> None:
    """Trains the tokenizer that all sides use."""
    preparation.make_tokenizers(loading.load(config_path), folder)


def encoded_corpus(config_path: Path, folder: Path) -> dict[str, Any]:
    """Returns the training pairs as ids without BOS and EOS, and the special ids."""
    config = loading.load(config_path)
    encoder = tokenizer.Tokenizer.load(folder, "src")
    pairs = [pair for entry in config.data.train for pair in readers.read_pairs(entry)]
    src = encoder.encode_batch([text for text, _ in pairs])
    tgt = encoder.encode_batch([text for _, text in pairs])
    kept = [(a, b) for a, b in zip(src, tgt, strict=True) if a and b]
    ids = encoder.vocab
    return {
        "src": [a for a, _ in kept],
        "tgt": [b for _, b in kept],
        "vocab_size": len(ids),
        "specials": {name: getattr(ids, f"{name}_id") for name in ("unk", "bos", "eos", "pad")},
    }


class NmtSide:
    """Trains as `nmt train` does, between two validations."""

    def __init__(self, job: dict[str, Any]) -> None:
        device = torch.device("cpu")
        config = loading.load(job["config"])
        self._rate = config.training.learning_rate
        self._arithmetic = devices.training_arithmetic(job["precision"], device)
        group = job.get("group")
        size = group.size if group else 1
        devices.set_up(device, job["threads"] // size)
        parts = preparation.prepare(config, Path(job["tokenizer"]), self._arithmetic, group=group)
        self._loader = parts.loader
        self._updater = update.Updater(
            parts.model,
            nmt_optimizers.build(config.training, parts.model),
            self._arithmetic,
            smoothing=config.training.label_smoothing,
            clip_norm=config.training.clip_norm,
            group=group,
        )
        self._batches: Iterator[batches.Batch] = self._loader.batches(plan.Position())

    def describe(self) -> dict[str, Any]:
        epoch = self._loader.batches(plan.Position())
        counted = [next(epoch) for _ in range(self._loader.epoch_batches)]
        return {
            "versions": {"python": platform.python_version(), "torch": torch.__version__},
            "precision": self._arithmetic.name,
            "parameters": self._updater.model.num_parameters(),
            "parameters_lacking": 0,
            "epoch_pairs": sum(batch.num_pairs for batch in counted),
            "epoch_src_tokens": sum(batch.num_src_tokens for batch in counted),
            "epoch_tokens": sum(batch.num_tokens for batch in counted),
            "epoch_positions": sum(_positions(batch) for batch in counted),
            "largest_batch": max(batch.num_tokens for batch in counted),
            "dropout_is_on": self._dropout_is_on(counted[0]),
        }

    def _dropout_is_on(self, batch: batches.Batch) -> bool:
        """Returns whether one batch has another loss each time, and only in training mode.

        With gradients, though nobody asks for them: some layers go another way without.
        """
        model = self._updater.model

        def losses() -> set[float]:
            return {float(update.summed_loss(model, batch.pieces[0], 0.0)[0]) for _ in range(2)}

        differs = len(losses()) == 2
        model.eval()
        repeats = len(losses()) == 1
        model.train()
        return differs and repeats

    def turn(self, number: int) -> dict[str, Any]:
        tokens = 0
        losses = []
        for _ in range(number):
            batch = next(self._batches)
            result = self._updater.update(batch.pieces, batch.num_tokens, self._rate)
            tokens += batch.num_tokens
            losses.append(result.loss)
        return {"tokens": tokens, "loss": float(sum(losses)) / tokens}


def _positions(batch: batches.Batch) -> int:
    """Returns the positions of both sides, padding included."""
    return batch.num_padded + sum(piece.src_BS.numel() for piece in batch.pieces)


class NmtRanks:
    """The same as several processes of some of the threads each, as `torchrun` starts them.

    This one is rank 0; it starts the others and tells them when to work.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        alone = job | {"ranks": 1}
        size = job["ranks"]
        # Of the whole batches, which a rank has a part of.
        self._description = NmtSide(alone).describe()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        place = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        self._others = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(job)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | place | {"RANK": str(rank)},
                text=True,
            )
            for rank in range(1, size)
        ]
        os.environ |= place | {"RANK": "0"}
        self._side = _ranked_side(job)
        for other in self._others:
            self._answer(other)

    def describe(self) -> dict[str, Any]:
        return self._description

    def turn(self, number: int) -> dict[str, Any]:
        for other in self._others:
            assert other.stdin is not None, "opened as a pipe"
            other.stdin.write(json.dumps({"number": number}) + "\n")
            other.stdin.flush()
        found = self._side.turn(number)
        answers = [self._answer(other) for other in self._others]
        for name in ("processor_seconds", "peak_bytes"):
            found[name] = sum(answer[name] for answer in answers)
        return found

    def _answer(self, other: subprocess.Popen[str]) -> dict[str, Any]:
        assert other.stdout is not None, "opened as a pipe"
        line = other.stdout.readline()
        if not line:
            raise RuntimeError("another rank of nmt does not run")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _ranked_side(job: dict[str, Any]) -> NmtSide:
    start = distributed.started()
    return NmtSide(
        job | {"group": distributed.Ranks(start.rank, start.size, remedy="run it again")}
    )


def build(job: dict[str, Any]) -> NmtSide | NmtRanks:
    if job["ranks"] == 1:
        return NmtSide(job)
    return _ranked_side(job) if "RANK" in os.environ else NmtRanks(job)
