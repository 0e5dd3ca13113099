"""At the length limit only EOS may follow, so that nearly everything is forbidden."""

import dataclasses

import pytest
import torch

from nmt.models import state as decoder_state
from nmt.search import beam, selection
from nmt.search import settings as search_settings


@pytest.mark.parametrize(("beam_size", "num_tokens", "eos"), [(4, 353, 352), (6, 588, 586)])
def test_forbidden_entries_name_hypotheses_that_exist(beam_size, num_tokens, eos):
    scores = torch.full((1, beam_size, num_tokens), -torch.inf)
    scores[:, :, eos] = torch.arange(float(beam_size))
    _, hypotheses, _ = selection.best(scores, 2 * beam_size)
    assert hypotheses.max() < beam_size


def test_search_ends_at_the_longest_length_where_eos_is_the_last_piece():
    class Stub:
        attends, max_src_positions, max_tgt_positions = False, None, None

        generator = torch.Generator().manual_seed(0)

        def encode(self, src, mask):
            return src

        def start(self, memory):
            return decoder_state.DecoderState(hypothesis={"x": torch.zeros(1, 1)})

        def step(self, tokens, state, *, with_attention=False):
            states = torch.randn(len(tokens), 300, generator=self.generator)
            return states, None, dataclasses.replace(state, position=state.position + 1)

        def logits(self, states, shortlist=None):
            return states

    ids = torch.full((1, 2), 5)
    settings = search_settings.SearchSettings(beam_size=3, max_length=3, min_length=2)
    beam.search(Stub(), ids, ids > 0, settings, beam.SpecialIds(bos=298, eos=299, pad=297))
