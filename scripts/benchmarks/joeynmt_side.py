"""JoeyNMT: its model, batch, training step and optimiser, on the batches that the peers get.

Its loader is left out (it batches without regard to length), so that all peers pad alike. fp32 only:
its half precision is float16, which it offers for GPUs. Its loss is a divergence: about 1.2 lower than
the cross-entropy of the others, at the same gradient.
"""

import platform
import types
from importlib import metadata
from typing import Any

import torch
from joeynmt import batch as joey_batch
from joeynmt import builders, model, training, vocabulary

from benchmarks import peer_data, shapes

LABEL_SMOOTHING, CLIP_NORM = 0.1, 1.0
SPECIALS = ("unk", "pad", "bos", "eos")  # JoeyNMT wants them first and in this order


class JoeynmtSide:
    """A Transformer with normalisation before the blocks, as JoeyNMT's examples configure it."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        torch.manual_seed(1)
        self._data = peer_data.PeerData(job)
        # From the ids of the tokenizer to those of JoeyNMT: special ones change places.
        self._ids = torch.arange(self._data.vocab_size)
        places = sorted(self._data.specials.values())
        assert places == list(range(len(SPECIALS))), "the tokenizer has special ids first, too"
        for place, name in enumerate(SPECIALS):
            self._ids[self._data.specials[name]] = place
        vocab = _vocabulary(self._data.vocab_size)
        self._pad, self._bos, self._eos = vocab.pad_index, vocab.bos_index, vocab.eos_index
        self._model = model.build_model(_config(job["shape"]), vocab, vocab)
        self._model.loss_function = ("crossentropy", LABEL_SMOOTHING)
        self._model.train()
        self._optimizer = builders.build_optimizer(
            {
                "optimizer": "adam",
                "learning_rate": job["learning_rate"],
                "adam_betas": (0.9, 0.98),
            },
            self._model.parameters(),
        )
        self._clip = builders.build_gradient_clipper(
            {"clip_grad_norm": CLIP_NORM, "clip_grad_val": None}
        )
        self._batches = self._data.batches()

    def describe(self) -> dict[str, Any]:
        return {
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "joeynmt": metadata.version("joeynmt"),
            },
            "precision": "fp32",
            "parameters": sum(p.numel() for p in self._model.parameters() if p.requires_grad),
            "parameters_lacking": 0,
            **self._data.describe(),
            "dropout_is_on": self._dropout_is_on(),
        }

    @torch.no_grad()
    def _dropout_is_on(self) -> bool:
        """Returns whether one batch has another loss each time, and only in training mode."""
        src, tgt, _ = next(self._data.batches())
        arguments = vars(self._batch(src, tgt))

        def loss() -> float:
            return float(self._model(return_type="loss", **arguments)[0])

        differs = loss() != loss()
        self._model.eval()
        repeats = loss() == loss()
        self._model.train()
        return differs and repeats

    def _batch(self, src: torch.Tensor, tgt: torch.Tensor) -> joey_batch.Batch:
        src, tgt = self._ids[src], self._ids[tgt]
        bos = torch.full((len(tgt), 1), self._bos)
        return joey_batch.Batch(
            src=src,
            src_length=(src != self._pad).sum(1),
            src_prompt_mask=None,
            trg=torch.cat([bos, tgt], dim=1),
            trg_prompt_mask=None,
            indices=torch.arange(len(src)),
            device=torch.device("cpu"),
            pad_index=self._pad,
            eos_index=self._eos,
        )

    def turn(self, number: int) -> dict[str, Any]:
        # All that its step reads of the manager around it.
        manager = types.SimpleNamespace(
            model=self._model,
            autocast={"device_type": "cpu", "enabled": False},
            args=types.SimpleNamespace(normalization="tokens", batch_multiplier=1),
            n_gpu=0,
            scaler=None,
        )
        tokens = 0
        loss = 0.0
        for _ in range(number):
            src, tgt, num_tokens = next(self._batches)
            batch = self._batch(src, tgt)
            assert batch.ntokens == num_tokens, "JoeyNMT counts tokens as we do"
            mean, _ = training.TrainManager._train_step(manager, batch)
            self._clip(parameters=self._model.parameters())
            self._optimizer.step()
            self._model.zero_grad()
            tokens += num_tokens
            loss += mean * num_tokens
        return {"tokens": tokens, "loss": loss / tokens}


def _vocabulary(size: int) -> vocabulary.Vocabulary:
    """Returns a vocabulary of so many pieces; their text does not matter here."""
    symbols = {f"{name}_token": f"<{name}>" for name in SPECIALS}
    ids = {f"{name}_id": place for place, name in enumerate(SPECIALS)}
    settings = types.SimpleNamespace(**symbols, **ids, sep_token=None, lang_tags=[])
    return vocabulary.Vocabulary([f"p{i}" for i in range(len(SPECIALS), size)], settings)


def _config(name: str) -> dict[str, Any]:
    shape = shapes.SHAPES[name]
    assert isinstance(shape, shapes.Transformer), "measured as a Transformer"
    side = {
        "type": "transformer",
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "hidden_size": shape.width,
        "ff_size": shape.feedforward,
        "dropout": shapes.DROPOUT,
        "layer_norm": "pre",
        "embeddings": {"embedding_dim": shape.width, "scale": True},
    }
    return {
        "initializer": "xavier_uniform",
        "embed_initializer": "xavier_uniform",
        "bias_initializer": "zeros",
        "tied_embeddings": True,
        "tied_softmax": True,
        "encoder": side,
        "decoder": side,
    }


def build(job: dict[str, Any]) -> JoeynmtSide:
    return JoeynmtSide(job)
