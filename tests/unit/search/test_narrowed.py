"""Search over part of the vocabulary: each sentence sees its own part, whatever its company."""

import math

import pytest
import torch

from nmt.models import packed, quantized
from nmt.search import beam, narrowed
from nmt.search import settings as search_settings

IDS = beam.SpecialIds(bos=1, eos=2, pad=3)
LENGTHS = [6, 1, 3, 5, 2]
NUM_TARGETS = 60
SETTINGS = search_settings.SearchSettings(beam_size=3, num_best=3, max_length=8)


class _Masked:
    """The plain way: all scores, with those that a sentence may not use at -inf."""

    def __init__(self, model, allowed):
        self._model, self._allowed = model, allowed
        self.attends, self.max_src_positions = model.attends, None
        self.max_tgt_positions = model.max_tgt_positions
        self.encode, self.start, self.step = model.encode, model.start, model.step

    def logits(self, states, shortlist=None):
        scores = self._model.logits(states).view(len(self._allowed), -1, NUM_TARGETS)
        return scores.masked_fill(~self._allowed[:, None], -math.inf).view(-1, NUM_TARGETS)


def _allowed(num_sentences):
    allowed = torch.rand(num_sentences, NUM_TARGETS, generator=torch.Generator().manual_seed(5))
    allowed = allowed < 0.2
    allowed[:, :4] = True
    return allowed


def _search(model, allowed, ids, mask):
    small = narrowed.Narrowed(model, allowed)
    found = beam.search(small, ids, mask, SETTINGS, IDS)
    return [
        [(small.original(row, one.tokens), one.score) for one in several]
        for row, several in enumerate(found)
    ]


def _plain(model, sources, allowed, monkeypatch):
    monkeypatch.setattr(beam, "COMPACT_SHARE", 2.0)  # its mask does not follow who leaves
    found = beam.search(_Masked(model, allowed), sources.ids, sources.mask, SETTINGS, IDS)
    monkeypatch.undo()
    return [[(one.tokens, one.score) for one in several] for several in found]


def test_a_narrowed_search_is_one_over_all_with_the_rest_forbidden(
    variant, build_model, make_sources, monkeypatch
):
    model, sources = build_model(variant, num_tgt=NUM_TARGETS), make_sources(LENGTHS)
    allowed = _allowed(len(LENGTHS))
    found = _search(model, allowed, sources.ids, sources.mask)
    for ours, theirs in zip(found, _plain(model, sources, allowed, monkeypatch), strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs])


def test_a_sentence_is_translated_alike_alone_and_in_company(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=NUM_TARGETS), make_sources(LENGTHS)
    allowed = _allowed(len(LENGTHS))
    together = _search(model, allowed, sources.ids, sources.mask)
    for row in range(len(LENGTHS)):
        alone = _search(model, allowed[row : row + 1], *sources.alone(row))[0]
        assert [tokens for tokens, _ in together[row]] == [tokens for tokens, _ in alone]
        assert [score for _, score in together[row]] == pytest.approx([s for _, s in alone])
        assert all(allowed[row, token] for tokens, _ in together[row] for token in tokens)


def test_with_everything_allowed_nothing_changes(family, build_model, make_sources):
    model, sources = build_model(family, num_tgt=NUM_TARGETS), make_sources(LENGTHS)
    everything = torch.ones(len(LENGTHS), NUM_TARGETS, dtype=torch.bool)
    expected = beam.search(model, sources.ids, sources.mask, SETTINGS, IDS)
    found = _search(model, everything, sources.ids, sources.mask)
    assert [[tokens for tokens, _ in several] for several in found] == [
        [one.tokens for one in several] for several in expected
    ]


def test_each_set_is_numbered_by_itself_in_whole_vectors():
    allowed = torch.zeros(2, 40, dtype=torch.bool)
    allowed[0, [0, 1, 2, 3, 30]] = True
    allowed[1, [0, 1, 2, 3, *range(9, 22)]] = True
    ids, is_missing = narrowed._numbered(allowed)
    assert ids.shape == is_missing.shape == (2, 32)
    assert ids[0, :5].tolist() == [0, 1, 2, 3, 30]
    assert ids[1, :17].tolist() == [0, 1, 2, 3, *range(9, 22)]
    assert (~is_missing).sum(1).tolist() == [5, 17]
    assert is_missing[0, 5:].all() and is_missing[1, 17:].all()
    assert narrowed._numbered(torch.ones(3, 40, dtype=torch.bool))[0].shape == (3, 48)


@pytest.mark.skipif(not packed.has_int8(), reason="this torch has no int8 products")
def test_int8_is_narrowed_to_its_own_weights(family, build_model, make_sources, monkeypatch):
    """The weights are those of the output layer as they were rounded; states are not rounded again."""
    model = build_model(family, num_tgt=NUM_TARGETS).float()
    quantized.prepare(model, "int8")
    monkeypatch.setattr(packed, "has_packed_bf16", lambda: False)
    sources, allowed = make_sources(LENGTHS), _allowed(len(LENGTHS))
    found = _search(model, allowed, sources.ids, sources.mask)
    layer = model.output
    plain = torch.nn.Linear(layer.weight.shape[1], NUM_TARGETS, bias=False)
    plain.weight.data = layer.weight.float() * layer.scale_O[:, None]
    model.register_module("output", plain)
    for ours, theirs in zip(found, _plain(model, sources, allowed, monkeypatch), strict=True):
        assert [tokens for tokens, _ in ours] == [tokens for tokens, _ in theirs]
