"""Weights of nmt under the names of MarianMT; that it computes the same, the benchmark finds out."""

from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import environments, marian_weights
from safetensors import torch as safetensors_torch

from nmt.config import schema
from nmt.models import layers, seq2seq

SHAPE = {"type": "transformer", "num_layers": 2, "hidden_size": 8, "num_heads": 2}
ITS_WAY = SHAPE | {"norm_position": "post", "activation": "relu", "positions": "sinusoidal"}


def build(
    encoder: dict[str, Any], decoder: dict[str, Any], tie: str = "all"
) -> tuple[seq2seq.Seq2Seq, schema.ModelConfig]:
    torch.manual_seed(1)
    config = schema.ModelConfig.model_validate(
        {"encoder": encoder, "decoder": decoder, "tie_embeddings": tie}
    )
    model = seq2seq.build(config, 13, 13, shared=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model, config


def test_every_weight_has_its_place(tmp_path: Path):
    model, config = build(ITS_WAY, ITS_WAY)
    marian_weights.write(tmp_path / "state", model, config)
    found = safetensors_torch.load_file(tmp_path / "state")
    ours = model.state_dict()
    attention = ours["encoder.layers.1.self_attention.projection.weight"].split(8)
    for name, value in zip("qkv", attention, strict=True):
        assert torch.equal(found[f"model.encoder.layers.1.self_attn.{name}_proj.weight"], value)
    for theirs, name in (
        ("model.decoder.layers.0.encoder_attn.k_proj.bias", "layers.0.cross_attention.key.bias"),
        ("model.decoder.layers.1.fc2.weight", "layers.1.feed_forward.outer.weight"),
        ("model.decoder.layers.0.final_layer_norm.bias", "layers.0.feed_forward.block.norm.bias"),
    ):
        assert torch.equal(found[theirs], ours[f"decoder.{name}"])
    assert torch.equal(found["model.shared.weight"], ours["tgt_embedding.weight"])
    table = found["model.decoder.embed_positions.weight"]
    assert torch.equal(table, layers.sinusoids(torch.arange(len(table)), 8, torch.float32))
    # None is left out and none comes twice.
    of_layers = [value for name, value in found.items() if ".layers." in name]
    wanted = [value for name, value in ours.items() if ".layers." in name]
    assert sum(value.numel() for value in of_layers) == sum(value.numel() for value in wanted)


@pytest.mark.parametrize(
    ("encoder", "decoder", "tie", "said"),
    [
        (ITS_WAY | {"norm_position": "pre"}, ITS_WAY, "all", "model.encoder.norm_position"),
        (ITS_WAY, ITS_WAY | {"activation": "gelu"}, "all", "model.decoder.activation"),
        (ITS_WAY, ITS_WAY | {"autoregressive_layer": "ssru"}, "all", "self-attention"),
        (ITS_WAY, {"type": "rnn", "hidden_size": 8}, "none", "model.decoder.type"),
        (ITS_WAY, ITS_WAY, "none", "embedding table"),
    ],
)
def test_what_it_does_not_compute_is_refused(
    encoder: dict[str, Any], decoder: dict[str, Any], tie: str, said: str, tmp_path: Path
):
    model, config = build(encoder, decoder, tie)
    with pytest.raises(environments.UnavailableError, match=said):
        marian_weights.write(tmp_path / "state", model, config)
    assert not (tmp_path / "state").exists()
