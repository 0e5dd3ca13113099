"""Whole models in int8 and bf16: near float32, whatever their family, and steady in company."""

import pytest
import torch

from nmt import errors
from nmt.models import packed, products, quantized, rnn
from nmt.models import state as decoder_state

pytestmark = pytest.mark.skipif(not packed.has_int8(), reason="this torch has no int8 products")
NEAR = 0.03
LENGTHS = [6, 1, 3, 5, 2]


@pytest.fixture
def prepared(build_model, monkeypatch):
    """A function that builds a model in float32, and again in a precision with all layers replaced."""
    monkeypatch.setattr(quantized, "MIN_WEIGHTS", 0)

    def build(variant, precision):
        plain, changed = build_model(variant).float(), build_model(variant).float()
        for model in (plain, changed):
            # Less decided than other tests want them: attention that is sharp doubles what is off.
            for parameter in model.parameters():
                parameter.data.mul_(0.6)
        quantized.prepare(changed, precision)
        return plain, changed

    return build


@torch.no_grad()
def _logits(model, sources, tgt_in, dtype=None):
    with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
        states, _ = model(sources.ids, sources.mask, tgt_in)
        return model.logits(states).float()


def _tgt_in():
    return torch.randint(4, 11, (len(LENGTHS), 7), generator=torch.Generator().manual_seed(1))


def _relative_error(found, expected):
    return float((found - expected).norm() / expected.norm())


def test_logits_in_int8_are_near_those_in_float32(variant, prepared, make_sources):
    plain, changed = prepared(variant, "int8")
    sources = make_sources(LENGTHS)
    expected = _logits(plain, sources, _tgt_in())
    found = _logits(changed, sources, _tgt_in())
    assert not torch.equal(found, expected)
    assert _relative_error(found, expected) < NEAR


def test_logits_in_bf16_are_near_those_in_float32(family, prepared, make_sources):
    plain, changed = prepared(family, "bf16")
    sources = make_sources(LENGTHS)
    expected = _logits(plain, sources, _tgt_in())
    found = _logits(changed, sources, _tgt_in(), torch.bfloat16)
    assert _relative_error(found, expected) < NEAR


@torch.no_grad()
def test_steps_in_int8_equal_teacher_forcing(family, prepared, make_sources):
    _, changed = prepared(family, "int8")
    sources, tgt_in = make_sources(LENGTHS), _tgt_in()
    expected = _logits(changed, sources, tgt_in)
    state = changed.start(changed.encode(sources.ids, sources.mask))
    for position in range(tgt_in.shape[1]):
        states, _, state = changed.step(tgt_in[:, position], state)
        found = changed.logits(states)
        # Sums in another order may turn over the rounding of a number or two, no more.
        assert _relative_error(found, expected[:, position]) < 0.004


def test_a_sentence_in_int8_is_steady_in_company(family, prepared, make_sources):
    """Attention is float32 and sums over padding, so a rounding may turn over; scales may not."""
    _, changed = prepared(family, "int8")
    sources, tgt_in = make_sources(LENGTHS), _tgt_in()
    together = _logits(changed, sources, tgt_in)
    for row in range(len(LENGTHS)):
        ids, mask = sources.alone(row)
        alone = make_sources([LENGTHS[row]])
        alone = type(alone)(ids, mask, [LENGTHS[row]])
        found = _logits(changed, alone, tgt_in[row : row + 1])
        assert _relative_error(found, together[row : row + 1]) < 0.004


@torch.no_grad()
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_cell_in_int8_goes_the_steps_of_the_cell(kind):
    torch.manual_seed(0)
    cell = rnn.Cell(kind, 24, 32)
    parts = 2 if kind == "lstm" else 1
    before = tuple(torch.randn(6, 32).tanh() for _ in range(parts))
    inputs = torch.randn(6, 24)
    for found, expected in zip(
        quantized.Int8Cell(cell).step(inputs, before), cell.step(inputs, before), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.02)


def test_embeddings_stay_as_they_are_though_the_output_layer_was_theirs(build_model):
    options = {"type": "rnn", "embedding_size": 12, "hidden_size": 14}
    model = build_model((options, options)).float()
    model.output.weight = model.tgt_embedding.weight
    before = model.tgt_embedding.weight.clone()
    quantized.prepare(model, "int8")
    assert torch.equal(model.tgt_embedding.weight, before)
    assert model.output.weight.dtype == torch.int8


def test_small_layers_stay_in_float32(build_model, family):
    model = build_model(family).float()
    quantized.prepare(model, "int8")
    replaced = [m for m in model.modules() if isinstance(m, packed.Int8Linear)]
    cells = [m for m in model.modules() if isinstance(m, quantized.Int8Cell)]
    assert len(replaced) == 1 + 2 * len(cells)  # the output layer


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_other_precisions_change_nothing(build_model, family, monkeypatch, precision):
    monkeypatch.setattr(products, "onednn_leads_in_fp32", lambda: False)
    model = build_model(family).float()
    before = list(model.modules())
    quantized.prepare(model, precision)
    assert list(model.modules()) == before


@torch.no_grad()
def test_float32_is_packed_where_that_is_faster_and_stays_what_it_was(
    build_model, family, make_sources, monkeypatch
):
    monkeypatch.setattr(products, "onednn_leads_in_fp32", lambda: True)
    model, sources = build_model(family).float(), make_sources(LENGTHS)
    before, state = _logits(model, sources, _tgt_in()), dict(model.state_dict())
    quantized.prepare(model, "fp32")
    assert not [m for m in model.modules() if isinstance(m, packed.PackedLinear)], "all are small"
    monkeypatch.setattr(quantized, "MIN_WEIGHTS", 0)
    quantized.prepare(model, "fp32")
    assert isinstance(model.output, packed.PackedLinear)
    torch.testing.assert_close(_logits(model, sources, _tgt_in()), before, rtol=1e-4, atol=1e-4)
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)


def test_two_models_do_not_share_what_they_replaced(prepared, make_sources, family):
    plain, _ = prepared(family, "int8")
    sources = make_sources(LENGTHS)
    first = _logits(plain, sources, _tgt_in())
    prepared(family, "int8")
    assert torch.equal(_logits(plain, sources, _tgt_in()), first)


def test_a_torch_without_int8_is_named(build_model, family, monkeypatch):
    monkeypatch.setattr(packed, "has_int8", lambda: False)
    with pytest.raises(errors.UsageError, match=r"^precision: int8 needs .* Take fp32 or bf16"):
        quantized.prepare(build_model(family).float(), "int8")


@torch.no_grad()
def test_a_state_of_an_int8_model_can_be_reordered_and_kept(family, prepared, make_sources):
    _, changed = prepared(family, "int8")
    sources = make_sources(LENGTHS)
    state = changed.start(changed.encode(sources.ids, sources.mask))
    state = decoder_state.expand(state, 2)
    _, _, state = changed.step(torch.full((10,), 1), state)
    kept = decoder_state.keep(state, torch.tensor([3, 0]))
    found, _, _ = changed.step(torch.tensor([5, 6, 7, 8]), kept)
    everything, _, _ = changed.step(torch.tensor([7, 8, 4, 4, 4, 4, 5, 6, 4, 4]), state)
    assert _relative_error(found, everything[[6, 7, 0, 1]]) < 0.004
