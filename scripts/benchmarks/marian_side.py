"""MarianMT of Hugging Face transformers in a plain training loop, as a careful user writes it."""

import platform
from typing import Any

import torch
import transformers
from torch.nn import functional as F

from benchmarks import peer_data, shapes

LABEL_SMOOTHING, CLIP_NORM = 0.1, 1.0


class MarianSide:
    """Length-bucketed batches and fused Adam; fp32, or bf16 under autocast.

    Attention is torch's fused kernel (`sdpa`) or plain products (`eager`). Both are measured: the
    first is the library's default, the second is faster on processors that multiply bf16.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        torch.manual_seed(1)
        self._data = peer_data.PeerData(job)
        self._uses_bf16 = job["precision"] == "bf16"
        self._model = transformers.MarianMTModel._from_config(
            _config(job["shape"], self._data), attn_implementation=job["attention"]
        ).train()
        self._optimizer = torch.optim.Adam(
            self._model.parameters(), lr=job["learning_rate"], betas=(0.9, 0.98), fused=True
        )
        self._batches = self._data.batches()

    def describe(self) -> dict[str, Any]:
        return {
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "precision": "bf16" if self._uses_bf16 else "fp32",
            "attention": self._model.config._attn_implementation,
            "parameters": sum(p.numel() for p in self._model.parameters() if p.requires_grad),
            # It normalises behind the blocks, so it lacks nmt's two norms at the end.
            "parameters_lacking": 2 * 2 * self._model.config.d_model,
            **self._data.describe(),
            "dropout_is_on": self._dropout_is_on(),
        }

    @torch.no_grad()
    def _dropout_is_on(self) -> bool:
        """Returns whether one batch has another loss each time, and only in training mode."""
        src, tgt, _ = next(self._data.batches())
        differs = float(self._loss(src, tgt)) != float(self._loss(src, tgt))
        self._model.eval()
        repeats = float(self._loss(src, tgt)) == float(self._loss(src, tgt))
        self._model.train()
        return differs and repeats

    def _loss(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        """Returns the mean smoothed loss by real target token."""
        pad = self._data.specials["pad"]
        with torch.autocast("cpu", torch.bfloat16, enabled=self._uses_bf16):
            # Targets need no mask: what follows a sentence's end is hidden by the causal one.
            logits = self._model(
                input_ids=src,
                attention_mask=src != pad,
                decoder_input_ids=self._data.shifted(tgt),
                use_cache=False,
            ).logits
        return F.cross_entropy(
            logits.float().flatten(0, 1),
            tgt.flatten(),
            ignore_index=pad,
            label_smoothing=LABEL_SMOOTHING,
        )

    def turn(self, number: int) -> dict[str, Any]:
        tokens = 0
        losses = []
        for _ in range(number):
            src, tgt, num_tokens = next(self._batches)
            self._optimizer.zero_grad(set_to_none=True)
            loss = self._loss(src, tgt)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
            self._optimizer.step()
            tokens += num_tokens
            losses.append(loss.detach() * num_tokens)
        return {"tokens": tokens, "loss": float(sum(losses)) / tokens}


def _config(name: str, data: peer_data.PeerData) -> transformers.MarianConfig:
    """Returns the shape, with the dropout of Marian: around the blocks, not inside of them."""
    shape, ids = shapes.SHAPES[name], data.specials
    assert isinstance(shape, shapes.Transformer), "MarianMT is a Transformer"
    return transformers.MarianConfig(
        vocab_size=data.vocab_size,
        decoder_vocab_size=data.vocab_size,
        max_position_embeddings=1024,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.feedforward,
        decoder_ffn_dim=shape.feedforward,
        activation_function="relu",
        dropout=shapes.DROPOUT,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=ids["pad"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        forced_eos_token_id=ids["eos"],
        decoder_start_token_id=ids["bos"],
    )


def build(job: dict[str, Any]) -> MarianSide:
    return MarianSide(job)
