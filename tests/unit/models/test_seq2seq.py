"""The whole model: which weights are shared, and that it is the sum of its parts."""

from typing import Any

import pytest
import torch

from nmt import errors
from nmt.config import schema
from nmt.models import seq2seq

NARROW = {"type": "rnn", "embedding_size": 6, "hidden_size": 8}
WIDE = NARROW | {"embedding_size": 10}


def _build(
    tie: str, *, src: Any = NARROW, tgt: Any = NARROW, sizes: tuple[int, int] = (9, 9), shared: bool
) -> seq2seq.Seq2Seq:
    config = schema.ModelConfig.model_validate(
        {"encoder": src, "decoder": tgt, "tie_embeddings": tie}
    )
    return seq2seq.build(config, *sizes, shared=shared)


def _shared(model: seq2seq.Seq2Seq) -> tuple[bool, bool]:
    """Whether the output layer, and the source embedding, are the target embedding."""
    target = model.tgt_embedding.weight
    return model.output.weight is target, model.src_embedding.weight is target


@pytest.mark.parametrize(
    ("tie", "shared", "tgt", "expected"),
    [
        ("none", True, NARROW, (False, False)),
        ("decoder", True, NARROW, (True, False)),
        ("all", True, NARROW, (True, True)),
        ("auto", True, NARROW, (True, True)),
        ("auto", False, NARROW, (True, False)),  # two vocabularies
        ("auto", True, WIDE, (True, False)),  # two widths
        ("none", False, WIDE, (False, False)),
        ("decoder", False, WIDE, (True, False)),
    ],
)
def test_embeddings_are_tied_as_asked_and_auto_ties_what_it_can(tie, shared, tgt, expected):
    assert _shared(_build(tie, tgt=tgt, shared=shared)) == expected


def test_tied_weights_are_counted_once():
    counts = {tie: _build(tie, shared=True).num_parameters() for tie in ("none", "decoder", "all")}
    table = 9 * 6
    assert counts["none"] - counts["decoder"] == counts["decoder"] - counts["all"] == table


def test_tied_weights_stay_tied_when_moved_and_learn_as_one():
    model = _build("all", shared=True).double()
    assert _shared(model) == (True, True)
    ids = torch.tensor([[4, 2]])
    states, _ = model(ids, torch.ones_like(ids, dtype=torch.bool), torch.tensor([[1, 5]]))
    model.logits(states).sum().backward()
    gradient = model.tgt_embedding.weight.grad
    assert gradient is not None
    assert (gradient.abs().sum(1) > 0).all()  # every row, through the output layer


@pytest.mark.parametrize(
    ("tgt", "shared", "words"),
    [
        (WIDE, True, "widths 6 and 10, one vocabulary"),
        (NARROW, False, "widths 6 and 6, two vocabularies"),
        (WIDE, False, "widths 6 and 10, two vocabularies"),
    ],
)
def test_all_cannot_tie_two_widths_or_two_vocabularies(tgt, shared, words):
    with pytest.raises(errors.ConfigError, match=rf"^model\.tie_embeddings: all .*{words}"):
        _build("all", tgt=tgt, shared=shared)


@pytest.mark.parametrize("tie", ["none", "decoder"])
def test_tables_have_the_size_of_their_vocabulary_and_variance_one_over_width(tie):
    torch.manual_seed(0)
    wide = WIDE | {"embedding_size": 64}
    model = _build(tie, src=wide, tgt=wide, sizes=(500, 700), shared=False)
    for table, rows in (
        (model.src_embedding, 500),
        (model.tgt_embedding, 700),
        (model.output, 700),
    ):
        assert table.weight.shape == (rows, 64)
        assert float(table.weight.detach().std()) == pytest.approx(1 / 8, rel=0.02)
    assert model.output.bias is None


def test_teacher_forcing_is_encoding_then_decoding(variant, build_model, make_sources):
    model, sources = build_model(variant), make_sources([4, 2])
    target = torch.tensor([[1, 5, 6], [1, 7, 4]])
    states, attention = model(sources.ids, sources.mask, target, with_attention=True)
    memory = model.encoder.encode(model.src_embedding(sources.ids), sources.mask)
    expected, weights = model.decoder.decode(
        model.tgt_embedding(target), memory, with_attention=True
    )
    assert torch.equal(states, expected)
    assert (attention is None) == (weights is None) == (not model.attends)
    assert model(sources.ids, sources.mask, target)[1] is None


def test_logits_of_a_shortlist_are_columns_of_all_logits(build_model, family, normal):
    model = build_model(family)
    states = normal(3, 2, 12)
    logits = model.logits(states)
    torch.testing.assert_close(logits, states @ model.output.weight.T)
    chosen = torch.tensor([7, 2, 2])
    torch.testing.assert_close(model.logits(states, chosen), logits[..., chosen])


def test_limits_of_length_are_those_of_the_two_sides():
    cnn, learned = {"type": "cnn", "max_positions": 30}, {"positions": "learned"}
    config = schema.ModelConfig.model_validate(
        {"encoder": cnn, "decoder": {"type": "transformer", "max_positions": 50} | learned}
    )
    model = seq2seq.build(config, 9, 9, shared=False)
    assert (model.max_src_positions, model.max_tgt_positions) == (30, 50)
    limitless = _build("none", shared=False)
    assert limitless.max_src_positions is limitless.max_tgt_positions is None


def test_the_defaults_make_a_model_of_every_pair_of_families():
    for encoder in ("rnn", "cnn", "transformer"):
        for decoder in ("rnn", "cnn", "transformer"):
            config = schema.ModelConfig.model_validate(
                {"encoder": {"type": encoder}, "decoder": {"type": decoder}}
            )
            assert seq2seq.build(config, 8, 8, shared=True).num_parameters() > 1_000_000
