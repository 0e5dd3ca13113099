"""From a Transformer of nmt to the weights of Hugging Face's MarianMT of the same shape."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import torch as safetensors_torch

from benchmarks import environments
from nmt.config import schema
from nmt.models import layers, seq2seq

POSITIONS = 1024  # rows of the tables of positions

# Options that MarianMT computes in one way only.
_ITS_WAY = {
    "type": "transformer",
    "norm_position": "post",
    "norm": "layernorm",
    "activation": "relu",
    "positions": "sinusoidal",
}
_NAMES = {
    "self_attention.projection": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention.heads.output": ("self_attn.out_proj",),
    "self_attention.block.norm": ("self_attn_layer_norm",),
    "cross_attention.query": ("encoder_attn.q_proj",),
    "cross_attention.key": ("encoder_attn.k_proj",),
    "cross_attention.value": ("encoder_attn.v_proj",),
    "cross_attention.heads.output": ("encoder_attn.out_proj",),
    "cross_attention.block.norm": ("encoder_attn_layer_norm",),
    "feed_forward.inner": ("fc1",),
    "feed_forward.outer": ("fc2",),
    "feed_forward.block.norm": ("final_layer_norm",),
}


def write(path: Path, model: seq2seq.Seq2Seq, config: schema.ModelConfig) -> None:
    """Writes the state of a MarianMTModel.

    Args:
        path: a safetensors file.
        model: whose weights are taken, in float32.
        config: of its encoder and decoder.

    Raises:
        environments.UnavailableError: MarianMT does not compute such a model; says why.
    """
    for side, options in (("encoder", config.encoder), ("decoder", config.decoder)):
        for name, wanted in _ITS_WAY.items():
            if getattr(options, name, None) != wanted:
                raise environments.UnavailableError(f"model.{side}.{name} is not {wanted}")
    if getattr(config.decoder, "autoregressive_layer", None) != "self_attention":
        raise environments.UnavailableError("the decoder has no self-attention")
    weights = {name: value.detach().float() for name, value in model.state_dict().items()}
    shared = weights["src_embedding.weight"]
    for name in ("tgt_embedding.weight", "output.weight"):
        if not torch.equal(weights[name], shared):
            raise environments.UnavailableError("the model has more than one embedding table")
    state = {"model.shared.weight": shared, "final_logits_bias": torch.zeros(1, len(shared))}
    for side in ("encoder", "decoder"):
        # Its own are made of other rates.
        table = layers.sinusoids(torch.arange(POSITIONS), shared.shape[1], torch.float32)
        state[f"model.{side}.embed_positions.weight"] = table
        state |= _layers(weights, side)
    safetensors_torch.save_file({name: value.contiguous() for name, value in state.items()}, path)


def _layers(weights: Mapping[str, torch.Tensor], side: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the parameters of all layers of a side under MarianMT's names."""
    prefix = f"{side}.layers."
    for name, value in weights.items():
        if not name.startswith(prefix):
            continue
        index, _, rest = name.removeprefix(prefix).partition(".")
        block, _, kind = rest.rpartition(".")
        theirs = _NAMES[block]
        for part, chunk in zip(theirs, value.chunk(len(theirs)), strict=True):
            yield f"model.{prefix}{index}.{part}.{kind}", chunk
