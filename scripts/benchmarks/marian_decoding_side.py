"""MarianMT of Hugging Face transformers: `generate` on a random model of the same shape."""

import platform
from typing import Any

import torch
import transformers

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
        self._model = transformers.MarianMTModel(_config(job, self._sentences)).eval()

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
        tokens = 0
        for src, lengths in self._sentences.batches(number):
            found = self._model.generate(
                input_ids=src,
                attention_mask=src != ids["pad"],
                num_beams=self._beam_size,
                do_sample=False,
                length_penalty=0.0,
                early_stopping=self._beam_size > 1,
                max_new_tokens=int(lengths.max()),
                logits_processor=transformers.LogitsProcessorList(
                    [_Forced(lengths, self._beam_size, ids)]
                ),
            )
            tokens += int((found[:, 1:] != ids["pad"]).sum())
        assert tokens == self._sentences.num_tokens, "outputs have the lengths that were forced"
        return {"tokens": tokens}


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
