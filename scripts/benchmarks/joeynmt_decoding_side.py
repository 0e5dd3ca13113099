"""JoeyNMT: its own search on a random model of the same shape."""

import platform
import types
from importlib import metadata
from typing import Any

import torch
from joeynmt import model as joey_model
from joeynmt import search, vocabulary

from benchmarks import forced

SPECIALS = ("unk", "pad", "bos", "eos")  # JoeyNMT wants them first and in this order


class JoeynmtSide:
    """A Transformer with normalisation before the blocks, fp32."""

    def __init__(self, job: dict[str, Any]) -> None:
        torch.set_num_threads(job["threads"])
        torch.manual_seed(1)
        self._sentences = forced.Sentences(job)
        self._beam_size = job["beam_size"]
        size = self._sentences.vocab_size
        # From the ids of the tokenizer to those of JoeyNMT: special ones change places.
        self._ids = torch.arange(size)
        old = [self._sentences.specials[name] for name in SPECIALS]
        assert sorted(old) == list(range(len(SPECIALS))), "the tokenizer has special ids first, too"
        self._ids[old] = torch.arange(len(SPECIALS))
        vocab = _vocabulary(size)
        self._model = joey_model.build_model(_config(job), vocab, vocab).eval()
        self._lengths = torch.empty(0, dtype=torch.int64)
        self._keys = torch.empty(0)
        self._model.register_forward_hook(self._force, with_kwargs=True)

    def describe(self) -> dict[str, Any]:
        return {
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "joeynmt": metadata.version("joeynmt"),
            },
            "parameters": sum(p.numel() for p in self._model.parameters() if p.requires_grad),
        }

    def _force(self, _: Any, __: Any, arguments: dict[str, Any], output: Any) -> Any:
        """Changes the scores of the last position before the search sees them.

        Finished sentences leave JoeyNMT's batch without a word, so a row is known by the first number
        of its encoding.
        """
        if arguments.get("return_type") != "decode":
            return output
        keys = arguments["encoder_output"][:, 0, 0].contiguous()
        lengths = self._lengths[torch.searchsorted(self._keys, keys)]
        length = arguments["trg_input"].shape[1]
        forced.force(output[0][:, -1], lengths, length, self._model.eos_index, ())
        return output

    @torch.inference_mode()
    def turn(self, number: int) -> dict[str, Any]:
        """Translates all sentences in batches of `number`."""
        tokens = 0
        for _, src, lengths in self._sentences.batches(number):
            src = self._ids[src]
            mask = (src != self._model.pad_index).unsqueeze(1)
            encoded, hidden, _, _ = self._model(
                return_type="encode", src=src, src_length=mask.sum(2)[:, 0], src_mask=mask
            )
            self._keys, order = encoded[:, 0, 0].sort()
            self._lengths = lengths[order]
            settings = {
                "model": self._model,
                "encoder_output": encoded,
                "encoder_hidden": hidden,
                "src_mask": mask,
                "max_output_length": int(lengths.max()),
                "min_output_length": 0,
            }
            if self._beam_size == 1:
                found, _, _ = search.greedy(**settings)
            else:
                found, _, _ = search.beam_search(
                    beam_size=self._beam_size, alpha=0.0, n_best=1, **settings
                )
            tokens += _count(torch.as_tensor(found), self._model.eos_index)
        assert tokens == self._sentences.num_tokens, "outputs have the lengths that were forced"
        return {"tokens": tokens}


def _count(found: torch.Tensor, eos: int) -> int:
    """Returns the tokens of outputs [B, T] up to and including the first EOS."""
    return int((found == eos).int().argmax(1).add(1).sum())


def _vocabulary(size: int) -> vocabulary.Vocabulary:
    """Returns a vocabulary of so many pieces; their text does not matter here."""
    symbols = {f"{name}_token": f"<{name}>" for name in SPECIALS}
    ids = {f"{name}_id": place for place, name in enumerate(SPECIALS)}
    settings = types.SimpleNamespace(**symbols, **ids, sep_token=None, lang_tags=[])
    return vocabulary.Vocabulary([f"p{i}" for i in range(len(SPECIALS), size)], settings)


def _config(job: dict[str, Any]) -> dict[str, Any]:
    sides = {}
    for name in ("encoder", "decoder"):
        options = job[name]
        sides[name] = {
            "type": "transformer",
            "num_layers": options["num_layers"],
            "num_heads": options["num_heads"],
            "hidden_size": options["hidden_size"],
            "ff_size": options["feedforward_size"],
            "layer_norm": "pre",
            "embeddings": {"embedding_dim": options["hidden_size"], "scale": True},
        }
    return {
        "initializer": "xavier_uniform",
        "embed_initializer": "xavier_uniform",
        "bias_initializer": "zeros",
        "tied_embeddings": True,
        "tied_softmax": True,
        **sides,
    }


def build(job: dict[str, Any]) -> JoeynmtSide:
    return JoeynmtSide(job)
