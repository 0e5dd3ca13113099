"""From a Transformer of ours to the weights of a CTranslate2 model (4.6 or newer).

What CTranslate2 computes is chosen by `TransformerSpec`; this module fills one in, and refuses
models that none describes. The options of a model are looked at one by one, and one that is not
known here is refused unless it has its default: an option that is added to the family later can
never be exported without a thought.
"""

import importlib
import math
import types
from collections.abc import Mapping
from typing import Any

import torch

from nmt import errors
from nmt.config import families, schema
from nmt.models import layers, seq2seq
from nmt.text import vocab

Options = families.TransformerEncoderOptions | families.TransformerDecoderOptions
PACKAGE = "ctranslate2"
EXTRA = "pip install 'nmt-toolkit[ctranslate2]'"

# Options that change the shape of the weights or nothing at inference.
_FREE_OPTIONS = frozenset(
    {
        "type", "num_layers", "hidden_size", "num_heads", "feedforward_size", "max_positions",
        "dropout", "attention_dropout", "activation_dropout",
    }
)  # fmt: skip
# Options that change the arithmetic, with the values that CTranslate2 computes, too.
_CHOICES: Mapping[str, frozenset[str]] = {
    "norm_position": frozenset({"pre", "post"}),
    "norm": frozenset({"layernorm", "rmsnorm"}),
    "activation": frozenset({"relu", "gelu", "swiglu"}),
    "positions": frozenset({"sinusoidal", "learned", "rotary"}),
}
# CTranslate2's names; its GELU is the exact one, as ours, and its Swish is the gate of SwiGLU.
_ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "swiglu": "SWISH"}


def package() -> types.ModuleType:
    """Returns the package ctranslate2.

    Raises:
        errors.UsageError: it is not installed.
    """
    try:
        importlib.import_module(f"{PACKAGE}.specs")
        return importlib.import_module(PACKAGE)
    except ImportError as error:
        raise errors.UsageError(
            f"{PACKAGE}: is not installed, or does not load ({error}). Install it with: {EXTRA}"
        ) from error


def check(config: schema.ModelConfig, src: vocab.Vocab, tgt: vocab.Vocab) -> None:
    """Finds out whether CTranslate2 can represent a model.

    Args:
        config: encoder and decoder.
        src: source vocabulary.
        tgt: target vocabulary.

    Raises:
        errors.UsageError: it cannot; says why.
    """
    for side, options in (("encoder", config.encoder), ("decoder", config.decoder)):
        if options.type != "transformer":
            raise _refused(
                f"model.{side}.type", options.type, "CTranslate2 has Transformers of this kind only"
            )
        _check_options(f"model.{side}", options)
    for name, pieces in (("source", src.pieces), ("target", tgt.pieces)):
        if len(set(pieces)) < len(pieces):
            twice = next(piece for piece in pieces if pieces.count(piece) > 1)
            raise _refused(
                f"tokenizer, {name}", repr(twice), "CTranslate2 tells pieces by their text, "
                "and this one stands in the vocabulary twice"
            )  # fmt: skip


def _check_options(place: str, options: families.FamilyOptions) -> None:
    for name, field in type(options).model_fields.items():
        value = getattr(options, name)
        if name in _FREE_OPTIONS or value in _CHOICES.get(name, frozenset()):
            continue
        if name in _CHOICES or value != field.get_default(call_default_factory=True):
            raise _refused(f"{place}.{name}", value, "CTranslate2 has nothing that computes this")


def _refused(place: str, value: object, why: str) -> errors.UsageError:
    return errors.UsageError(
        f"{place}: cannot be exported to CTranslate2 (given: {value}): {why}. "
        "Translate with nmt itself, or train a model that docs/export.md lists."
    )


def build(
    model: seq2seq.Seq2Seq,
    config: schema.ModelConfig,
    vocabs: tuple[vocab.Vocab, vocab.Vocab],
    positions: tuple[int, int],
) -> Any:
    """Returns CTranslate2's description of a model, with its weights.

    Args:
        model: whose weights are taken, in float32.
        config: its encoder and decoder, which `check` has passed.
        vocabs: source and target vocabulary.
        positions: how many positions of source and target can be told apart, in tokens; learned
            ones are as many as there are.
    """
    specs = package().specs
    # Copies: CTranslate2 scales what it is given in place when it rounds to integers.
    weights = {
        name: tensor.detach().to("cpu", torch.float32, copy=True)
        for name, tensor in model.state_dict().items()
    }
    encoder_options, decoder_options = config.encoder, config.decoder
    assert isinstance(encoder_options, families.TransformerEncoderOptions), "checked"
    assert isinstance(decoder_options, families.TransformerDecoderOptions), "checked"
    encoder = specs.TransformerEncoderSpec(**_shape(encoder_options))
    decoder = specs.TransformerDecoderSpec(**_shape(decoder_options))
    encoder.embeddings[0].weight = weights["src_embedding.weight"].numpy()
    decoder.embeddings.weight = weights["tgt_embedding.weight"].numpy()
    decoder.projection.weight = weights["output.weight"].numpy()
    sides: list[tuple[str, Any, Options]] = [
        ("encoder", encoder, encoder_options),
        ("decoder", decoder, decoder_options),
    ]
    for (name, spec, options), count in zip(sides, positions, strict=True):
        table = _position_table(weights, name, options, count)
        if table is not None:
            spec.position_encodings.encodings = table.numpy()
        if options.norm_position == "pre":
            _set_norm(spec.layer_norm, weights, f"{name}.final_norm")
        for index, layer in enumerate(spec.layer):
            _set_layer(layer, weights, f"{name}.layers.{index}", options)
    whole = specs.TransformerSpec(encoder, decoder)
    src, tgt = vocabs
    whole.register_source_vocabulary(list(src.pieces))
    whole.register_target_vocabulary(list(tgt.pieces))
    whole.config.unk_token = tgt.pieces[tgt.unk_id]
    whole.config.bos_token = whole.config.decoder_start_token = tgt.pieces[tgt.bos_id]
    whole.config.eos_token = tgt.pieces[tgt.eos_id]
    whole.config.add_source_eos = True
    return whole


def _shape(
    options: Options,
) -> dict[str, Any]:
    """Returns the options in CTranslate2's words."""
    activations = package().specs.common_spec.Activation
    is_rotary = options.positions == "rotary"
    return {
        "num_layers": options.num_layers,
        "num_heads": options.num_heads,
        "pre_norm": options.norm_position == "pre",
        "activation": getattr(activations, _ACTIVATIONS[options.activation]),
        "ffn_glu": options.activation == "swiglu",
        "rms_norm": options.norm == "rmsnorm",
        # 0 stands for the whole width of a head; the two halves turn, as ours do.
        "rotary_dim": 0 if is_rotary else None,
        "rotary_interleave": False,
    }


def _position_table(
    weights: Mapping[str, torch.Tensor],
    side: str,
    options: Options,
    count: int,
) -> torch.Tensor | None:
    """Returns what is added at each position [P, D], or None for rotary positions.

    CTranslate2's own sinusoids count from 1, so ours go along as a table.
    """
    if options.positions == "rotary":
        return None
    if options.positions == "learned":
        # They are scaled as the embeddings are.
        return weights[f"{side}.input.learned.weight"] * math.sqrt(options.hidden_size)
    return layers.sinusoids(torch.arange(count), options.hidden_size, torch.float32)


def _set_layer(
    spec: Any,
    weights: Mapping[str, torch.Tensor],
    place: str,
    options: Options,
) -> None:
    """Fills in one layer; CTranslate2 keeps the normalisation of a block in the block."""
    own = f"{place}.self_attention"
    _set_norm(spec.self_attention.layer_norm, weights, f"{own}.block.norm")
    _set_linear(spec.self_attention.linear[0], weights, f"{own}.projection")
    _set_linear(spec.self_attention.linear[1], weights, f"{own}.heads.output")
    cross = f"{place}.cross_attention"
    if f"{cross}.query.weight" in weights:
        _set_norm(spec.attention.layer_norm, weights, f"{cross}.block.norm")
        _set_linear(spec.attention.linear[0], weights, f"{cross}.query")
        _set_linear(spec.attention.linear[1], weights, f"{cross}.key", f"{cross}.value")
        _set_linear(spec.attention.linear[2], weights, f"{cross}.heads.output")
    feed = f"{place}.feed_forward"
    _set_norm(spec.ffn.layer_norm, weights, f"{feed}.block.norm")
    _set_linear(spec.ffn.linear_1, weights, f"{feed}.outer")
    if options.activation != "swiglu":
        _set_linear(spec.ffn.linear_0, weights, f"{feed}.inner")
        return
    # Ours is one layer, the gate first.
    for kind in ("weight", "bias"):
        gate, inner = weights[f"{feed}.inner.{kind}"].chunk(2)
        setattr(spec.ffn.linear_0, kind, gate.contiguous().numpy())
        setattr(spec.ffn.linear_0_noact, kind, inner.contiguous().numpy())


def _set_norm(spec: Any, weights: Mapping[str, torch.Tensor], name: str) -> None:
    spec.gamma = weights[f"{name}.weight"].numpy()
    if f"{name}.bias" in weights:
        spec.beta = weights[f"{name}.bias"].numpy()


def _set_linear(spec: Any, weights: Mapping[str, torch.Tensor], *names: str) -> None:
    """Fills in a layer that does the work of one or several of ours, one below the other."""
    spec.weight = torch.cat([weights[f"{name}.weight"] for name in names]).numpy()
    spec.bias = torch.cat([weights[f"{name}.bias"] for name in names]).numpy()
