"""The Transformer against torch's own layers, and its options against their formulas."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from nmt.config import families
from nmt.models import base, dropout, fused, layers, products, rows, transformer

LENGTHS = [5, 1, 3]
SIZE, HEADS = 8, 2
PADDING = torch.tensor([[length <= position for position in range(5)] for length in LENGTHS])


def _options(**options: Any) -> dict[str, Any]:
    sizes = {"hidden_size": SIZE, "num_heads": HEADS, "feedforward_size": 12, "num_layers": 1}
    return sizes | options


def _encoder(randomized: Callable[..., Any], **options: Any) -> transformer.TransformerEncoder:
    chosen = families.TransformerEncoderOptions(**_options(**options))
    encoder = transformer.build_encoder(chosen)
    assert isinstance(encoder, transformer.TransformerEncoder)
    return randomized(encoder)


def _decoder(
    randomized: Callable[..., Any], memory_size: int = SIZE, **options: Any
) -> transformer.TransformerDecoder:
    chosen = families.TransformerDecoderOptions(**_options(**options))
    decoder = transformer.build_decoder(chosen, memory_size)
    assert isinstance(decoder, transformer.TransformerDecoder)
    return randomized(decoder)


def _input(embedded: torch.Tensor) -> torch.Tensor:
    """Vaswani et al. 2017, section 3.4 and 3.5."""
    positions = torch.arange(embedded.shape[1])
    return embedded * math.sqrt(SIZE) + layers.sinusoids(positions, SIZE, torch.float64)


def _copy_attention(own: nn.MultiheadAttention, block: Any) -> None:
    if hasattr(block, "projection"):
        weight, bias = block.projection.weight.data, block.projection.bias.data
    else:
        thirds = (block.query, block.key, block.value)
        weight = torch.cat([third.weight.data for third in thirds])
        bias = torch.cat([third.bias.data for third in thirds])
    own.in_proj_weight.data, own.in_proj_bias.data = weight, bias
    own.out_proj.weight.data = block.heads.output.weight.data
    own.out_proj.bias.data = block.heads.output.bias.data


def _copy_linear(own: nn.Module, ours: nn.Module) -> None:
    own.load_state_dict(ours.state_dict())


def _torchs_layer(kind: type[nn.Module], layer: Any, options: dict[str, Any]) -> nn.Module:
    """Returns torch's encoder or decoder layer with the weights of ours."""
    own: Any = kind(
        SIZE,
        HEADS,
        12,
        dropout=0.0,
        activation=options.get("activation", "relu"),
        batch_first=True,
        norm_first=options.get("norm_position", "pre") == "pre",
    ).double()
    _copy_attention(own.self_attn, layer.self_attention)
    norms = [layer.self_attention.block.norm, layer.feed_forward.block.norm]
    if hasattr(layer, "cross_attention"):
        _copy_attention(own.multihead_attn, layer.cross_attention)
        norms.insert(1, layer.cross_attention.block.norm)
    _copy_linear(own.linear1, layer.feed_forward.inner)
    _copy_linear(own.linear2, layer.feed_forward.outer)
    for number, norm in enumerate(norms, start=1):
        _copy_linear(getattr(own, f"norm{number}"), norm)
    return own


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_an_encoder_equals_torchs_own_layers(
    randomized, normal, make_memory, norm_position, activation, num_layers
):
    options = {"norm_position": norm_position, "activation": activation, "num_layers": num_layers}
    encoder = _encoder(randomized, **options)
    embedded, mask = normal(3, 5, SIZE), make_memory(LENGTHS, 1).mask_BS
    memory = encoder.encode(embedded, mask)
    expected = _input(embedded)
    for layer in encoder.layers:
        own = _torchs_layer(nn.TransformerEncoderLayer, layer, options)
        expected = own(expected, src_key_padding_mask=PADDING)
    if norm_position == "pre":
        assert isinstance(encoder.final_norm, nn.LayerNorm)
        expected = F.layer_norm(expected, (SIZE,), *encoder.final_norm.parameters())
    torch.testing.assert_close(memory.states_BSM[mask], expected[mask])
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(memory.pooled_BM[row], expected[row, :length].mean(0))
    assert memory.values_BSM is memory.states_BSM
    assert encoder.max_positions is None


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_padding_is_left_out_on_the_way_to_a_gradient_and_changes_nothing(
    randomized, normal, make_memory, monkeypatch, norm_position, positions
):
    encoder = _encoder(randomized, norm_position=norm_position, positions=positions, num_layers=2)
    mask = make_memory(LENGTHS, 1).mask_BS
    upstream = normal(3, 5, SIZE, seed=5) * mask.unsqueeze(2)
    shapes: list[torch.Size] = []
    encoder.layers.at(1).feed_forward.register_forward_hook(
        lambda _module, _inputs, output: shapes.append(output.shape)
    )
    results = []
    for share in (rows.MIN_PADDING, 1.0):
        monkeypatch.setattr(rows, "MIN_PADDING", share)
        embedded = normal(3, 5, SIZE).requires_grad_()
        memory = encoder.encode(embedded, mask)
        gradients = torch.autograd.grad(
            (memory.states_BSM * upstream).sum() + memory.pooled_BM.sum(),
            [embedded, *encoder.parameters()],
        )
        results.append([memory.states_BSM * mask.unsqueeze(2), memory.pooled_BM, *gradients])
    torch.testing.assert_close(*results)
    with torch.no_grad():
        monkeypatch.undo()
        encoder.encode(normal(3, 5, SIZE), mask)
    assert shapes == [(9, SIZE), (3, 5, SIZE), (3, 5, SIZE)]


@pytest.mark.parametrize(
    ("autoregressive_layer", "positions"),
    [("self_attention", "sinusoidal"), ("self_attention", "rotary"), ("ssru", "sinusoidal")],
)
@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_rows_that_are_filled_up_change_nothing_in_a_decoder(
    randomized, normal, make_memory, monkeypatch, norm_position, autoregressive_layer, positions
):
    decoder = _decoder(
        randomized,
        norm_position=norm_position,
        positions=positions,
        autoregressive_layer=autoregressive_layer,
        num_layers=2,
    )
    memory = make_memory(LENGTHS, SIZE)
    upstream = normal(3, 4, SIZE, seed=5)
    shapes: list[torch.Size] = []
    decoder.layers.at(1).feed_forward.register_forward_hook(
        lambda _module, _inputs, output: shapes.append(output.shape)
    )
    monkeypatch.setattr(products, "STEP", 16)
    results = []
    for fewest in (1, 1000):
        monkeypatch.setattr(rows, "MIN_ROWS", fewest)
        leaves = [normal(3, 4, SIZE), memory.states_BSM, memory.values_BSM]
        leaves = [leaf.clone().requires_grad_() for leaf in leaves]
        read = base.Memory(leaves[1], memory.mask_BS, memory.pooled_BM, leaves[2])
        states, weights = decoder.decode(leaves[0], read, with_attention=True)
        assert weights is not None
        gradients = torch.autograd.grad(
            (states * upstream).sum() + weights.square().sum(), [*leaves, *decoder.parameters()]
        )
        results.append([states, weights, *gradients])
    torch.testing.assert_close(*results)
    filled = (16, SIZE) if autoregressive_layer == "self_attention" else (3, 4, SIZE)
    assert shapes == [filled, (3, 4, SIZE)]


@pytest.mark.parametrize("norm_position", ["pre", "post"])
@torch.no_grad()
def test_a_decoder_equals_torchs_own_layers(randomized, normal, make_memory, norm_position):
    options = {"norm_position": norm_position, "num_layers": 2}
    decoder = _decoder(randomized, **options)
    memory, embedded = make_memory(LENGTHS, SIZE), normal(3, 4, SIZE)
    memory = type(memory)(memory.states_BSM, memory.mask_BS, memory.pooled_BM, memory.states_BSM)
    states, weights = decoder.decode(embedded, memory, with_attention=True)
    expected = _input(embedded)
    for layer in decoder.layers:
        own = _torchs_layer(nn.TransformerDecoderLayer, layer, options)
        before = expected
        expected = own(
            expected,
            memory.states_BSM,
            tgt_mask=torch.ones(4, 4, dtype=torch.bool).triu(1),
            memory_key_padding_mask=PADDING,
        )
    if norm_position == "pre":
        expected = F.layer_norm(expected, (SIZE,), *decoder.final_norm.parameters())
    torch.testing.assert_close(states, expected)
    # The attention handed out is that of the last layer, its mean over the heads.
    queries = _before_cross_attention(own, before)
    _, own_weights = own.multihead_attn(
        queries, memory.states_BSM, memory.states_BSM, key_padding_mask=PADDING
    )
    torch.testing.assert_close(weights, own_weights)


def _before_cross_attention(own: Any, states: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
    if own.norm_first:
        normed = own.norm1(states)
        states = states + own.self_attn(normed, normed, normed, attn_mask=mask)[0]
        return own.norm2(states)
    return own.norm1(states + own.self_attn(states, states, states, attn_mask=mask)[0])


def _norm(kind: str, norm: Any, states: torch.Tensor) -> torch.Tensor:
    if kind == "rmsnorm":
        return states / (states.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight
    return F.layer_norm(states, (states.shape[-1],), norm.weight, norm.bias)


def _plain_encoder(
    encoder: Any, states: torch.Tensor, *, norm: str, rotate: bool = False
) -> torch.Tensor:
    """One pre-norm layer with SwiGLU over one unpadded sentence [S, D], head by head."""
    layer, width = encoder.layers.at(0), SIZE // HEADS
    normed = _norm(norm, layer.self_attention.block.norm, states)
    weight, bias = layer.self_attention.projection.weight, layer.self_attention.projection.bias
    query, key, value = (normed @ weight.T + bias).split(SIZE, dim=-1)
    found = []
    for head in range(HEADS):
        own = slice(head * width, (head + 1) * width)
        q, k = query[:, own], key[:, own]
        if rotate:
            rotation = layers.rotation(torch.arange(len(states)), width, torch.float64)
            q, k = (layers.rotate(x[None, None], rotation)[0, 0] for x in (q, k))
        found.append(torch.softmax(q @ k.T / math.sqrt(width), dim=-1) @ value[:, own])
    output = layer.self_attention.heads.output
    states = states + torch.cat(found, dim=-1) @ output.weight.T + output.bias
    inner, outer = layer.feed_forward.inner, layer.feed_forward.outer
    normed = _norm(norm, layer.feed_forward.block.norm, states)
    gate, linear = (normed @ inner.weight.T + inner.bias).split(12, dim=-1)
    # Shazeer 2020, equation 6: (Swish(x W) * x V) W2, with Swish(x) = x sigmoid(x).
    states = states + (gate * gate.sigmoid() * linear) @ outer.weight.T + outer.bias
    return _norm(norm, encoder.final_norm, states)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@torch.no_grad()
def test_swiglu_and_both_norms_equal_their_formulas(randomized, normal, make_memory, norm):
    encoder = _encoder(randomized, activation="swiglu", norm=norm)
    embedded, mask = normal(3, 5, SIZE), make_memory(LENGTHS, 1).mask_BS
    memory = encoder.encode(embedded, mask)
    for row, length in enumerate(LENGTHS):
        states = _input(embedded[row : row + 1, :length])[0]
        expected = _plain_encoder(encoder, states, norm=norm)
        torch.testing.assert_close(memory.states_BSM[row, :length], expected)


@torch.no_grad()
def test_rotary_positions_turn_queries_and_keys_and_nothing_else(randomized, normal, make_memory):
    encoder = _encoder(randomized, activation="swiglu", positions="rotary")
    embedded, mask = normal(3, 5, SIZE), make_memory(LENGTHS, 1).mask_BS
    memory = encoder.encode(embedded, mask)
    for row, length in enumerate(LENGTHS):
        states = embedded[row, :length] * math.sqrt(SIZE)
        expected = _plain_encoder(encoder, states, norm="layernorm", rotate=True)
        torch.testing.assert_close(memory.states_BSM[row, :length], expected)


@torch.no_grad()
def test_learned_positions_are_scaled_like_words(randomized, normal, make_memory):
    options = {"positions": "learned", "max_positions": 6, "activation": "swiglu"}
    encoder = _encoder(randomized, **options)
    embedded, mask = normal(1, 5, SIZE), torch.ones(1, 5, dtype=torch.bool)
    states = (embedded[0] + encoder.input.learned.weight[:5]) * math.sqrt(SIZE)
    expected = _plain_encoder(encoder, states, norm="layernorm")
    torch.testing.assert_close(encoder.encode(embedded, mask).states_BSM[0], expected)
    assert encoder.max_positions == 6
    assert _decoder(randomized, **options).max_positions == 6
    assert _decoder(randomized).max_positions is None


@pytest.mark.parametrize("phase", ["decode", "step"])
@torch.no_grad()
def test_a_decoder_compares_with_the_states_and_reads_the_values_of_a_wider_memory(
    randomized, normal, make_memory, phase
):
    decoder, memory = _decoder(randomized, memory_size=5), make_memory(LENGTHS, 5)
    embedded = normal(3, 1, SIZE)
    if phase == "decode":
        states = decoder.decode(embedded, memory)[0][:, 0]
    else:
        states = decoder.step(embedded[:, 0], decoder.start(memory))[0]
    layer = decoder.layers.at(0)
    cross, inner, outer = layer.cross_attention, layer.feed_forward.inner, layer.feed_forward.outer
    for row, length in enumerate(LENGTHS):
        # At the first position self-attention reads the position itself.
        before = _input(embedded[row : row + 1])[0]
        normed = _norm("layernorm", layer.self_attention.block.norm, before)
        projection = layer.self_attention.projection
        value = (normed @ projection.weight.T + projection.bias)[:, 2 * SIZE :]
        output = layer.self_attention.heads.output
        before = before + value @ output.weight.T + output.bias
        query = _norm("layernorm", cross.block.norm, before).unsqueeze(1)
        weights = (cross.query, cross.key, cross.value)
        change, _ = F.multi_head_attention_forward(
            query,
            memory.states_BSM[row, :length].unsqueeze(1),
            memory.values_BSM[row, :length].unsqueeze(1),
            SIZE,
            HEADS,
            None,
            torch.cat([linear.bias for linear in weights]),
            None,
            None,
            False,
            0.0,
            cross.heads.output.weight,
            cross.heads.output.bias,
            use_separate_proj_weight=True,
            q_proj_weight=cross.query.weight,
            k_proj_weight=cross.key.weight,
            v_proj_weight=cross.value.weight,
        )
        before = before + change.squeeze(1)
        normed = _norm("layernorm", layer.feed_forward.block.norm, before)
        expected = before + outer(F.relu(inner(normed)))
        expected = _norm("layernorm", decoder.final_norm, expected)[0]
        torch.testing.assert_close(states[row], expected)


def test_attention_is_handed_out_only_where_it_is_wanted(randomized, normal, make_memory):
    decoder, memory = _decoder(randomized), make_memory(LENGTHS, SIZE)
    assert decoder.decode(normal(3, 4, SIZE), memory)[1] is None
    assert decoder.step(normal(3, SIZE), decoder.start(memory))[1] is None
    weights = decoder.step(normal(3, SIZE), decoder.start(memory), with_attention=True)[1]
    assert weights is not None
    assert weights.shape == (3, 5)  # of real source positions, without the block's padding


def test_queries_keys_and_values_start_as_layers_of_their_own():
    torch.manual_seed(0)
    options = families.TransformerEncoderOptions(hidden_size=64, num_layers=1)
    projection = transformer.TransformerEncoder(options).layers.at(0).self_attention.projection
    for third in projection.weight.detach().chunk(3):
        assert float(third.abs().max()) == pytest.approx(math.sqrt(6 / 128), rel=0.01)
    assert projection.bias.abs().max() == 0


@pytest.mark.parametrize("positions", ["sinusoidal", "learned", "rotary"])
def test_a_sublayer_that_changes_nothing_leaves_a_post_norm_layer_a_norm(normal, positions):
    """Section 5.4: LayerNorm(x + Sublayer(x))."""
    options = families.TransformerEncoderOptions(
        **_options(norm_position="post", positions=positions)
    )
    encoder = transformer.TransformerEncoder(options).double().eval()
    layer = encoder.layers.at(0)
    with torch.no_grad():
        for linear in (layer.self_attention.heads.output, layer.feed_forward.outer):
            linear.weight.zero_()
    memory = encoder.encode(normal(1, 4, SIZE), torch.ones(1, 4, dtype=torch.bool))
    assert memory.states_BSM.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(
        memory.states_BSM.var(-1, correction=0), torch.ones(1, 4).double(), rtol=1e-3, atol=1e-3
    )


def test_dropout_falls_on_inputs_blocks_and_attention_in_training_only(
    randomized, normal, make_memory, monkeypatch
):
    shapes = []

    def spy(states, rate, training):
        if training:
            shapes.append((tuple(states.shape), rate))
        return states

    def spy_weights(weights, rate):
        shapes.append((tuple(weights.shape), rate))
        return torch.ones_like(weights)

    monkeypatch.setattr(dropout, "dropout", spy)
    monkeypatch.setattr(dropout, "random_factors", spy_weights)
    encoder = _encoder(randomized, dropout=0.1, attention_dropout=0.2)
    decoder = _decoder(randomized, dropout=0.3, attention_dropout=0.4)
    memory = make_memory(LENGTHS, SIZE)
    embedded, target = normal(3, 5, SIZE), normal(3, 4, SIZE)
    encoder.encode(embedded, memory.mask_BS)
    decoder.decode(target, memory)
    assert shapes == []
    encoder.train().encode(embedded, memory.mask_BS)
    states, weights = (3, 5, SIZE), (3 * HEADS, 5, 16)
    rows, inner = (9, SIZE), (9, 12)  # without padding
    assert shapes == [(states, 0.1), (weights, 0.2), (rows, 0.1), (inner, 0.1), (rows, 0.1)]
    shapes.clear()
    decoder.train().decode(target, memory)
    states, inner = (3, 4, SIZE), (3, 4, 12)
    assert shapes == [
        (states, 0.3),
        ((3 * HEADS, 4, 16), 0.4),
        (states, 0.3),
        ((3 * HEADS, 4, 16), 0.4),
        (states, 0.3),
        (inner, 0.3),
        (states, 0.3),
    ]


def test_dropout_inside_feed_forward_blocks_may_have_a_rate_of_its_own(
    randomized, normal, monkeypatch
):
    rates = []
    monkeypatch.setattr(
        dropout, "dropout", lambda states, rate, training: rates.append(rate) or states
    )
    monkeypatch.setattr(
        fused, "add_dropped", lambda states, change, rate, training: states + change
    )
    for options, inner in (({}, 0.1), ({"activation_dropout": 0.0}, 0.0)):
        rates.clear()
        encoder = _encoder(randomized, dropout=0.1, **options)
        encoder.train().encode(normal(3, 5, SIZE), torch.ones(3, 5).bool())
        assert rates == [0.1, inner]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"num_heads": 3}, "num_heads"),
        ({"hidden_size": 6, "num_heads": 2, "positions": "rotary"}, "num_heads"),
        ({"hidden_size": 7, "num_heads": 1}, "hidden_size"),
    ],
)
def test_widths_that_do_not_fit_are_refused(options, key):
    with pytest.raises(ValueError, match=f"{key}: "):
        families.TransformerEncoderOptions(**_options(**options))
