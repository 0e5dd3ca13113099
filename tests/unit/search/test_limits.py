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


class Sure:
    """Is nearly sure of `length` times the same token and then EOS; all else is equally unlikely."""

    attends, max_src_positions, max_tgt_positions = False, None, None

    def __init__(self, length: int) -> None:
        self.length = length

    def encode(self, src, mask):
        return src

    def start(self, memory):
        return decoder_state.DecoderState(hypothesis={"x": torch.zeros(1, 1)})

    def step(self, tokens, state, *, with_attention=False):
        logits = torch.zeros(len(tokens), 20)
        logits[:, 19] += 0.1  # EOS is the likeliest of the unlikely
        logits[:, 19 if state.position == self.length else 7] = 12.0
        return logits, None, dataclasses.replace(state, position=state.position + 1)

    def logits(self, states, shortlist=None):
        return states


@pytest.mark.parametrize("beam_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_sure_model_keeps_its_best_hypothesis_in_a_beam_of_any_width(beam_size, length_penalty):
    """Bad hypotheses that end early are among the best K, since all but one are bad."""
    ids = torch.full((1, 2), 5)
    settings = search_settings.SearchSettings(
        beam_size=beam_size, max_length=20, length_penalty=length_penalty
    )
    special = beam.SpecialIds(bos=17, eos=19, pad=18)
    [[best]] = beam.search(Sure(9), ids, ids > 0, settings, special)
    assert best.tokens[:9] == (7,) * 9
    assert best.log_probability > -0.01
