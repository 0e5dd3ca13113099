"""MarianMT of Hugging Face transformers: `generate` on the weights of nmt, or on random ones."""

import platform
from typing import Any

import torch
import transformers
from safetensors import torch as safetensors_torch

from benchmarks import forced


class _Forced(transformers.LogitsProcessor):
    """Lets each sentence end at its length; the beams of a sentence stand together."""

    def __init__(self, lengths: torch.Tensor, beam_size: int, specials: dict[str, int]) -> None:
        self._lengths = lengths.repeat_interleave(beam_size)
        self._eos = specials["eos"]
        self._never = (specials["bos"], specials["pad"])

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        # The first token of the input is the one that a decoder starts with.
        # The library makes these scores anew at each position, so they may be changed in place.
        return forced.force(scores, self._lengths, input_ids.shape[1], self._eos, self._never)


class MarianSide:
    """Its default settings but for what is compared; fp32, torch's fused attention."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        torch.manual_seed(1)
        self._sentences = forced.Sentences(job)
        self._beam_size = job["beam_size"]
        self._max_length = job["max_length"]
        self._stops_early = job["stops_early"]
        self._model = transformers.MarianMTModel(_config(job, self._sentences)).eval()
        self._has_weights = bool(job["weights"])
        if self._has_weights:
            _load(self._model, job["weights"])

    def describe(self) -> dict[str, Any]:
        return {
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "parameters": sum(p.numel() for p in self._model.parameters() if p.requires_grad),
        }

    @torch.inference_mode()
    def turn(self, number: int) -> dict[str, Any]:
        """Translates all sentences in batches of `number`."""
        ids = self._sentences.specials
        found: dict[int, list[int]] = {}
        for indices, src, lengths in self._sentences.batches(number):
            limits = self._limits(lengths)
            outputs = self._model.generate(
                input_ids=src,
                attention_mask=src != ids["pad"],
                num_beams=self._beam_size,
                do_sample=False,
                length_penalty=0.0,
                early_stopping=self._stops_early and self._beam_size > 1,
                **limits,
            )
            ended = (outputs[:, 1:] == ids["eos"]).cumsum(1) > 0
            rows = outputs[:, 1:].masked_fill(ended, ids["pad"]).tolist()
            for index, row in zip(indices, rows, strict=True):
                found[index] = [token for token in row if token != ids["pad"]]
        tokens = sum(len(row) + 1 for row in found.values())
        if not self._has_weights:
            assert tokens == self._sentences.num_tokens, "outputs have the lengths that were forced"
            return {"tokens": tokens}
        return {"tokens": tokens, "ids": [found[index] for index in range(len(found))]}

    def _limits(self, lengths: torch.Tensor) -> dict[str, Any]:
        """Returns what ends the outputs of a batch besides the model itself."""
        ids = self._sentences.specials
        if self._has_weights:
            return {
                "max_new_tokens": self._max_length,
                "suppress_tokens": [ids["bos"], ids["pad"]],
            }
        force = _Forced(lengths, self._beam_size, ids)
        return {
            "max_new_tokens": int(lengths.max()),
            "logits_processor": transformers.LogitsProcessorList([force]),
        }


def _load(model: transformers.MarianMTModel, path: str) -> None:
    """Puts the weights of a file into a model; those that it ties come once."""
    state = safetensors_torch.load_file(path)
    missing, unexpected = model.load_state_dict(state, strict=False)
    tied = {
        "lm_head.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
    }
    assert not unexpected and set(missing) <= tied, f"other weights: {missing}, {unexpected}"
    shared = model.model.shared.weight
    for module in (
        model.lm_head,
        model.model.encoder.embed_tokens,
        model.model.decoder.embed_tokens,
    ):
        assert module.weight.data_ptr() == shared.data_ptr(), "one table for all"


def _config(job: dict[str, Any], sentences: forced.Sentences) -> transformers.MarianConfig:
    encoder, decoder, ids = job["encoder"], job["decoder"], sentences.specials
    return transformers.MarianConfig(
        vocab_size=sentences.vocab_size,
        decoder_vocab_size=sentences.vocab_size,
        max_position_embeddings=1024,
        d_model=decoder["hidden_size"],
        encoder_layers=encoder["num_layers"],
        decoder_layers=decoder["num_layers"],
        encoder_attention_heads=encoder["num_heads"],
        decoder_attention_heads=decoder["num_heads"],
        encoder_ffn_dim=encoder["feedforward_size"],
        decoder_ffn_dim=decoder["feedforward_size"],
        activation_function="relu",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=ids["pad"],
        bos_token_id=ids["bos"],
        eos_token_id=ids["eos"],
        forced_eos_token_id=None,
        decoder_start_token_id=ids["bos"],
    )


def build(job: dict[str, Any]) -> MarianSide:
    return MarianSide(job)
